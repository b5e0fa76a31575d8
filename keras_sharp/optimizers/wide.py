"""Arithmetic of an update in float32 at least, whatever the variables hold."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops


def widen(variable: Any, *values: Any) -> list[tf.Tensor]:
    """Returns a variable and more values as dense tensors of one type: float32 or wider.

    The sum of squares of 65 entries of size 32 is more than a float16 holds. The gradient of an
    embedding comes as slices, the same row several times, whose squares are not those of their sum.
    """
    dtype = keras.backend.result_type(variable.dtype, "float32")
    return [ops.cast(tf.convert_to_tensor(value), dtype) for value in (variable, *values)]


def norm(x: tf.Tensor) -> tf.Tensor:
    """Returns the Euclidean norm over all entries."""
    if len(x.shape) > 1:
        # The norm of the norms of columns: on a CPU, XLA adds up vectors more than twice as fast as
        # numbers, and would make one sum of two.
        x = ops.sqrt(ops.sum(ops.square(x), axis=0))
    return ops.sqrt(ops.sum(ops.square(x)))


def trust_ratio(weights: Any, gradient: tf.Tensor, more: Any = 0.0) -> tf.Tensor:
    """Returns `weights / (gradient + more)` of two norms, and 1 where one of the two is 0."""
    known = (weights > 0) & (gradient > 0)
    return ops.where(known, weights / ops.where(known, gradient + more, 1.0), 1.0)
