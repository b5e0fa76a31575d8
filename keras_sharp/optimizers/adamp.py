"""AdamP: Adam that does not lengthen weights whose length does not matter."""

from typing import Any

import keras

from keras_sharp.optimizers.adam_direction import AdamDirection
from keras_sharp.optimizers.projection import channel_axes, project
from keras_sharp.optimizers.selective import check_range
from keras_sharp.optimizers.wide import widen


@keras.saving.register_keras_serializable("keras_sharp")
class AdamP(AdamDirection):
    """Adam with projection, for weights in front of a normalisation.

    For each tensor `w` with Adam's direction `p`, learning rate `eta` and weight decay `lambda`:

        p, ratio <- projection of p, wd_ratio      where the gradient is orthogonal to w
                    p, 1                           elsewhere
        w <- (1 - eta lambda ratio) w - eta p

    The projection is the one of `keras_sharp.optimizers.projection.project`. A channel is what the
    last axis of a Keras kernel counts; of depthwise kernels the last two, if the name of their
    layer says that they are (see `channel_axes` there). Biases and normalisation (see
    `SelectiveOptimizer`) are not projected.

    Args:
        learning_rate: `eta`.
        beta_1: Decay rate of the mean of gradients, in [0, 1).
        beta_2: Decay rate of the mean of their squares, in [0, 1).
        epsilon: Added to the root of the mean square, and to the norms of the projection.
        delta: Weights are projected if the largest cosine is less than `delta / sqrt(dim)`.
        wd_ratio: What is left of the decay of projected weights.
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
    model.compile(keras_sharp.optimizers.AdamP(1e-3, weight_decay=1e-2), "mse")
    ```

    References:
        - [Heo et al., 2021](https://arxiv.org/abs/2006.08217), algorithm 2
        - [Authors' code](https://github.com/clovaai/AdamP)
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
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
        check_range(0, float("inf"), delta=delta, wd_ratio=wd_ratio)
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
        self.delta = delta
        self.wd_ratio = wd_ratio

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Moves one weight by the gradient of all replicas."""
        w, g, rate = widen(variable, gradient, learning_rate)
        step, decay = self.direction(g, variable), self.decay_of(variable)
        if not self.is_bias_or_norm(variable):
            channels = channel_axes(self.own(variable))
            step = project(step, w, g, channels, decay, self.delta, self.wd_ratio, self.epsilon)
        elif decay:
            step = step + decay * w
        self.assign_sub(variable, rate * step)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the optimizer was made with."""
        return {**super().get_config(), "delta": self.delta, "wd_ratio": self.wd_ratio}
