"""How many predictions are right, as sums that add up over batches."""

from typing import Any

import keras
import tensorflow as tf


def hits(y: Any, y_pred: Any, loss: str) -> tf.Tensor:
    """Returns the numbers of right and of all predictions of one part, `(2,)` float64.

    Both are 0 where there is nothing to be right about: several outputs, or a loss that is none of
    Keras's cross-entropies. What is right is what Keras's `"accuracy"` says, except that the
    threshold of binary logits is 0; sample weights do not count, masks do.

    Args:
        y: Labels.
        y_pred: Outputs of the model.
        loss: Name of the loss with its options, as in `Term.loss`.
    """
    labels, outputs = keras.tree.flatten(y), keras.tree.flatten(y_pred)
    kind = loss.partition("(")[0].replace("_", "").lower().replace("focal", "")
    if len(labels) != 1 or len(outputs) != 1 or kind not in _RIGHT:
        return tf.zeros(2, tf.float64)
    right = _RIGHT[kind](labels[0], outputs[0], 0.0 if "from_logits=True" in loss else 0.5)
    right = tf.cast(right, tf.float64)
    mask = getattr(outputs[0], "_keras_mask", None)
    counted = tf.ones_like(right) if mask is None else tf.cast(mask, tf.float64)
    return tf.stack([tf.reduce_sum(right * counted), tf.reduce_sum(counted)])


_RIGHT = {
    "sparsecategoricalcrossentropy": lambda y, y_pred, _: keras.metrics.sparse_categorical_accuracy(
        y, y_pred
    ),
    "categoricalcrossentropy": lambda y, y_pred, _: keras.metrics.categorical_accuracy(y, y_pred),
    "binarycrossentropy": lambda y, y_pred, threshold: keras.metrics.binary_accuracy(
        y, y_pred, threshold
    ),
}
