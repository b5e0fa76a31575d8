"""How many predictions are right, as sums that add up over batches."""

from typing import Any

import keras
import tensorflow as tf
from keras.src.trainers.compile_utils import is_binary_or_sparse_categorical


def hits(y: Any, y_pred: Any, loss: str) -> tf.Tensor:
    """Returns the numbers of right and of all predictions of one part, `(2,)` float64.

    Both are 0 where there is nothing to be right about: several outputs, or a loss that is none of
    Keras's cross-entropies. What is right is what Keras's `"accuracy"` says, which goes by the
    shapes alone: of several binary outputs of an example, the largest one counts. Only the
    threshold of a binary logit is 0, where Keras's is 0.5 all the same. Sample weights do not
    count, masks do.

    Args:
        y: Labels.
        y_pred: Outputs of the model.
        loss: Name of the loss with its options, as in `Term.loss`.
    """
    labels, outputs = keras.tree.flatten(y), keras.tree.flatten(y_pred)
    kind = loss.partition("(")[0].replace("_", "").lower().replace("focal", "")
    if len(labels) != 1 or len(outputs) != 1 or kind not in _CROSS_ENTROPIES:
        return tf.zeros(2, tf.float64)
    right = tf.cast(_right(labels[0], outputs[0], "from_logits=True" in loss), tf.float64)
    mask = getattr(outputs[0], "_keras_mask", None)
    counted = tf.ones_like(right) if mask is None else tf.cast(mask, tf.float64)
    return tf.stack([tf.reduce_sum(right * counted), tf.reduce_sum(counted)])


_CROSS_ENTROPIES = (
    "sparsecategoricalcrossentropy",
    "categoricalcrossentropy",
    "binarycrossentropy",
)


def _right(y: tf.Tensor, y_pred: tf.Tensor, logits: bool) -> tf.Tensor:
    binary, sparse = is_binary_or_sparse_categorical(y, y_pred)
    if binary:
        return keras.metrics.binary_accuracy(y, y_pred, 0.0 if logits else 0.5)
    if sparse:
        return keras.metrics.sparse_categorical_accuracy(y, y_pred)
    return keras.metrics.categorical_accuracy(y, y_pred)
