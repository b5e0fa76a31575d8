"""Accuracy against Keras's metrics."""

import keras
import numpy as np
import pytest

from keras_sharp import Objective

L = keras.layers
K = keras.losses


def measured(model, x, y, loss, metric=None, **kwargs):
    objective = Objective(model, (x, y), loss, batch_size=7)
    model.compile(loss=loss, metrics=[metric or "accuracy"])
    # In Keras's float32 the loss is the mean of the batches' means: take one batch.
    return objective.evaluate(), model.evaluate(x, y, batch_size=len(x), verbose=0)


def dense(outputs, activation=None):
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((4,)), L.Dense(outputs, activation=activation)])


X = np.random.default_rng(0).normal(size=(23, 4)).astype("f4")
LABELS = np.random.default_rng(1).integers(0, 3, 23)
SEVERAL = np.random.default_rng(2).integers(0, 2, (23, 3)).astype("f4")


@pytest.mark.parametrize(
    ("model", "y", "loss", "metric"),
    [
        (dense(3), LABELS, K.SparseCategoricalCrossentropy(from_logits=True), None),
        (dense(3, "softmax"), LABELS[:, None], "sparse_categorical_crossentropy", None),
        (dense(3), np.eye(3)[LABELS], K.CategoricalCrossentropy(from_logits=True), None),
        (dense(3, "softmax"), np.eye(3)[LABELS], K.CategoricalFocalCrossentropy(), None),
        (dense(1, "sigmoid"), (LABELS > 0)[:, None] * 1.0, "binary_crossentropy", None),
        (dense(1, "sigmoid"), LABELS > 0, "binary_crossentropy", None),
        # Of several binary outputs, Keras asks which is the largest.
        (dense(3, "sigmoid"), SEVERAL, "binary_crossentropy", None),
        (dense(3), SEVERAL, K.BinaryCrossentropy(from_logits=True), None),
        (
            dense(1),
            (LABELS > 0)[:, None] * 1.0,
            K.BinaryCrossentropy(from_logits=True),
            keras.metrics.BinaryAccuracy(threshold=0.0),
        ),
    ],
)
def test_it_is_what_keras_says(model, y, loss, metric):
    (value, accuracy), expected = measured(model, X, y, loss, metric)
    assert value == pytest.approx(expected[0], rel=1e-6)
    assert np.float32(accuracy) == np.float32(expected[1])
    assert 0 < accuracy < 1


def test_masked_steps_do_not_count():
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [keras.Input((5, 4)), L.Masking(), L.LSTM(3, return_sequences=True), L.Dense(3)]
    )
    random = np.random.default_rng(0)
    x = random.normal(size=(11, 5, 4)).astype("f4")
    x[:6, 3:] = 0
    loss = K.SparseCategoricalCrossentropy(from_logits=True)
    y = random.integers(0, 3, (11, 5))
    (_, accuracy), _ = measured(model, x, y, loss)
    kept = np.any(x != 0, axis=-1)
    assert accuracy == pytest.approx((model.predict(x, verbose=0).argmax(-1) == y)[kept].mean())


def test_there_is_none_for_a_regression_or_several_outputs():
    assert Objective(dense(3), (X, LABELS[:, None]), "mse").evaluate()[1] is None
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [L.Dense(3)(inputs), L.Dense(3)(inputs)])
    loss = K.SparseCategoricalCrossentropy(from_logits=True)
    objective = Objective(model, (X, (LABELS, LABELS)), [loss, loss])
    assert objective.evaluate()[1] is None
