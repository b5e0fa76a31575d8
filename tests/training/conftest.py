"""Replicas, nets and data small enough to train in a second."""

import keras
import numpy as np
import pytest
import tensorflow as tf

LAYERS = keras.layers


@pytest.fixture
def blobs():
    """130 examples of three classes: four batches of 32 and one of 2. Their mean is about 0."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(130, 10)).astype("float32")
    return x, np.argmax(x[:, :3], axis=1)


@pytest.fixture
def net():
    """Makes a small net; the same weights every time."""

    def make(strategy=None, batch_norm=None, dropout=0.0):
        keras.utils.set_random_seed(0)
        with (strategy or tf.distribute.get_strategy()).scope():
            hidden = [LAYERS.Dense(16)]
            if batch_norm is not None:
                # The usual epsilon blows rounding up a hundredfold in a batch of two: then even one
                # device with and without XLA differs by 1e-5.
                options = {"synchronized": batch_norm == "synchronized", "epsilon": 0.1}
                hidden += [LAYERS.BatchNormalization(momentum=0.9, **options)]
            hidden += [LAYERS.Activation("tanh")]
            if dropout:
                hidden += [LAYERS.Dropout(dropout, seed=1)]
            return keras.Sequential([keras.Input((10,)), *hidden, LAYERS.Dense(3)])

    return make


@pytest.fixture
def loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture
def weights():
    """Everything a model has learned, in one vector."""

    def flat(model):
        values = [v.numpy().ravel() for v in model.variables if v.dtype == "float32"]
        return np.concatenate(values).astype("float64")

    return flat
