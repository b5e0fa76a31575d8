"""A data set as the same evaluation batches, in the same order, every time."""

import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_sharp.arguments import optional_integer
from keras_sharp.hashing import ArrayHash, joint_hash
from keras_sharp.labelled import labelled, number_of_examples, require_end

Batch = tuple[Any, ...]

# Batches of a pipeline are kept while they fit into this many bytes; larger data are read again in
# every pass, and compared with what was read the first time.
_CACHE_BYTES = 2**30


class EvaluationBatches:
    """Fixed batches of labelled data, cut from arrays or read from a pipeline.

    Iterating yields `(x, y)` or `(x, y, sample_weight)`, each a structure of tensors.

    Args:
        data: A tuple of arrays `(x, y)` or `(x, y, sample_weight)` (each may be a dict or list of
            arrays, first axis the examples), a `tf.data.Dataset` of such batches, or a
            `keras.utils.PyDataset`.
        batch_size: Examples per batch. Defaults to 1000 for arrays and to a pipeline's own batches.
        check: Whether to refuse a pipeline that yields something else the second time.

    Attributes:
        examples: Number of examples `N`.
        sizes: Examples in each batch.
        digest: Hexadecimal hash of the data and their order, not of how they are batched.

    Raises:
        ValueError: If the data are empty, unlabelled, endless, of unequal lengths, or not the same
            twice.
    """

    def __init__(self, data: Any, batch_size: int | None = None, *, check: bool = True):
        batch_size = optional_integer("batch_size", batch_size)
        self._check = check
        self._cache: list[Batch] | None = None
        self._source = _source(data, batch_size)
        self._is_pipeline = not isinstance(self._source, _ArrayBatches)
        self.sizes, self.digest, self._batch_digests = self._survey()
        self.examples = sum(self.sizes)
        if self._is_pipeline and check:
            self._compare_with_second_pass()

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Batch]:
        if self._cache is not None:
            return iter(self._cache)
        return self._compared() if self._is_pipeline else _tensors(self._source)

    def pieces(self, size: int, seed: int) -> Iterator[Batch]:
        """Yields random batches of at most `size` examples, all examples once.

        Arrays are shuffled as a whole; of a pipeline, the examples of each batch.
        """
        random = np.random.default_rng(seed)
        for batch in self if self._is_pipeline else [self._source.arrays]:
            order = random.permutation(number_of_examples(batch))
            for indices in np.array_split(order, -(-len(order) // size) or 1):
                yield keras.tree.map_structure(functools.partial(_taken, indices), batch)

    def regrouped(self, size: int) -> Iterator[Batch]:
        """Yields the same examples in the same order, `size` at a time and last what is left."""
        held: Batch | None = None
        for batch in self:
            if held is not None:
                batch = keras.tree.map_structure(lambda *two: tf.concat(two, axis=0), held, batch)
            count = number_of_examples(batch)
            full = count - count % size
            for start in range(0, full, size):
                yield _rows(batch, slice(start, start + size))
            held = _rows(batch, slice(full, count)) if full < count else None
        if held is not None:
            yield held

    def _survey(self) -> tuple[list[int], str, list[str]]:
        """One pass: sizes and digests, and the batches themselves while they fit."""
        sizes, batch_digests, kept, kept_bytes = [], [], [], 0
        whole: list[ArrayHash] | None = None
        for batch in _tensors(self._source):
            sizes.append(number_of_examples(batch))
            leaves = [leaf.numpy() for leaf in keras.tree.flatten(batch)]
            # One hash per leaf, so that how the examples are cut into batches leaves no trace.
            whole = whole or [ArrayHash() for _ in leaves]
            for running, leaf in zip(whole, leaves, strict=True):
                running.update(leaf)
            batch_digests.append(_digest(batch))
            kept_bytes += sum(leaf.nbytes for leaf in leaves)
            if self._is_pipeline and kept is not None:
                kept = [*kept, batch] if kept_bytes <= _CACHE_BYTES else None
        if sum(sizes) == 0:
            raise ValueError("`data` must not be empty. Received: no examples")
        if self._is_pipeline:
            self._cache = kept
        return sizes, joint_hash(whole), batch_digests

    def _compare_with_second_pass(self) -> None:
        cache, self._cache = self._cache, None
        for _ in self._compared():
            pass
        self._cache = cache

    def _compared(self) -> Iterator[Batch]:
        """Reads the pipeline again; what it yields may differ only in content, and if unchecked."""
        count = 0
        for batch in _tensors(self._source):
            same = count < len(self.sizes) and number_of_examples(batch) == self.sizes[count]
            if same and self._check:
                same = _digest(batch) == self._batch_digests[count]
            if not same:
                raise ValueError(_NOT_THE_SAME.format(f"batch {count} differs"))
            yield batch
            count += 1
        if count != len(self.sizes):
            raise ValueError(_NOT_THE_SAME.format(f"{count} batches after {len(self.sizes)}"))


_NOT_THE_SAME = (
    "`data` must yield the same batches in the same order every time: what is measured is a "
    "function of the weights for fixed data. Take shuffling and random augmentation out of the "
    "pipeline (or cache it after them), or pass `check_data=False` to accept another "
    "content of batches of the same sizes. Received: {} in a later pass"
)


class _ArrayBatches:
    """Slices of arrays."""

    def __init__(self, data: tuple[Any, ...], batch_size: int):
        self.arrays = keras.tree.map_structure(
            lambda leaf: leaf if isinstance(leaf, tf.Tensor) else np.asarray(leaf), data
        )
        self._length = number_of_examples(self.arrays)
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, self._length, self._batch_size):
            stop = start + self._batch_size
            yield keras.tree.map_structure(lambda leaf: leaf[start:stop], self.arrays)  # noqa: B023


class _PyDatasetBatches:
    """A PyDataset by index, so that its own shuffling and workers stay out of it."""

    def __init__(self, data: keras.utils.PyDataset):
        self._data = data

    def __iter__(self) -> Iterator[Batch]:
        for index in range(len(self._data)):
            yield self._data[index]


def _source(data: Any, batch_size: int | None) -> Any:
    if isinstance(data, tf.data.Dataset):
        require_end(data)
        return data if batch_size is None else data.unbatch().batch(batch_size)
    if isinstance(data, keras.utils.PyDataset):
        if batch_size is not None:
            raise ValueError(
                "`batch_size` must be left out for a PyDataset, which makes its own batches. "
                f"Received: batch_size={batch_size}"
            )
        return _PyDatasetBatches(data)
    return _ArrayBatches(labelled(data), 1000 if batch_size is None else batch_size)


def _tensors(source: Any) -> Iterator[Batch]:
    for batch in source:
        yield keras.tree.map_structure(tf.convert_to_tensor, labelled(batch))


def _taken(indices: np.ndarray, leaf: np.ndarray | tf.Tensor) -> tf.Tensor:
    if isinstance(leaf, tf.Tensor):
        return tf.gather(leaf, indices)
    return tf.convert_to_tensor(leaf[indices])


def _rows(batch: Batch, rows: slice) -> Batch:
    return keras.tree.map_structure(lambda leaf: leaf[rows], batch)


def _digest(batch: Batch) -> str:
    return joint_hash([ArrayHash(leaf.numpy()) for leaf in keras.tree.flatten(batch)])
