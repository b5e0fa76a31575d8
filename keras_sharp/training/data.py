"""The batches of a training or an evaluation."""

import itertools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_sharp.hashing import ArrayHash
from keras_sharp.labelled import labelled, number_of_examples, require_end
from keras_sharp.training.loop import Loop


class Examples:
    """Arrays, whole on every device; a batch is a slice of an order of indices.

    Args:
        data: `(x, y)` or `(x, y, sample_weight)`, each an array or a structure of arrays.
        batch_size: Examples in a global batch. The last batch of an epoch may have fewer. Or a
            mapping from the first epoch of each size to the size, epoch 0 among them.
        strategy: Every replica gets a copy of the data.
        at_most: Whether there may be fewer examples than `batch_size`, an integer.

    Attributes:
        steps: Number of batches in the epoch begun, before the first in epoch 0.
        example: The first batch.
        labels: What the labels are, for a message.

    Raises:
        ValueError: If the arrays or the batch size are of no use.
    """

    def __init__(
        self,
        data: tuple,
        batch_size: int | Mapping[int, int],
        strategy: tf.distribute.Strategy,
        *,
        at_most: bool = False,
    ):
        arrays = _checked_arrays(data)
        self._arrays = keras.tree.flatten(arrays)
        self._size = len(self._arrays[0])
        if at_most:
            batch_size = min(batch_size, self._size)
        self._batch_sizes = _checked_sizes(batch_size, self._size)
        self.begin()
        self.example = keras.tree.map_structure(lambda a: a[: self._batch_size], arrays)
        ranges = [f"{y.min():g} to {y.max():g}" for y in keras.tree.flatten(arrays[1])]
        self.labels = f"labels from {', '.join(ranges)}"
        self._data = keras.tree.map_structure(tf.convert_to_tensor, arrays)
        if strategy.num_replicas_in_sync > 1:
            copies = strategy.experimental_distribute_values_from_function
            self._data = copies(lambda context, data=self._data: data)

    def describe(self) -> dict[str, Any]:
        """Returns what a training that goes on must have in common with the one stopped."""
        arrays = [ArrayHash(array).hexdigest() for array in self._arrays]
        sizes = self._batch_sizes
        batch_size = sizes[0] if len(sizes) == 1 else list(sizes.items())
        return {"examples": self._size, "batch_size": batch_size, "arrays": arrays}

    def steps_in(self, epoch: int) -> int:
        """Returns the number of batches in an epoch."""
        return -(-self._size // self._batch_size_in(epoch))

    def begin(self, seed: int | None = None, epoch: int = 0) -> None:
        """Starts an epoch, in the order that `seed` and `epoch` decide; unshuffled without."""
        self._batch_size, self.steps = self._batch_size_in(epoch), self.steps_in(epoch)
        self._order, self._done = tf.range(self._size), 0
        if seed is not None:
            self._order = tf.random.experimental.stateless_shuffle(self._order, [seed, epoch])

    def run(self, loop: Loop, count: int) -> np.ndarray:
        """Goes through up to `count` more batches, and returns their rows, `(<= count, columns)`.

        There are fewer before a last batch of another size, and none after the last.
        """
        whole = self._size // self._batch_size
        first, size = self._done, self._batch_size
        if first < whole:
            count = min(count, whole - first)
        else:
            count, size = self.steps - first, self._size % self._batch_size
        if count == 0:
            return np.zeros((0, loop.step.columns), np.float32)
        self._done += count
        span = tf.constant(first), tf.constant(count)
        return loop.over_indices(self._data, self._order, *span, self._batch_size, size).numpy()

    def _batch_size_in(self, epoch: int) -> int:
        return self._batch_sizes[max(first for first in self._batch_sizes if first <= epoch)]


class Batches:
    """A pipeline of global batches.

    Args:
        data: A `tf.data.Dataset` or `keras.utils.PyDataset` of `(x, y)` or
            `(x, y, sample_weight)`.

    Attributes:
        steps: Number of batches in an epoch, None if the pipeline does not say.
        example: The first batch.
        labels: What the labels are, for a message.

    Raises:
        ValueError: If the pipeline is empty, endless or without labels.
    """

    def __init__(self, data: tf.data.Dataset | keras.utils.PyDataset):
        self._order: np.ndarray | None = None
        self.labels = "others"
        self._on_epoch_begin = getattr(data, "on_epoch_begin", lambda: None)
        self._on_epoch_end = getattr(data, "on_epoch_end", lambda: None)
        if isinstance(data, keras.utils.PyDataset):
            data = self._by_index(data)
        require_end(data)
        steps = int(data.cardinality())
        self._data = data
        self.steps = steps if steps >= 0 else None
        self.example = next(iter(data), None)
        if self.example is None:
            raise ValueError("`data` must not be empty. Received: a data set without batches")
        labelled(self.example)

    def describe(self) -> dict[str, Any]:
        """Returns what a training that goes on must have in common with the one stopped."""
        return {"batches": self.steps, "elements": str(self._data.element_spec)}

    def steps_in(self, epoch: int) -> int | None:
        """Returns the number of batches in an epoch, the same in all."""
        return self.steps

    def begin(self, seed: int | None = None, epoch: int = 0) -> None:
        """Starts an epoch; `seed` and `epoch` decide in which order a PyDataset is read."""
        if self._order is not None:
            self._order = np.arange(len(self._order))
            if seed is not None:
                np.random.default_rng([seed, epoch]).shuffle(self._order)
        self._on_epoch_begin()
        self._iterator, self._done = iter(self._data), 0

    def run(self, loop: Loop, count: int) -> np.ndarray:
        """Goes through up to `count` more batches, and returns their rows, fewer at the end."""
        rows = loop.over_iterator(self._iterator, tf.constant(count)).numpy()
        self._done += len(rows)
        if self._done == self.steps:
            self._on_epoch_end()
        return rows

    def _by_index(self, data: keras.utils.PyDataset) -> tf.data.Dataset:
        """Reads a PyDataset batch by batch, so that nothing but `_order` decides the order."""
        if not len(data):
            raise ValueError("`data` must not be empty. Received: a PyDataset without batches")
        self._order = np.arange(len(data))

        def batches():
            for index in self._order:
                yield labelled(data[int(index)])

        def spec(part):
            part = np.asarray(part)
            return tf.TensorSpec([None, *part.shape[1:]], part.dtype)

        signature = keras.tree.map_structure(spec, labelled(data[0]))
        pipeline = tf.data.Dataset.from_generator(batches, output_signature=signature)
        # There is nothing here to tune, and the thread that would can outlive its iterator.
        options = tf.data.Options()
        options.autotune.enabled = False
        pipeline = pipeline.apply(tf.data.experimental.assert_cardinality(len(data))).prefetch(2)
        return pipeline.with_options(options)


def _checked_sizes(batch_size: Any, examples: int) -> dict[int, int]:
    """Returns the batch size by the epoch from which it holds, in order, where it changes."""
    sizes = batch_size if isinstance(batch_size, Mapping) else {0: batch_size}
    if 0 not in sizes or not all(_is_integer(epoch) and epoch >= 0 for epoch in sizes):
        raise ValueError(
            "`batch_size` must map the first epochs, integers with 0 among them, to sizes. "
            f"Received: batch_size={batch_size!r}"
        )
    if not all(_is_integer(size) and 0 < size <= examples for size in sizes.values()):
        raise ValueError(
            "`batch_size` must be an integer between 1 and the number of examples, "
            f"{examples}, or a mapping to such. Received: batch_size={batch_size!r}"
        )
    ordered = sorted((int(epoch), int(size)) for epoch, size in sizes.items())
    phases = itertools.groupby(ordered, key=lambda pair: pair[1])
    return {next(phase)[0]: size for size, phase in phases}


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _checked_arrays(data: Any) -> tuple:
    arrays = keras.tree.map_structure(_array, labelled(data))
    if number_of_examples(arrays) == 0:
        raise ValueError("`data` must not be empty. Received: no examples")
    return arrays


def _array(value: Any) -> np.ndarray:
    value = np.asarray(value)
    if value.dtype.kind not in "biuf":
        raise ValueError(
            "Arrays of `data` must hold numbers; strings come in a `tf.data.Dataset` of batches. "
            f"Received: dtype={value.dtype}"
        )
    if value.dtype.kind == "f":
        value = value.astype(keras.config.floatx(), copy=False)
        if not np.isfinite(value).all():
            raise ValueError(
                "Arrays of `data` must be finite. Received: NaN or infinity in "
                f"{np.sum(~np.isfinite(value)):,} entries of one of shape {value.shape}"
            )
    return value
