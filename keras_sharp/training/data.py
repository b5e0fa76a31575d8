"""The batches of a training or an evaluation."""

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
        batch_size: Examples in a global batch. The last batch of an epoch may have fewer.
        strategy: Every replica gets a copy of the data.
        at_most: Whether there may be fewer examples than `batch_size`.

    Attributes:
        steps: Number of batches in an epoch.
        example: The first batch.
        labels: What the labels are, for a message.

    Raises:
        ValueError: If the arrays or the batch size are of no use.
    """

    def __init__(
        self,
        data: tuple,
        batch_size: int,
        strategy: tf.distribute.Strategy,
        *,
        at_most: bool = False,
    ):
        arrays = _checked_arrays(data)
        self._arrays = keras.tree.flatten(arrays)
        self._size = len(self._arrays[0])
        if at_most:
            batch_size = min(batch_size, self._size)
        integer = isinstance(batch_size, int | np.integer) and not isinstance(batch_size, bool)
        if not integer or not 0 < batch_size <= self._size:
            raise ValueError(
                "`batch_size` must be an integer between 1 and the number of examples, "
                f"{self._size}. Received: batch_size={batch_size!r}"
            )
        self._batch_size = int(batch_size)
        self.steps = -(-self._size // self._batch_size)
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
        return {"examples": self._size, "batch_size": self._batch_size, "arrays": arrays}

    def begin(self, seed: int | None = None, epoch: int = 0) -> None:
        """Starts an epoch, in the order that `seed` and `epoch` decide; unshuffled without."""
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
        return pipeline.apply(tf.data.experimental.assert_cardinality(len(data))).prefetch(2)


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
            raise ValueError("Arrays of `data` must be finite. Received: NaN or infinity in one")
    return value
