import math

import numpy as np
import tensorflow as tf

from keras_sharp.rl.categorical import choose, entropy, log_probability

# Probabilities of 1/2 and 1/2, 1/4 and 3/4, 1 and 0.
LOGITS = tf.constant([[0, 0], [0, math.log(3)], [0, -1e6]])


def test_by_hand():
    low, high = math.log(0.25), math.log(0.75)
    found = log_probability(LOGITS, tf.constant([1, 0, 0]))
    np.testing.assert_allclose(found, [math.log(0.5), low, 0], rtol=1e-6, atol=1e-7)
    expected = [math.log(2), -0.25 * low - 0.75 * high, 0]
    np.testing.assert_allclose(entropy(LOGITS), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(choose(LOGITS[1:], None), [1, 0])


def test_drawn_as_often_as_likely_and_the_same_for_a_seed():
    logits, seed = tf.repeat(LOGITS[1:], 10_000, axis=0), tf.constant([3, 4], tf.int64)
    actions = choose(logits, seed).numpy()
    # Of 10,000 draws the mean is within five of its standard errors.
    np.testing.assert_allclose(actions[:10_000].mean(), 0.75, atol=5 * math.sqrt(0.75 * 0.25) / 100)
    assert not actions[10_000:].any()
    np.testing.assert_array_equal(choose(logits, seed), actions)
    assert not np.array_equal(choose(logits, seed + 1), actions)
