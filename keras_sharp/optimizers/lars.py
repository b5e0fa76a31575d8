"""LARS: a learning rate for each layer, from the norms of its weights and gradient."""

from typing import Any, Literal, get_args

import keras
import tensorflow as tf
from keras import ops

from keras_sharp.optimizers.selective import SelectiveOptimizer, check_range
from keras_sharp.optimizers.wide import norm, trust_ratio, widen

Rule = Literal["classic", "paper", "gradient", "momentum", "legw"]

# Of the rule "legw", from its code's `clip` calls.
_LARGEST_TRUST, _LARGEST_ENTRY = 50.0, 10.0


@keras.saving.register_keras_serializable("keras_sharp")
class LARS(SelectiveOptimizer):
    """Layer-wise adaptive rate scaling.

    For each tensor `w` with gradient `g`, learning rate `eta`, weight decay `lambda` and momentum
    `mu`, with `d = g + lambda w`:

        trust = trust_coefficient |w| / |d|        1 if one of the norms is 0
        v <- mu v + eta trust d
        w <- w - v

    Several rules bear this name. `rule` chooses among them:

    - `"classic"`: the one above, of TensorFlow's model garden.
    - `"paper"`: as above with `|g| + lambda |w|` in place of `|d|`.
    - `"gradient"`: as above with `|g|` in place of `|d|`.
    - `"momentum"`: `v <- mu v + d; w <- w - eta trust v` with `|v|` in place of `|d|`, the model
      garden's `classic_momentum=False`.
    - `"legw"`: `v <- mu v + d; w <- w - eta trust v` with `|g| + lambda |w|` in place of `|d|`, the
      trust at most 50 and the entries of `d` within +-10, as LARS was used with LEGW. Its code has
      `epsilon=1e-5` up to a batch of 16384.

    Args:
        learning_rate: `eta`.
        momentum: `mu`, in [0, 1).
        nesterov: Whether a step looks ahead: by `mu v` and the new term of `v` instead of `v`.
        trust_coefficient: The trust in a layer's own rate. 0.001 is the original's.
        epsilon: Added to the denominator of the trust ratio.
        rule: One of the rules above.
        adapt_bias_and_norm: Whether biases and normalisation have a trust ratio too. By default
            theirs is 1: they take steps of momentum SGD. See `SelectiveOptimizer` for what they
            are.
        decay_bias_and_norm: Whether weight decay applies to them too.
        weight_decay: `lambda`, inside the trust ratio. Defaults to None, no decay.
        clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum, ema_overwrite_frequency,
            loss_scale_factor, gradient_accumulation_steps, name: Those of every Keras optimizer.

    Raises:
        ValueError: If an argument is out of range.

    Note:
        The first three rules keep the learning rate inside `v`, so a step after the rate dropped
        still has the length of the old rate. The last two don't. With `"legw"` the trust is that of
        the last gradient alone: where it almost vanishes, the trust grows and lengthens an old `v`,
        which can throw a small deterministic problem far off.

    Example:
    ```python
    model.compile(keras_sharp.optimizers.LARS(4.0, weight_decay=1e-4), "mse")
    ```

    References:
        - [You et al., 2017](https://arxiv.org/abs/1708.03888)
        - [TensorFlow model garden](https://github.com/tensorflow/models), `optimization/lars.py`
        - [You et al., 2019](https://arxiv.org/abs/1901.08256), the rule "legw" as in
          [its group's code](https://github.com/NUS-HPC-AI-Lab/LARS-ImageNet-PyTorch)
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1.0,
        momentum: float = 0.9,
        nesterov: bool = False,
        trust_coefficient: float = 0.001,
        epsilon: float = 0.0,
        rule: Rule = "classic",
        adapt_bias_and_norm: bool = False,
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
        check_range(0, float("inf"), epsilon=epsilon)
        if not 0 < trust_coefficient < float("inf"):
            raise ValueError(
                "`trust_coefficient` must be positive and finite. "
                f"Received: trust_coefficient={trust_coefficient}"
            )
        if rule not in get_args(Rule):
            raise ValueError(f"`rule` must be one of {get_args(Rule)}. Received: rule={rule!r}")
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
        self.trust_coefficient = trust_coefficient
        self.epsilon = epsilon
        self.rule = rule
        self.adapt_bias_and_norm = adapt_bias_and_norm

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
        decay = self.decay_of(variable)
        direction = g + decay * w if decay else g
        if self.rule == "legw":
            direction = ops.clip(direction, -_LARGEST_ENTRY, _LARGEST_ENTRY)
        rate_outside = self.rule in ("momentum", "legw")
        if not rate_outside:
            direction = direction * (rate * self._trust(variable, w, g, direction, decay))
        velocity = self.momentum * velocity + direction
        self.assign(slot, velocity)
        step = self.momentum * velocity + direction if self.nesterov else velocity
        if rate_outside:
            step = step * (rate * self._trust(variable, w, g, step, decay))
        self.assign_sub(variable, step)

    def _trust(
        self, variable: Any, w: tf.Tensor, g: tf.Tensor, direction: tf.Tensor, decay: float
    ) -> tf.Tensor | float:
        if self.is_bias_or_norm(variable) and not self.adapt_bias_and_norm:
            return 1.0
        whole = self.rule in ("classic", "momentum")
        size, more = norm(w), self.epsilon
        if self.rule in ("paper", "legw"):
            more = more + decay * size
        trust = trust_ratio(self.trust_coefficient * size, norm(direction if whole else g), more)
        return ops.minimum(trust, _LARGEST_TRUST) if self.rule == "legw" else trust

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the optimizer was made with."""
        own = ("momentum", "nesterov", "trust_coefficient", "epsilon", "rule")
        own += ("adapt_bias_and_norm",)
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}
