"""A linear warm-up in front of any schedule, with epochs for its unit."""

import math
from typing import Any, Literal, get_args

import keras
from keras import ops
from keras.optimizers import schedules

from keras_sharp.schedules.scaling import Rate, Scaled

Clock = Literal["start", "warmup"]


@keras.saving.register_keras_serializable("keras_sharp")
class WarmUp(schedules.LearningRateSchedule):
    """A learning rate that rises linearly to its peak, then follows a schedule in epochs.

    At step `i`, counted from 0, `e = i / steps_per_epoch` epochs have passed, and the rate is

        first + (peak - first) e / w             while e < w
        schedule(e)                              afterwards, with clock="start"
        schedule((e - w) E / (E - w))            afterwards, with clock="warmup"

    with `first = initial_learning_rate`, `peak = schedule(0)`, `w = warmup_epochs` and
    `E = epochs`. In epochs a schedule is the same at every batch size.

    Args:
        schedule: A number for a constant rate, or a Keras schedule whose steps are epochs:
            `PolynomialDecay(0.1, decay_steps=90)` reaches its end after 90 epochs, and
            `PiecewiseConstantDecay([30, 60], [0.1, 0.01, 0.001])` changes the rate right after the
            first step of epochs 30 and 60, counted from 0.
        warmup_epochs: Length of the rise, in epochs. 0: none.
        epochs: Length of the training.
        steps_per_epoch: Steps of an epoch, a short last batch included.
        initial_learning_rate: Where the rise begins.
        clock: Where the schedule's epoch 0 is: at the `"start"` of the training, which keeps
            milestones where they are, or at the end of the `"warmup"`, from where the schedule is
            squeezed into the epochs left, which keeps its two ends. Defaults to None: `"warmup"`
            for `PolynomialDecay`, `CosineDecay` and what subclasses them, also `Scaled`; `"start"`
            for all else.

    Attributes:
        peak: The rate at the end of the rise.
        warmup_steps: Length of the rise in steps; need not be whole.

    Raises:
        ValueError: If an argument is out of range, or the rise takes all epochs.

    Note:
        The first step has the rate `initial_learning_rate`: with the default 0 it moves nothing.

    Example:
    ```python
    # Linear scaling with a gradual warm-up:
    decay = keras.optimizers.schedules.PiecewiseConstantDecay([30, 60], [0.1, 0.01, 0.001])
    rate = WarmUp(linear_scaling(decay, 8192, 256), 5, 90, steps_per_epoch=157)
    ```

    References:
        - [Goyal et al., 2017](https://arxiv.org/abs/1706.02677), section 2.2
    """

    def __init__(
        self,
        schedule: Rate,
        warmup_epochs: float,
        epochs: float,
        steps_per_epoch: float,
        initial_learning_rate: float = 0.0,
        clock: Clock | None = None,
    ):
        for name, value in (("epochs", epochs), ("steps_per_epoch", steps_per_epoch)):
            if not 0 < value < math.inf:
                raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
        if not 0 <= warmup_epochs < epochs:
            raise ValueError(
                "The warm-up must be shorter than the training. "
                f"Received: warmup_epochs={warmup_epochs}, epochs={epochs}"
            )
        if clock is not None and clock not in get_args(Clock):
            raise ValueError(
                f"`clock` must be one of {get_args(Clock)} or None. Received: clock={clock!r}"
            )
        inner = _behind_factors(schedule)
        if isinstance(getattr(inner, "initial_learning_rate", None), int):
            # Keras computes in the type of that argument: it would round the epochs down.
            raise ValueError(
                "`schedule` must have a float for its `initial_learning_rate`. Received: "
                f"initial_learning_rate={inner.initial_learning_rate}"
            )
        self.schedule = schedule
        self.warmup_epochs = warmup_epochs
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.initial_learning_rate = initial_learning_rate
        has_an_end = isinstance(inner, schedules.PolynomialDecay | schedules.CosineDecay)
        self.clock = clock or ("warmup" if has_an_end else "start")

    @property
    def peak(self) -> float:
        """The rate at the end of the rise."""
        return float(self._at(0.0))

    @property
    def warmup_steps(self) -> float:
        """Length of the rise in steps."""
        return self.warmup_epochs * self.steps_per_epoch

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of a step, a scalar."""
        # float64: a milestone must not be missed because XLA multiplies by 1 / steps_per_epoch.
        exact = ops.cast(step, "float64") / self.steps_per_epoch
        epoch = ops.cast(exact, keras.config.floatx())
        if not self.warmup_epochs:
            return self._at(epoch)
        since = epoch
        if self.clock == "warmup":
            left = self.epochs - self.warmup_epochs
            since = ops.maximum(epoch - self.warmup_epochs, 0.0) * (self.epochs / left)
        rise = self._at(0.0) - self.initial_learning_rate
        ramp = self.initial_learning_rate + rise * (epoch / self.warmup_epochs)
        return ops.where(epoch < self.warmup_epochs, ramp, self._at(since))

    def _at(self, epoch: Any) -> Any:
        constant = not isinstance(self.schedule, schedules.LearningRateSchedule)
        rate = self.schedule if constant else self.schedule(epoch)
        return ops.convert_to_tensor(rate, keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the schedule was made with."""
        return {
            "schedule": serialized(self.schedule),
            "warmup_epochs": self.warmup_epochs,
            "epochs": self.epochs,
            "steps_per_epoch": self.steps_per_epoch,
            "initial_learning_rate": self.initial_learning_rate,
            "clock": self.clock,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WarmUp":
        """Makes a schedule from what `get_config` returned."""
        schedule = config["schedule"]
        if isinstance(schedule, dict):
            schedule = schedules.deserialize(schedule)
        return cls(**{**config, "schedule": schedule})


def serialized(schedule: Rate) -> float | dict[str, Any]:
    """Returns a number as it is, and a schedule as Keras writes it into a configuration."""
    if isinstance(schedule, schedules.LearningRateSchedule):
        return schedules.serialize(schedule)
    return schedule


def _behind_factors(schedule: Rate) -> Rate:
    while isinstance(schedule, Scaled):
        schedule = schedule.schedule
    return schedule
