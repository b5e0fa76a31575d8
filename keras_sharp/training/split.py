"""A global batch, and how it is cut for replicas and micro-batches."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf


class Batch(NamedTuple):
    """A global batch in the graph.

    Attributes:
        fetch: `fetch(handle)` is the batch `(x, y)` or `(x, y, sample_weight)`, and
            `fetch(handle, begin, size)` a part of it.
        handle: What `fetch` needs; it may be handed to `strategy.run`.
        size: Number of examples: an int, or a scalar tensor if the graph does not know it.
    """

    fetch: Callable
    handle: Any
    size: Any


class Split:
    """A batch cut evenly into one part for each replica in each round.

    Args:
        strategy: The strategy of the model.
        batch: The batch.
        rounds: Number of parts of each replica: an int, or a scalar tensor if the graph does not
            know it.

    Attributes:
        is_flat: Whether there is one round for sure.
    """

    def __init__(self, strategy: tf.distribute.Strategy, batch: Batch, rounds: Any):
        self.is_flat = isinstance(rounds, int) and rounds == 1
        self._strategy = strategy
        self._batch = batch
        self._rounds = rounds

    def run(self, function: Callable, places: Any, index: Any) -> Any:
        """Returns `function(part, places)` for the parts of a round, on every replica."""

        def on_replica(handle, places):
            return function(Part(self._batch._replace(handle=handle), self._rounds, index), places)

        return self._strategy.run(on_replica, args=(self._batch.handle, places))

    def sum(self, function: Callable, places: Any, width: int) -> tf.Tensor:
        """Returns the sum of `function(part, places)`, `(width,)`, over all parts."""

        def add(index, total):
            parts = self.run(function, places, index)
            return index + 1, total + self._strategy.reduce("SUM", parts, axis=None)

        if self.is_flat:
            return add(0, 0.0)[1]
        condition = lambda index, total: index < self._rounds  # noqa: E731
        return tf.while_loop(condition, add, (0, tf.zeros(width)), parallel_iterations=1)[1]

    def share_of_replica(self) -> tf.Tensor:
        """Returns this replica's fraction of the examples."""
        return Part(self._batch, 1, 0).share


class Part:
    """One part of a batch, seen from its replica.

    Attributes:
        number: Number of the part, 0 for the first.
        share: Its fraction of the examples of the batch.
    """

    def __init__(self, batch: Batch, rounds: Any, index: Any):
        context = tf.distribute.get_replica_context()
        replica, parts = context.replica_id_in_sync_group, rounds * context.num_replicas_in_sync
        self.number = tf.cast(replica * rounds + index, tf.int64)
        size = tf.cast(batch.size, tf.int64)
        begin, end = (k * size // tf.cast(parts, tf.int64) for k in (self.number, self.number + 1))
        self._begin, self._count = tf.cast(begin, tf.int32), tf.cast(end - begin, tf.int32)
        self.share = tf.cast(self._count, tf.float32) / tf.cast(size, tf.float32)
        self._batch = batch
        self._is_first = tf.equal(index, 0)
        static = isinstance(batch.size, int) and isinstance(parts, int)
        self._never_empty = static and batch.size >= parts

    @property
    def batch(self) -> tuple:
        """The examples of the part, `(x, y)` or `(x, y, sample_weight)`."""
        return self._batch.fetch(self._batch.handle, self._begin, self._count)

    def unless_empty(self, value: tf.Tensor) -> tf.Tensor:
        """Returns the value, or zeros instead of the NaN of a mean over no example."""
        if self._never_empty or not value.dtype.is_floating:
            return value
        return tf.where(self._count > 0, value, tf.zeros_like(value))

    def weigh(self, state: tf.Tensor) -> tf.Tensor:
        """Returns what the part adds to a state: statistics are averaged, seeds agree anyway."""
        if state.dtype.is_floating:
            return tf.cast(self.share, state.dtype) * state
        return tf.where(self._is_first, state, tf.zeros_like(state))
