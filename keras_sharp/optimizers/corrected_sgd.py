"""SGD whose momentum does not remember old learning rates."""

from typing import Any

import keras

from keras_sharp.optimizers.wide import widen


@keras.saving.register_keras_serializable("keras_sharp")
class CorrectedSGD(keras.optimizers.SGD):
    """SGD with momentum correction, a drop-in for `keras.optimizers.SGD`.

    Keras keeps the learning rate inside the velocity, `v <- mu v - eta g; w <- w + v`. When a
    schedule changes the rate from `eta` to `eta'`, the velocity must be multiplied by `eta' / eta`,
    or it goes on with steps of the old size: a unit gradient at rate 1 and then none at rate 0.1
    move the weight by -1.9 (momentum 0.9) instead of -1.09. The same is, without a quotient that a
    warm-up from rate 0 would break,

        u <- mu u + g
        w <- w - eta u                  with `nesterov`: w <- w - eta (mu u + g)

    At a constant rate it takes the steps of Keras's SGD, also in weight decay, which like there is
    `w <- w - eta lambda w` before the step for all weights that `exclude_from_weight_decay` does
    not name.

    Args: Those of `keras.optimizers.SGD`.

    Example:
    ```python
    decay = keras.optimizers.schedules.PiecewiseConstantDecay([1000], [0.1, 0.01])
    model.compile(keras_sharp.optimizers.CorrectedSGD(decay, momentum=0.9), "mse")
    ```

    References:
        - [Goyal et al., 2017](https://arxiv.org/abs/1706.02677), section 3
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Moves one weight by the gradient of all replicas."""
        if not self.momentum:
            super().update_step(gradient, variable, learning_rate)
            return
        slot = self.momentums[self._get_variable_index(variable)]
        g, momentum, rate = widen(variable, gradient, slot, learning_rate)[1:]
        momentum = self.momentum * momentum + g
        self.assign(slot, momentum)
        step = self.momentum * momentum + g if self.nesterov else momentum
        self.assign_sub(variable, rate * step)
