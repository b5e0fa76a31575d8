"""Many batches in one call of a graph."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_sharp.tracing import traced
from keras_sharp.training.split import Batch


class Loop:
    """A step repeated in the graph: Python never touches a batch.

    Args:
        step: Called with a `Batch` while the graph is traced; returns a row of `step.columns`
            float32 figures.

    Attributes:
        step: The step.
        longest: Seconds of the longest call so far; infinite before the first, which traces.
        over_indices: Runs it on batches of data in memory, see `_over_indices`.
        over_iterator: Runs it on batches of a pipeline, see `_over_iterator`.
    """

    def __init__(self, step: Callable):
        self.step = step
        self.longest = math.inf
        self.over_indices = traced(_over_indices, step)
        self.over_iterator = traced(_over_iterator, step)

    def took(self, seconds: float) -> None:
        """Takes how long a call took."""
        self.longest = seconds if self.longest == math.inf else max(self.longest, seconds)


class StepsPerCall:
    """How many steps run in one call of the graph: about a second's worth.

    The progress bar moves and Ctrl-C acts between calls. What is computed does not depend on it.

    Attributes:
        count: Steps of the next call.
    """

    def __init__(self, fixed: int | None):
        self.count = fixed or 1
        self._adapts = fixed is None

    def took(self, steps: int, seconds: float) -> None:
        """Takes how long the last call took."""
        # A call cut short by the end of its epoch tells nothing, except that it took too long:
        # batches may have grown.
        if self._adapts and (steps == self.count or seconds > 1):
            wanted = int(steps / max(seconds, 1e-6))
            self.count = max(1, min(wanted, 8 * self.count))


def _over_indices(
    step: Callable,
    data: Any,
    order: tf.Tensor,
    first: tf.Tensor,
    count: tf.Tensor,
    batch_size: int,
    size: int,
) -> tf.Tensor:
    """Returns the rows of a step on `count` batches, `(count, columns)`.

    Args:
        step: The step.
        data: Structure of tensors, under a strategy one on every replica.
        order: `(n,)` int32, the examples in the order of the epoch.
        first: Number of the first batch.
        count: Number of batches.
        batch_size: Batch `k` begins at `k * batch_size`.
        size: Number of examples in each of these batches.
    """

    def body(k, rows):
        indices = tf.slice(order, [(first + k) * batch_size], [size])
        return k + 1, rows.write(k, step(Batch(_gather, (data, indices), size)))

    rows = tf.TensorArray(tf.float32, count, element_shape=[step.columns])
    rows = tf.while_loop(lambda k, _: k < count, body, (0, rows), parallel_iterations=1)[1]
    return rows.stack()


def _over_iterator(step: Callable, iterator: Iterator, count: tf.Tensor) -> tf.Tensor:
    """Returns the rows of a step on up to `count` batches, fewer at the end of the iterator."""

    def body(k, item, rows):
        batch = item.get_value()
        size = tf.shape(keras.tree.flatten(batch)[0])[0]
        rows = rows.write(k, step(Batch(_cut, batch, size)))
        # One batch ahead, but not beyond the last of this call: the next call would miss it.
        item = tf.cond(
            k + 1 < count,
            iterator.get_next_as_optional,
            lambda: tf.experimental.Optional.empty(iterator.element_spec),
        )
        return k + 1, item, rows

    rows = tf.TensorArray(tf.float32, 0, dynamic_size=True, element_shape=[step.columns])
    start = 0, iterator.get_next_as_optional(), rows
    more = lambda k, item, rows: item.has_value()  # noqa: E731
    return tf.while_loop(more, body, start, parallel_iterations=1)[2].stack()


def _gather(handle: tuple, begin: Any = None, size: Any = None) -> tuple:
    data, indices = handle
    if begin is not None:
        indices = tf.slice(indices, [begin], [size])
    return keras.tree.map_structure(lambda t: tf.gather(t, indices), data)


def _cut(batch: tuple, begin: Any = None, size: Any = None) -> tuple:
    if begin is None:
        return batch
    return keras.tree.map_structure(lambda t: t[begin : begin + size], batch)
