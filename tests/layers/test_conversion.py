"""Models whose BatchNormalization layers were replaced."""

import keras
import numpy as np
import pytest

from keras_sharp.layers import (
    GhostBatchNormalization,
    SplitBatchNormalization,
    with_ghost_batch_normalization,
    with_split_batch_normalization,
)

L = keras.layers


def network():
    """A residual network with a model inside it, a frozen layer and one that is called twice."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 3))
    x = L.BatchNormalization(axis=-1, momentum=0.7, epsilon=0.01, name="first")(inputs)
    inner = keras.Sequential(
        [keras.Input((4, 4, 3)), L.Conv2D(3, 1), L.BatchNormalization(scale=False), L.Dropout(0.5)]
    )
    shared = L.BatchNormalization(synchronized=True)
    x = shared(shared(x + inner(x)))
    x = L.BatchNormalization(trainable=False)(x)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))
    random = np.random.default_rng(0)
    model.set_weights([random.uniform(0.5, 1.5, size=w.shape) for w in model.get_weights()])
    return model


def all_layers(model, kind):
    return [layer for layer in model._flatten_layers() if isinstance(layer, kind)]


X = np.random.default_rng(1).normal(size=(12, 4, 4, 3)).astype("float32")


def test_ghost():
    model = network()
    before = model.get_weights()
    ghost = with_ghost_batch_normalization(model, 4)
    found = all_layers(ghost, L.BatchNormalization)
    assert len(found) == 4
    assert all(type(layer) is GhostBatchNormalization for layer in found)
    assert {layer.virtual_batch_size for layer in found} == {4}
    # Keras gives inputs and sums of a copy other names.
    names = {layer.name for layer in ghost.layers}
    assert {layer.name for layer in model.layers if layer.weights} <= names
    first = ghost.get_layer("first")
    assert (first.momentum, first.epsilon) == (0.7, 0.01)
    assert sum(not layer.trainable for layer in found) == 1
    np.testing.assert_allclose(ghost(X), model(X), rtol=1e-5, atol=1e-5)
    for old, new in zip(before, ghost.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    ghost(X, training=True)
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(now, old)  # it shares nothing with the model


def test_with_one_ghost_batch_a_step_is_that_of_the_model():
    outcomes = []
    for convert in (lambda model: model, lambda model: with_ghost_batch_normalization(model, 12)):
        model = convert(network())
        model.compile(keras.optimizers.SGD(1e-5), "mse")  # the loss is in the thousands
        for layer in all_layers(model, L.Dropout):
            layer.rate = 0
        model.fit(X, np.ones((12, 2)), batch_size=12, epochs=2, verbose=0)
        outcomes.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_allclose(outcomes[1], outcomes[0], rtol=1e-3, atol=1e-5)


def test_split():
    model = network()
    split = with_split_batch_normalization(model)
    found = all_layers(split, SplitBatchNormalization)
    assert len(found) == 4 and len(all_layers(split, L.BatchNormalization)) == 8
    expected = model(X)
    for branch in ("main", "adversarial"):
        for layer in found:
            layer.branch = branch
        np.testing.assert_allclose(split(X), expected, rtol=1e-5, atol=1e-5)
    trained = split(X, training=True)
    assert not np.allclose(trained, expected)
    for layer in found:
        layer.branch = "main"
    np.testing.assert_allclose(split(X), expected, rtol=1e-5, atol=1e-5)


def test_ghost_and_split():
    both = with_split_batch_normalization(with_ghost_batch_normalization(network(), 4))
    inner = all_layers(both, L.BatchNormalization)
    assert len(inner) == 8
    assert all(isinstance(layer, GhostBatchNormalization) for layer in inner)
    assert {layer.virtual_batch_size for layer in inner} == {4}


def test_a_sequential_model_that_was_built_by_a_call():
    model = keras.Sequential([L.Dense(3), L.BatchNormalization()])
    x = X[:, 0, 0]
    expected = model(x)
    np.testing.assert_allclose(with_ghost_batch_normalization(model, 4)(x), expected, rtol=1e-6)


def test_what_is_out_of_reach_is_refused():
    class Block(L.Layer):
        def __init__(self):
            super().__init__()
            self.normalization = L.BatchNormalization(name="inside")

        def call(self, inputs):
            return self.normalization(inputs)

    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    hidden = keras.Sequential([keras.Input((3,)), Block()])
    with pytest.raises(ValueError, match="contains 'inside'"):
        with_ghost_batch_normalization(hidden)
    wrapped = keras.Sequential([keras.Input((5, 3)), L.TimeDistributed(L.BatchNormalization())])
    with pytest.raises(ValueError, match="TimeDistributed"):
        with_split_batch_normalization(wrapped)
    with pytest.raises(ValueError, match="functional or sequential"):
        with_ghost_batch_normalization(Own())
    renormalized = keras.Sequential([keras.Input((3,)), L.BatchNormalization(renorm=True)])
    with pytest.raises(ValueError, match="renorm=True"):
        with_ghost_batch_normalization(renormalized)
