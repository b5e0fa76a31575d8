"""Random integers that depend on nothing but what they are for."""

import tensorflow as tf


def draw(*words: tf.Tensor | int) -> tf.Tensor:
    """Returns 32 random bits for every combination of words: the same for the same words.

    Counters hashed instead of a generator with a state, so that what one environment draws does
    not depend on how many others there are.

    Args:
        *words: Tensors of uint32 or integers below 2**32, which broadcast.

    Returns:
        uint32.

    References:
        Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", for counters as seeds.
        Appleby 2011, MurmurHash3: `fmix32`, the mixing function and its constants.
    """
    bits = tf.constant(0, "uint32")
    for word in words:
        # The golden ratio keeps a row of zeros from staying zero.
        bits = _mix(bits ^ (tf.cast(word, "uint32") + tf.constant(0x9E3779B9, "uint32")))
    return bits


def _mix(bits: tf.Tensor) -> tf.Tensor:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits ^= tf.bitwise.right_shift(bits, tf.constant(shift, "uint32"))
        bits *= tf.constant(factor, "uint32")
    return bits ^ tf.bitwise.right_shift(bits, tf.constant(16, "uint32"))
