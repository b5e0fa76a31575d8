"""LAMB: Adam with a learning rate for each layer."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_sharp.optimizers.adam_direction import AdamDirection
from keras_sharp.optimizers.wide import norm, trust_ratio, widen


@keras.saving.register_keras_serializable("keras_sharp")
class LAMB(AdamDirection):
    """Layer-wise adaptive moments, as in its paper: the decay is inside the trust ratio.

    For each tensor `w` with Adam's direction `r`, learning rate `eta` and weight decay `lambda`:

        u = r + lambda w
        w <- w - eta phi(|w|) / |u| u              ratio 1 if phi(|w|) or |u| is 0

    `keras.optimizers.Lamb` decays before the step and outside the ratio. For `w = (3, 4)`,
    `g = (1, -2)`, `eta = lambda = 0.1` it arrives at (2.620, 4.310), this one at (2.546, 4.210).

    Args:
        learning_rate: `eta`.
        beta_1: Decay rate of the mean of gradients, in [0, 1).
        beta_2: Decay rate of the mean of their squares, in [0, 1).
        epsilon: Added to the root of the mean square.
        phi: `(low, high)`, which clip `|w|`. Defaults to None, the identity.
        trust_bounds: `(low, high)`, which clip the ratio. Defaults to None, no bounds.
        adapt_bias_and_norm: Whether biases and normalisation have a trust ratio too. By default
            theirs is 1: they take Adam's steps. See `SelectiveOptimizer` for what they are.
        decay_bias_and_norm: Whether weight decay applies to them too.
        weight_decay: `lambda`. Defaults to None, no decay.
        clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum, ema_overwrite_frequency,
            loss_scale_factor, gradient_accumulation_steps, name: Those of every Keras optimizer.

    Raises:
        ValueError: If an argument is out of range.

    Example:
    ```python
    model.compile(keras_sharp.optimizers.LAMB(2e-3, weight_decay=1e-2), "mse")
    # The clamped variant of large batch simulation:
    LAMB(
        5e-4,
        epsilon=1e-5,
        phi=(0, 10),
        trust_bounds=(0.01, 100),
        decay_bias_and_norm=True,
        weight_decay=1e-2,
    )
    ```

    References:
        - [You et al., 2020](https://arxiv.org/abs/1904.00962), algorithm 2
        - [TensorFlow Addons](https://github.com/tensorflow/addons), `optimizers/lamb.py`, for
          `epsilon` and the weights that are left out
        - [Shacklett et al., 2021](https://arxiv.org/abs/2103.07013), the clamped variant as in
          [its code](https://github.com/shacklettbp/bps-nav), `rl/ppo/lamb.py`
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        phi: Sequence[float] | None = None,
        trust_bounds: Sequence[float] | None = None,
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
        super().__init__(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
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
        self.phi = _bounds("phi", phi)
        self.trust_bounds = _bounds("trust_bounds", trust_bounds)
        self.adapt_bias_and_norm = adapt_bias_and_norm

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Moves one weight by the gradient of all replicas."""
        w, g, rate = widen(variable, gradient, learning_rate)
        step = self.direction(g, variable)
        if decay := self.decay_of(variable):
            step = step + decay * w
        if self.adapt_bias_and_norm or not self.is_bias_or_norm(variable):
            size, length = norm(w), norm(step)
            scale = ops.clip(size, *self.phi) if self.phi else size
            trust = trust_ratio(scale, length)
            if self.trust_bounds:
                trust = ops.clip(trust, *self.trust_bounds)
            rate = rate * trust
        self.assign_sub(variable, rate * step)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the optimizer was made with."""
        own = ("phi", "trust_bounds", "adapt_bias_and_norm")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def _bounds(name: str, bounds: Sequence[float] | None) -> tuple[float, float] | None:
    if bounds is None:
        return None
    if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1]:
        raise ValueError(
            f"`{name}` must be None or (low, high) with 0 <= low <= high. Received: {name}={bounds}"
        )
    return float(bounds[0]), float(bounds[1])
