"""How the learning rate grows with the batch."""

import math
from typing import Any, TypeVar

import keras

# What is scaled: a number, or a schedule, which stays one.
Rate = TypeVar("Rate", float, keras.optimizers.schedules.LearningRateSchedule)


def linear_scaling(learning_rate: Rate, batch_size: int, base_batch_size: int) -> Rate:
    """Returns `learning_rate * batch_size / base_batch_size`.

    Args:
        learning_rate: Tuned at the base batch size: a number or a schedule.
        batch_size: Examples of a step, over all replicas.
        base_batch_size: Of the training the rate was tuned for.

    Returns:
        A number for a number, and a schedule for a schedule.

    Raises:
        ValueError: If a batch size is not positive.

    Example:
    ```python
    linear_scaling(0.1, batch_size=8192, base_batch_size=256)  # 3.2
    ```

    References:
        - [Goyal et al., 2017](https://arxiv.org/abs/1706.02677)
    """
    return _scaled(learning_rate, batch_ratio(batch_size, base_batch_size))


def square_root_scaling(learning_rate: Rate, batch_size: int, base_batch_size: int) -> Rate:
    """Returns `learning_rate * sqrt(batch_size / base_batch_size)`.

    Args:
        learning_rate: Tuned at the base batch size: a number or a schedule.
        batch_size: Examples of a step, over all replicas.
        base_batch_size: Of the training the rate was tuned for.

    Returns:
        A number for a number, and a schedule for a schedule.

    Raises:
        ValueError: If a batch size is not positive.

    Example:
    ```python
    square_root_scaling(0.1, batch_size=8192, base_batch_size=128)  # 0.8
    ```

    References:
        - [Hoffer et al., 2017](https://arxiv.org/abs/1705.08741)
    """
    return _scaled(learning_rate, math.sqrt(batch_ratio(batch_size, base_batch_size)))


def batch_ratio(batch_size: int, base_batch_size: int) -> float:
    """Returns how many times larger a batch is than the one things were tuned for.

    Raises:
        ValueError: If one of them is not positive.
    """
    for name, value in (("batch_size", batch_size), ("base_batch_size", base_batch_size)):
        if not 0 < value < math.inf:
            raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
    return batch_size / base_batch_size


@keras.saving.register_keras_serializable("keras_sharp")
class Scaled(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule times a number.

    Args:
        schedule: A Keras learning rate schedule.
        factor: The number.
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, factor: float):
        self.schedule = schedule
        self.factor = factor

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of a step, a scalar."""
        return self.factor * self.schedule(step)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the schedule was made with."""
        schedule = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "factor": self.factor}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Scaled":
        """Makes a schedule from what `get_config` returned."""
        return cls(keras.optimizers.schedules.deserialize(config["schedule"]), config["factor"])


def _scaled(learning_rate: Any, factor: float) -> Any:
    if isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule):
        return Scaled(learning_rate, factor)
    return factor * learning_rate
