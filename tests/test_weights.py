"""The flat vector and the variables are the same numbers in the documented order."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp.weights import FlatWeights


@pytest.fixture
def model():
    return keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(3), keras.layers.BatchNormalization()]
    )


def test_order_and_segments(model):
    for position, variable in enumerate(model.trainable_variables):
        variable.assign(np.full(variable.shape, position))
    model.trainable_variables[0].assign([[1, 2, 3], [4, 5, 6]])
    flat = FlatWeights(model)
    expected = [1, 2, 3, 4, 5, 6, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    np.testing.assert_array_equal(flat.read(), expected)
    assert flat.size == 15
    for variable in model.trainable_variables:
        np.testing.assert_array_equal(
            flat.read()[flat.segments()[variable.path]], np.ravel(variable)
        )


def test_pairs_are_the_inverse_of_read(model):
    flat = FlatWeights(model)
    for variable, value in flat.pairs(tf.constant(flat.read(), flat.dtype)):
        np.testing.assert_array_equal(value, variable.numpy())


def test_frozen_layers_are_left_out(model):
    model.layers[0].trainable = False
    assert FlatWeights(model).size == 6


def test_errors(model):
    model.trainable = False
    with pytest.raises(ValueError, match="trainable weights"):
        FlatWeights(model)
    with pytest.raises(ValueError, match="must be built"):
        FlatWeights(keras.Sequential([keras.layers.Dense(3)]))


def test_variables_of_one_path_have_segments_of_their_own():
    class Twins(keras.Model):
        def __init__(self):
            super().__init__()
            self.branches = [keras.layers.Dense(2, name="twin") for _ in range(2)]

        def call(self, x):
            return sum(branch(x) for branch in self.branches)

    model = Twins()
    model(np.zeros((1, 3), "f4"))
    flat = FlatWeights(model)
    segments = flat.segments()
    assert len(segments) == len(model.trainable_variables)
    assert sum(each.stop - each.start for each in segments.values()) == flat.size
    assert segments["twins/twin/kernel/2"].start == 8
