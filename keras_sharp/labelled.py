"""Labelled data in the forms `keras.Model.fit` takes, or a clear error."""

from typing import Any

import keras
import tensorflow as tf


def labelled(data: Any) -> tuple[Any, ...]:
    """Returns `(x, y)` or `(x, y, sample_weight)` without a part that is None.

    Args:
        data: Arrays, or one batch of a pipeline.

    Raises:
        ValueError: If it is something else, or has no labels.
    """
    parts = isinstance(data, tuple | list) and len(data) in (2, 3)
    if not parts or data[0] is None or data[1] is None:
        length = f" of {len(data)}" if isinstance(data, tuple | list) else ""
        raise ValueError(
            "`data` must be labelled: `(x, y)` or `(x, y, sample_weight)`, each an array or a "
            "structure of arrays, or a `tf.data.Dataset` or `keras.utils.PyDataset` of such "
            f"batches. Received: {type(data).__name__}{length}"
        )
    return tuple(part for part in data if part is not None)


def number_of_examples(parts: tuple[Any, ...]) -> int:
    """Returns the length that all arrays of some labelled data have.

    Raises:
        ValueError: If they have different lengths or none.
    """
    shapes = [tuple(leaf.shape) for leaf in keras.tree.flatten(parts)]
    lengths = {shape[0] if shape else None for shape in shapes}
    if len(lengths) != 1 or None in lengths:
        raise ValueError(
            "All arrays of `data` must have the same first dimension, the number of examples. "
            "A pipeline must be batched; a list is taken for several inputs, so make numbers an "
            f"array. Received: shapes {', '.join(map(str, shapes[:5]))}"
            + (f" and {len(shapes) - 5} more" if len(shapes) > 5 else "")
        )
    return lengths.pop()


def require_end(data: tf.data.Dataset) -> None:
    """Checks that one pass over a pipeline ends.

    Raises:
        ValueError: If it does not, with the remedy.
    """
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "`data` must end. Received: an infinite data set. Take `repeat` out of it, or end it "
            "with `take(batches)`."
        )
