"""SNGM: momentum on gradients of length one."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_sharp.optimizers.selective import SelectiveOptimizer, check_range
from keras_sharp.optimizers.wide import norm, widen

# Keeps a gradient of zeros one.
_SMALLEST_NORM = 1e-12


@keras.saving.register_keras_serializable("keras_sharp")
class SNGM(SelectiveOptimizer):
    """Stochastic normalized gradient descent with momentum.

    With `w` all trainable weights as one vector, their gradient `g` over the global batch, learning
    rate `eta` and momentum `beta`:

        u <- beta u + g / |g|
        w <- w - eta u

    No step is longer than `eta / (1 - beta)`, and the units of the loss don't matter. Learning
    rates of other optimizers don't carry over: choose `eta` on a logarithmic grid.

    The norm is that of the gradient of all replicas together, in `fit` under a strategy too, and so
    is what clipping sees. A step whose gradient is not finite is left out, and counted in
    `skipped_steps`; `keras_sharp.training.Trainer` warns of it.

    Args:
        learning_rate: `eta`.
        momentum: `beta`, in [0, 1).
        per_tensor: Whether each tensor of weights is divided by the norm of its own gradient, for
            comparison.
        decoupled_weight_decay: Whether the decay is `w <- w - eta lambda w` beside the step. By
            default `lambda w` is added to the gradient, and takes part in the norm: the more, the
            smaller the gradient of the loss has become.
        decay_bias_and_norm: Whether weight decay applies to biases and normalisation too; see
            `SelectiveOptimizer`.
        weight_decay: `lambda`. Defaults to None, no decay.
        clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum, ema_overwrite_frequency,
            loss_scale_factor, gradient_accumulation_steps, name: Those of every Keras optimizer.

    Attributes:
        skipped_steps: Scalar variable, how many steps were left out. Exists after `build`.

    Raises:
        ValueError: If an argument is out of range.

    Note:
        The paper's rule has no way out for `g = 0`: here `|g|` is at least 1e-12. How the paper
        decays weights could not be confirmed.

    Example:
    ```python
    model.compile(keras_sharp.optimizers.SNGM(0.1, momentum=0.9), "mse")
    ```

    References:
        - [Zhao et al., 2020](https://arxiv.org/abs/2007.13985)
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.1,
        momentum: float = 0.9,
        per_tensor: bool = False,
        decoupled_weight_decay: bool = False,
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
        self.per_tensor = per_tensor
        self.decoupled_weight_decay = decoupled_weight_decay

    def build(self, variables: list) -> None:
        """Creates a momentum for each weight."""
        if self.built:
            return
        super().build(variables)
        self._momentums = self.add_optimizer_variables(variables, "momentum")
        self.skipped_steps = self.add_variable(
            (), dtype="int", aggregation="only_first_replica", name="skipped_steps"
        )

    def _clip_gradients(self, grads: list) -> list:
        """Does nothing: Keras would clip here, each replica its own part of the gradient."""
        return grads

    def _backend_update_step(
        self, grads: list, trainable_variables: list, learning_rate: Any
    ) -> None:
        # Here, and not in `update_step`, Keras has all gradients at hand. The two calls are its own
        # ways to add them up over replicas and to update every replica.
        variables = [v.value if isinstance(v, keras.Variable) else v for v in trainable_variables]
        pairs = self._all_reduce_sum_gradients(list(zip(grads, variables, strict=True)))
        grads = super()._clip_gradients([gradient for gradient, _ in pairs])
        directions = [self._direction(g, v) for g, v in zip(grads, variables, strict=True)]
        norms = [norm(direction) for direction in directions]
        whole = norm(ops.stack(norms))
        finite = ops.isfinite(whole)
        self.skipped_steps.assign_add(ops.cast(~finite, self.skipped_steps.dtype))
        units = [
            # Unlike a product, 0 where the scale is 0 and the direction is not finite.
            tf.math.multiply_no_nan(d, _inverse(own if self.per_tensor else whole, finite, d.dtype))
            for d, own in zip(directions, norms, strict=True)
        ]
        tf.__internal__.distribute.interim.maybe_merge_call(
            self._update_all, self._distribution_strategy, variables, units, learning_rate, finite
        )

    def _direction(self, gradient: Any, variable: Any) -> tf.Tensor:
        w, g = widen(variable, gradient)
        decay = 0.0 if self.decoupled_weight_decay else self.decay_of(variable)
        return g + decay * w if decay else g

    def _update_all(
        self,
        distribution: tf.distribute.Strategy,
        variables: list,
        units: list,
        learning_rate: Any,
        finite: Any,
    ) -> None:
        for variable, unit in zip(variables, units, strict=True):
            distribution.extended.update(
                variable, self._move, args=(unit, learning_rate, finite), group=False
            )

    def _move(self, variable: Any, unit: tf.Tensor, learning_rate: Any, finite: tf.Tensor) -> None:
        slot = self._momentums[self._get_variable_index(variable)]
        w, momentum, rate = widen(variable, slot, learning_rate)
        beta = ops.where(finite, ops.convert_to_tensor(self.momentum, momentum.dtype), 1.0)
        momentum = beta * momentum + unit
        self.assign(slot, momentum)
        decay = self.decay_of(variable) if self.decoupled_weight_decay else 0.0
        step = momentum + decay * w if decay else momentum
        self.assign_sub(variable, ops.where(finite, rate, 0.0) * step)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the optimizer was made with."""
        own = ("momentum", "per_tensor", "decoupled_weight_decay")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def _inverse(length: tf.Tensor, finite: tf.Tensor, dtype: Any) -> tf.Tensor:
    """Returns `1 / length`, and 0 where a step is left out."""
    scale = ops.where(finite, 1.0 / ops.maximum(length, _SMALLEST_NORM), 0.0)
    return ops.cast(scale, dtype)
