"""The learning rate of AutoWU: a warm-up of a length nobody knows yet, then a decay."""

import math
import numbers
from typing import Any, Literal, get_args

import keras
from keras import ops

Growth = Literal["exponential", "linear"]
Decay = Literal["cosine", "constant"]


@keras.saving.register_keras_serializable("keras_sharp")
class AutoWURate(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises until it is told to decay, or the warm-up reaches its cap.

    The training has `T = epochs * steps_per_epoch` steps, counted by `t` from 0, of which at most
    the first `T_w = floor(warmup_share * T)` are warm-up. There the rate is

        r(t) = first * (last / first)^(t / T_w)        with growth="exponential"
        r(t) = first + (last - first) * t / T_w        with growth="linear"

    with `first = initial_learning_rate` and `last = maximal_learning_rate`. `keras_sharp.callbacks.
    AutoWU` ends it by `decay_from(d, peak)`: step `d` is the first of the decay. If nobody does,
    `d = T_w` and `peak = r(T_w - 1)`. From there on the rate is

        peak * (1 + cos(pi (t - c + 1) / (T - c))) / 2

    with `c = d` for `decay="cosine"`; for `decay="constant"` it is `peak` first, and the cosine
    comes at the end, with `c = ceil((1 - cooldown_share) T)`. The last step has rate 0.

    What is decided lies in variables: the rate changes inside a graph that was traced before. It is
    part of the configuration, so a saved model goes on with the rate it had.

    Args:
        epochs: Length of the training.
        steps_per_epoch: Steps of an epoch, a short last batch included.
        initial_learning_rate: Rate of the first step.
        maximal_learning_rate: What the rate would reach at the cap.
        warmup_share: The cap, as a share of all steps.
        growth: How the rate rises.
        decay: `"cosine"`, or `"constant"` for a constant rate with a cosine at the end.
        cooldown_share: Length of that cosine, as a share of all steps.
        decay_start: `d`, once it is known.
        peak: The rate the decay begins with, once it is known.

    Attributes:
        total_steps: `T`.
        warmup_steps: `T_w`.

    Raises:
        ValueError: If an argument is out of range, or warm-up and cool-down together take more than
            the training.

    Example:
    ```python
    rate = AutoWURate(epochs=120, steps_per_epoch=40)
    trainer = Trainer(model, AdamP(rate, weight_decay=0.1), loss)
    trainer.fit(data, batch_size=8192, epochs=120, callbacks=[AutoWU(rate)])
    ```

    References:
        - [Kim et al., 2021](https://arxiv.org/abs/2107.05855)
        - [Its authors' code](https://github.com/kakaobrain/autowu)
    """

    def __init__(
        self,
        epochs: int,
        steps_per_epoch: int,
        initial_learning_rate: float = 1e-5,
        maximal_learning_rate: float = 1.0,
        warmup_share: float = 0.5,
        growth: Growth = "exponential",
        decay: Decay = "cosine",
        cooldown_share: float = 0.2,
        decay_start: int | None = None,
        peak: float | None = None,
    ):
        for name, value in (("epochs", epochs), ("steps_per_epoch", steps_per_epoch)):
            if not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(
                    f"`{name}` must be an integer of at least 1. Received: {name}={value}"
                )
        if not 0 < initial_learning_rate <= maximal_learning_rate < math.inf:
            raise ValueError(
                "The rate must rise, from more than 0. Received: initial_learning_rate="
                f"{initial_learning_rate}, maximal_learning_rate={maximal_learning_rate}"
            )
        for name, value in (("warmup_share", warmup_share), ("cooldown_share", cooldown_share)):
            if not 0 < value <= 1:
                raise ValueError(f"`{name}` must be in (0, 1]. Received: {name}={value}")
        for name, value, allowed in (("growth", growth, Growth), ("decay", decay, Decay)):
            if value not in get_args(allowed):
                raise ValueError(
                    f"`{name}` must be one of {get_args(allowed)}. Received: {name}={value!r}"
                )
        if (decay_start is None) != (peak is None):
            raise ValueError(
                "`decay_start` and `peak` must be given together. "
                f"Received: decay_start={decay_start}, peak={peak}"
            )
        self.epochs = int(epochs)
        self.steps_per_epoch = int(steps_per_epoch)
        self.initial_learning_rate = initial_learning_rate
        self.maximal_learning_rate = maximal_learning_rate
        self.warmup_share = warmup_share
        self.growth = growth
        self.decay = decay
        self.cooldown_share = cooldown_share
        self.total_steps = self.epochs * self.steps_per_epoch
        self.warmup_steps = math.floor(warmup_share * self.total_steps)
        self._cooldown_start = math.ceil((1 - cooldown_share) * self.total_steps)
        if self.warmup_steps == 0:
            raise ValueError(
                "The warm-up must have at least one step. Received: "
                f"warmup_share={warmup_share} of {self.total_steps} steps"
            )
        if decay == "constant" and self.warmup_steps > self._cooldown_start:
            raise ValueError(
                "`warmup_share` and `cooldown_share` must not add up to more than 1. Received: "
                f"warmup_share={warmup_share}, cooldown_share={cooldown_share}"
            )
        self._start = keras.Variable(0.0, dtype="float64", trainable=False, name="decay_start")
        self._peak = keras.Variable(0.0, dtype="float64", trainable=False, name="peak")
        self.set_state({"decay_start": decay_start, "peak": peak})

    @property
    def decay_start(self) -> int | None:
        """The first step of the decay; None before `decay_from`."""
        return self._decided[0]

    @property
    def peak(self) -> float | None:
        """The rate the decay begins with; None before `decay_from`."""
        return self._decided[1]

    def decay_from(self, step: int, peak: float) -> None:
        """Ends the warm-up.

        Args:
            step: The first step of the decay, counted from 0.
            peak: The rate to decay from.

        Raises:
            ValueError: If the warm-up would be longer than its cap, or `peak` is not positive.
        """
        if not 0 <= step <= self.warmup_steps:
            raise ValueError(
                f"`step` must be between 0 and the cap of the warm-up, {self.warmup_steps}. "
                f"Received: step={step}"
            )
        if not 0 < peak < math.inf:
            raise ValueError(f"`peak` must be positive and finite. Received: peak={peak}")
        self._decided = int(step), float(peak)
        self._start.assign(step)
        self._peak.assign(peak)

    def rising(self, step: Any) -> Any:
        """Returns the rate of a step of the warm-up, `r(step)` float64; it need not be whole."""
        done = ops.cast(step, "float64") / self.warmup_steps
        first, last = self.initial_learning_rate, self.maximal_learning_rate
        if self.growth == "linear":
            return first + (last - first) * done
        return first * ops.exp(math.log(last / first) * done)

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of a step, a scalar."""
        step = ops.cast(step, "float64")
        start = ops.convert_to_tensor(self._start)
        begin = start if self.decay == "cosine" else self._cooldown_start
        length = ops.maximum(self.total_steps - begin, 1)
        done = ops.clip((step - begin + 1) / ops.cast(length, "float64"), 0.0, 1.0)
        falling = self._peak * (1 + ops.cos(math.pi * done)) / 2
        rate = ops.where(step < start, self.rising(step), falling)
        return ops.cast(rate, keras.config.floatx())

    def get_state(self) -> dict[str, Any]:
        """Returns what was decided, for a checkpoint."""
        return {"decay_start": self.decay_start, "peak": self.peak}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `get_state` returned."""
        if state["decay_start"] is None:
            self._decided = None, None
            self._start.assign(self.warmup_steps)
            self._peak.assign(self.rising(self.warmup_steps - 1))
        else:
            self.decay_from(state["decay_start"], state["peak"])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the schedule was made with, and what was decided since."""
        return {
            "epochs": self.epochs,
            "steps_per_epoch": self.steps_per_epoch,
            "initial_learning_rate": self.initial_learning_rate,
            "maximal_learning_rate": self.maximal_learning_rate,
            "warmup_share": self.warmup_share,
            "growth": self.growth,
            "decay": self.decay,
            "cooldown_share": self.cooldown_share,
            **self.get_state(),
        }
