"""Larger batches in place of a smaller learning rate."""

import itertools
import math
import numbers
from collections.abc import Sequence
from typing import NamedTuple


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


def increased_batches(
    boundaries: Sequence[int], values: Sequence[float], batch_size: int, largest_batch_size: int
) -> list[Phase]:
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
        The phases, in order.

    Raises:
        ValueError: If boundaries don't rise, rates rise, or their numbers don't match.

    Example:
    ```python
    increased_batches([60, 120, 160], [0.1, 0.02, 0.004, 0.0008], 128, 5120)
    # batches of 128, 640, 3200 at rate 0.1, then of 5120 at 0.032
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
    if any(after <= before for before, after in itertools.pairwise(starts)):
        raise ValueError(f"`boundaries` must rise, from above 0. Received: {list(boundaries)}")
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
    return [Phase(*phase) for phase in zip(starts, sizes, rates, strict=True)]
