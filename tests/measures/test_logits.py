"""A loss of normalised logits, by hand."""

import keras
import numpy as np
import pytest

from keras_sharp import Objective
from keras_sharp.measures.logits import NormalizedLogits

L = keras.layers


def test_by_hand(float64):
    random = np.random.default_rng(0)
    z, y = random.normal(size=(6, 4)), random.integers(0, 4, 6)
    centred = z - z.mean(axis=1, keepdims=True)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    expected = np.log(np.exp(unit).sum(axis=1)) - unit[np.arange(6), y]
    loss = NormalizedLogits(keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    np.testing.assert_allclose(loss.call(y, z), expected, rtol=1e-12)
    assert float(loss(y, z)) == pytest.approx(expected.mean())
    assert float(loss(y, 1000 * z + 7)) == pytest.approx(expected.mean())
    # Logits all alike have no direction, and no slope.
    alike = float(loss(y, np.ones((6, 4))))
    assert alike == pytest.approx(np.log(4))


def test_is_a_keras_loss():
    inner = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=0.1, reduction="sum"
    )
    loss = NormalizedLogits(inner)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    z, y = np.random.default_rng(0).normal(size=(5, 3)), np.eye(3)[[0, 1, 2, 0, 1]]
    assert float(again(y, z)) == float(loss(y, z)) and again.reduction == "sum"


def test_in_an_objective_labels_are_checked_and_gradients_finite():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, kernel_initializer="zeros")])
    loss = NormalizedLogits(keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.ones((2, 4), "f4")
    value, gradient = Objective(model, (x, np.array([0, 1])), loss).value_and_gradient()
    assert value == pytest.approx(np.log(3)) and np.isfinite(gradient).all()
    with pytest.raises(ValueError, match="classes: 3"):
        Objective(model, (x, np.array([0, 3])), loss).value()


def test_errors():
    for wrong in (None, "mse", {"a": 1}, keras.losses.SparseCategoricalCrossentropy()):
        with pytest.raises(ValueError, match="from_logits=True"):
            NormalizedLogits(wrong)
    with pytest.raises(ValueError, match="single logit"):
        NormalizedLogits(keras.losses.BinaryCrossentropy(from_logits=True))(
            np.ones((2, 1)), np.ones((2, 1))
        )
