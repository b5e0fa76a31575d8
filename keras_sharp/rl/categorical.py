"""The distribution of actions that logits stand for."""

import tensorflow as tf


def choose(logits: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
    """Returns actions, `(n,)` int32.

    Args:
        logits: `(n, actions)`.
        seed: `(2,)` int64, of the actions that are drawn. None: the likeliest ones are taken.
    """
    if seed is None:
        return tf.argmax(logits, axis=-1, output_type=tf.int32)
    draw = tf.random.stateless_categorical(logits, 1, seed, dtype=tf.int32)
    return tf.squeeze(draw, axis=-1)


def log_probability(logits: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
    """Returns the log-probability of one action for each distribution.

    Args:
        logits: `(..., actions)`.
        actions: `(...)` integers.
    """
    return -tf.nn.sparse_softmax_cross_entropy_with_logits(actions, logits)


def entropy(logits: tf.Tensor) -> tf.Tensor:
    """Returns the entropy in nats of the last axis's distributions, `(..., actions)` logits."""
    log_probabilities = tf.nn.log_softmax(logits)
    return -tf.reduce_sum(tf.exp(log_probabilities) * log_probabilities, axis=-1)
