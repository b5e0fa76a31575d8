"""SGDP: momentum SGD that does not lengthen weights whose length does not matter."""

from typing import Any

import keras

from keras_sharp.optimizers.projection import channel_axes, project
from keras_sharp.optimizers.selective import SelectiveOptimizer, check_range
from keras_sharp.optimizers.wide import widen


@keras.saving.register_keras_serializable("keras_sharp")
class SGDP(SelectiveOptimizer):
    """Momentum SGD with projection, for weights in front of a normalisation.

    For each tensor `w` with gradient `g`, learning rate `eta`, momentum `mu` and weight decay
    `lambda`:

        v <- mu v + g
        p, ratio <- projection of v, wd_ratio      where the gradient is orthogonal to w
                    v, 1                           elsewhere
        w <- (1 - eta lambda ratio / (1 - mu)) w - eta p

    The projection is the one of `keras_sharp.optimizers.projection.project`. A channel is what the
    last axis of a Keras kernel counts; of depthwise kernels the last two, if the name of their
    layer says that they are (see `channel_axes` there). Biases and normalisation (see
    `SelectiveOptimizer`) are not projected. `v` does not hold the learning rate.

    Args:
        learning_rate: `eta`.
        momentum: `mu`, in [0, 1).
        nesterov: Whether `mu v + g` is projected instead of `v`.
        delta: Weights are projected if the largest cosine is less than `delta / sqrt(dim)`.
        wd_ratio: What is left of the decay of projected weights.
        epsilon: Added to the norms of the projection.
        decay_bias_and_norm: Whether weight decay applies to biases and normalisation too.
        weight_decay: `lambda`. Defaults to None, no decay.
        clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum, ema_overwrite_frequency,
            loss_scale_factor, gradient_accumulation_steps, name: Those of every Keras optimizer.

    Raises:
        ValueError: If an argument is out of range.

    Note:
        The authors' code decays biases and normalisation; so does `decay_bias_and_norm=True`.

    Example:
    ```python
    model.compile(keras_sharp.optimizers.SGDP(0.1, momentum=0.9, weight_decay=1e-5), "mse")
    ```

    References:
        - [Heo et al., 2021](https://arxiv.org/abs/2006.08217), algorithm 1
        - [Authors' code](https://github.com/clovaai/AdamP)
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.01,
        momentum: float = 0.9,
        nesterov: bool = False,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        epsilon: float = 1e-8,
        decay_bias_and_norm: bool = False,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
    ):
        check_range(0, 1, momentum=momentum)
        check_range(0, float("inf"), delta=delta, wd_ratio=wd_ratio, epsilon=epsilon)
        super().__init__(
            learning_rate,
            decay_bias_and_norm,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
        )
        self.momentum = momentum
        self.nesterov = nesterov
        self.delta = delta
        self.wd_ratio = wd_ratio
        self.epsilon = epsilon

    def build(self, variables: list) -> None:
        """Creates a velocity for each weight."""
        if self.built:
            return
        super().build(variables)
        self._velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Moves one weight by the gradient of all replicas."""
        slot = self._velocities[self._get_variable_index(variable)]
        w, g, velocity, rate = widen(variable, gradient, slot, learning_rate)
        velocity = self.momentum * velocity + g
        self.assign(slot, velocity)
        step = self.momentum * velocity + g if self.nesterov else velocity
        decay = self.decay_of(variable) / (1 - self.momentum)
        if not self.is_bias_or_norm(variable):
            channels = channel_axes(self.own(variable))
            step = project(step, w, g, channels, decay, self.delta, self.wd_ratio, self.epsilon)
        elif decay:
            step = step + decay * w
        self.assign_sub(variable, rate * step)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the optimizer was made with."""
        own = ("momentum", "nesterov", "delta", "wd_ratio", "epsilon")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}
