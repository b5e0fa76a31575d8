"""Variables to step by hand, and what the battery trains."""

import keras
import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture
def walk():
    """Applies one dictionary of gradients after another; returns the weights after each."""

    def run(optimizer, weights, gradients):
        variables = [keras.Variable(v, dtype="float32", name=name) for name, v in weights.items()]
        path = []
        for gradient in gradients:
            gradient = [tf.constant(gradient[name], "float32") for name in weights]
            optimizer.apply(gradient, variables)
            path.append({v.name: v.numpy() for v in variables})
        return path

    return run


@pytest.fixture
def blobs():
    """128 examples of three classes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(128, 6)).astype("float32")
    return x, np.argmax(x[:, :3], axis=1)


@pytest.fixture
def loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture
def net():
    """Makes a small net; the same weights every time."""

    def make():
        keras.utils.set_random_seed(0)
        layers = keras.layers
        hidden = [
            layers.Dense(8),
            layers.LayerNormalization(epsilon=0.1),
            layers.Activation("tanh"),
        ]
        return keras.Sequential([keras.Input((6,)), *hidden, layers.Dense(3)])

    return make
