"""Larger batches in place of a smaller learning rate."""

import itertools
import math
import numbers
from collections.abc import Sequence
from typing import NamedTuple

import keras


class Phase(NamedTuple):
    """Part of a training with one batch size and one learning rate.

    Attributes:
        epoch: Its first epoch, counted from 0.
        batch_size: Examples of a step, over all replicas.
        learning_rate: The learning rate.
    """

    epoch: int
    batch_size: int
    learning_rate: float


class Plan(tuple[Phase, ...]):
    """The phases of a training, in order, the first at epoch 0; JSON holds it as it is."""

    __slots__ = ()

    @property
    def batch_size(self) -> dict[int, int]:
        """The batch size by the first epoch of each phase, as `Trainer.fit` takes it."""
        return {phase.epoch: phase.batch_size for phase in self}

    def learning_rate(self, examples: int) -> keras.optimizers.schedules.PiecewiseConstantDecay:
        """Returns the schedule that gives every phase its rate, from its first step to its last.

        Args:
            examples: Number of training examples `N`. An epoch at batch size `b` has `ceil(N / b)`
                steps, a short last batch included.

        Raises:
            ValueError: If there are fewer examples than the largest batch holds.
        """
        largest = max(phase.batch_size for phase in self)
        if not isinstance(examples, numbers.Integral) or examples < largest:
            raise ValueError(
                f"`examples` must be an integer of at least the largest batch size, {largest}. "
                f"Received: examples={examples}"
            )
        # Keras's rate changes after the step at a boundary, and it wants a boundary of one phase
        # too: each phase gets one, the step before its first.
        last, boundaries = -1, [-1]
        for phase, following in itertools.pairwise(self):
            last += (following.epoch - phase.epoch) * math.ceil(examples / phase.batch_size)
            boundaries.append(last)
        rates = [phase.learning_rate for phase in self]
        return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, [rates[0], *rates])


def increased_batches(
    boundaries: Sequence[int], values: Sequence[float], batch_size: int, largest_batch_size: int
) -> Plan:
    """Turns drops of the learning rate into growth of the batch.

    The noise of SGD is about `learning_rate * N / batch_size` for `N` examples. Where the rate
    would drop by a factor, the batch grows by it instead, which leaves that ratio as it was
    planned and takes fewer steps. From `largest_batch_size` on it is the rate that drops. A batch
    size that has to be rounded is made up for by the rate, so the ratio is always exact.

    Args:
        boundaries: Epochs at which the rate would change, counted from 0.
        values: The rates before, between and after them; one more, none above the one before.
        batch_size: The batch size of the plan, and of the first phase.
        largest_batch_size: No batch is larger.

    Returns:
        The plan: its phases, the `batch_size` to train with, and the `learning_rate` schedule.

    Raises:
        ValueError: If boundaries aren't integers that rise, rates rise, or their numbers don't
            match.

    Example:
    ```python
    plan = increased_batches([60, 120, 160], [0.1, 0.02, 0.004, 0.0008], 128, 5120)
    # batches of 128, 640, 3200 at rate 0.1, then of 5120 at 0.032
    optimizer = keras.optimizers.SGD(plan.learning_rate(len(x)), momentum=0.9)
    Trainer(model, optimizer, loss).fit((x, y), batch_size=plan.batch_size, epochs=200)
    ```

    References:
        - [Smith et al., 2018](https://arxiv.org/abs/1711.00489)
    """
    starts = [0, *boundaries]
    if len(values) != len(starts):
        raise ValueError(
            "`values` must have one entry more than `boundaries`. Received: "
            f"{len(values)} values, {len(boundaries)} boundaries"
        )
    whole = all(isinstance(start, numbers.Integral) for start in starts)
    if not whole or any(after <= before for before, after in itertools.pairwise(starts)):
        raise ValueError(
            f"`boundaries` must be integers that rise, from above 0. Received: {list(boundaries)}"
        )
    falling = all(after <= before for before, after in itertools.pairwise(values))
    if not falling or not 0 < values[-1] <= values[0] < math.inf:
        raise ValueError(f"`values` must be positive and not rise. Received: {list(values)}")
    for name, size in (("batch_size", batch_size), ("largest_batch_size", largest_batch_size)):
        if not isinstance(size, numbers.Integral) or size < 1:
            raise ValueError(f"`{name}` must be an integer of at least 1. Received: {name}={size}")
    if largest_batch_size < batch_size:
        raise ValueError(
            "`largest_batch_size` must be at least `batch_size`. Received: "
            f"largest_batch_size={largest_batch_size}, batch_size={batch_size}"
        )
    sizes = [min(round(batch_size * values[0] / value), largest_batch_size) for value in values]
    rates = [value * size / batch_size for value, size in zip(values, sizes, strict=True)]
    phases = zip(starts, sizes, rates, strict=True)
    return Plan(Phase(int(start), int(size), float(rate)) for start, size, rate in phases)
