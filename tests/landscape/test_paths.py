"""Paths between two models, against Keras at the ends and closed forms between them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp import Objective
from keras_sharp.landscape import path
from keras_sharp.results.landscape import PathResult

L = keras.layers


def classifier(seed, activation="tanh", frozen=False):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            L.Dense(5, activation=activation),
            L.BatchNormalization(),
            L.Dropout(0.3),
            L.Dense(3),
        ]
    )
    model.layers[0].trainable = not frozen
    random = np.random.default_rng(seed)
    for variable in model.layers[1].weights:
        variable.assign(random.uniform(0.5, 2, size=5))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def data(examples=130, seed=0):
    random = np.random.default_rng(seed)
    x = (2 + 3 * random.normal(size=(examples, 4))).astype("float32")
    return x, (np.argmax(x[:, :3], axis=1)).astype("int32")


def state(model):
    return [variable.numpy().copy() for variable in (*model.variables, *model.optimizer.variables)]


def assert_same_bits(before, after):
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


# -- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "curved"])
def test_ends_are_evaluate_of_the_two_models(kind):
    models = classifier(1), classifier(2)
    before = [state(model) for model in models]
    train, test = data(), data(77, seed=1)
    result = path(
        *models, train, test=test, kind=kind, alphas=[0, 0.4, 1], batch_norm="interpolate"
    )
    for index, model in ((0, models[0]), (2, models[1])):
        for part, loss, accuracy in (
            (train, result.train_loss, result.train_accuracy),
            (test, result.test_loss, result.test_accuracy),
        ):
            expected = model.evaluate(*part, batch_size=len(part[0]), verbose=0)
            assert loss[index] == Objective(model, part).value()
            assert loss[index] == pytest.approx(expected[0], rel=1e-6)
            assert np.float32(accuracy[index]) == np.float32(expected[1])
    for model, old in zip(models, before, strict=True):
        assert_same_bits(old, state(model))


@pytest.mark.parametrize("kind", ["linear", "curved"])
def test_ends_in_batch_mode_are_the_objectives_of_the_two_models(kind):
    models = classifier(1), classifier(2)
    result = path(*models, data(), kind=kind, alphas=[1, 0], batch_size=50)
    for index, model in ((1, models[0]), (0, models[1])):
        objective = Objective(model, data(), batch_norm="batch", batch_size=50)
        assert result.train_loss[index] == objective.value()
        right = objective.predict().argmax(axis=1) == data()[1]
        assert result.train_accuracy[index] == right.mean()
    assert result.objective["batch_size"] == 50 and result.batch_norm == "batch"


def test_points_and_distance():
    a, b = classifier(1), classifier(2)
    result = path(a, b, data())
    np.testing.assert_array_equal(result.alphas, np.linspace(-1, 2, 25))
    squares = [
        np.sum((v.numpy() - w.numpy()) ** 2)
        for v, w in zip(a.trainable_variables, b.trainable_variables, strict=True)
    ]
    assert result.distance == pytest.approx(np.sqrt(np.sum(squares)), rel=1e-6)
    assert result.test_loss is None and result.test_accuracy is None
    assert result.evaluations == 25
    assert "25 points from alpha -1 to 2" in repr(result)


# -- closed form ---------------------------------------------------------------------------------


def regression(kernel):
    model = keras.Sequential([keras.Input((3,)), L.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign(np.reshape(kernel, (3, 1)))
    model.compile(loss="mse")
    return model


@pytest.mark.parametrize("kind", ["linear", "curved"])
def test_linear_regression(kind):
    random = np.random.default_rng(3)
    x, y = random.normal(size=(50, 3)).astype("f4"), random.normal(size=(50, 1)).astype("f4")
    w_a, w_b = random.normal(size=(2, 3)).astype("f4")
    alphas = np.linspace(-1, 2, 7)
    result = path(regression(w_a), regression(w_b), (x, y), kind=kind, alphas=alphas)
    for alpha, loss in zip(alphas, result.train_loss, strict=True):
        if kind == "linear":
            w = alpha * w_b + (1 - alpha) * w_a
        else:
            w = np.sin(alpha * np.pi / 2) * w_b + np.cos(alpha * np.pi / 2) * w_a
        assert loss == pytest.approx(np.mean((x @ w - y[:, 0]) ** 2), rel=1e-5)
    assert result.train_accuracy is None


# -- statistics of BatchNormalization ------------------------------------------------------------


def normalized_line(kernel, mean, variance, gamma):
    """`y = gamma (k x - mean) / sqrt(variance + epsilon)`, one number each."""
    model = keras.Sequential(
        [
            keras.Input((1,)),
            L.Dense(1, use_bias=False),
            L.BatchNormalization(center=False, epsilon=1e-3),
        ]
    )
    model.layers[0].kernel.assign([[kernel]])
    norm = model.layers[1]
    norm.gamma.assign([gamma])
    norm.moving_mean.assign([mean])
    norm.moving_variance.assign([variance])
    model.compile(loss="mse")
    return model


def expected_loss(batch_norm, alpha, x, y, batch_size):
    kernel, gamma = 1 + alpha, 3 - 2 * alpha
    hidden = kernel * x
    parts = [slice(start, start + batch_size) for start in range(0, len(x), batch_size)]
    if batch_norm == "batch":
        moments = [(hidden[part].mean(), hidden[part].var()) for part in parts]
    elif batch_norm == "interpolate":
        moments = [(-1 + 3 * alpha, 0.5 + alpha)] * len(parts)
    else:
        moments = [(hidden.mean(), hidden.var())] * len(parts)
    output = np.concatenate(
        [
            gamma * (hidden[part] - mean) / np.sqrt(variance + 1e-3)
            for part, (mean, variance) in zip(parts, moments, strict=True)
        ]
    )
    return np.mean((output - y) ** 2)


@pytest.mark.parametrize("batch_norm", ["batch", "interpolate", "reestimate"])
def test_each_mode_by_hand(batch_norm):
    random = np.random.default_rng(4)
    x, y = 5 + random.normal(size=50), random.normal(size=50)
    a, b = normalized_line(1, -1, 0.5, 3), normalized_line(2, 2, 1.5, 1)
    before = [model.get_weights() for model in (a, b)]
    alphas = [-0.25, 0, 0.5, 1, 1.25]
    result = path(
        a,
        b,
        (x[:, None].astype("f4"), y[:, None].astype("f4")),
        test=(x[:20, None].astype("f4"), y[:20, None].astype("f4")),
        alphas=alphas,
        batch_norm=batch_norm,
        batch_size=20,  # the last batch has ten
    )
    expected = [expected_loss(batch_norm, alpha, x, y, 20) for alpha in alphas]
    np.testing.assert_allclose(result.train_loss, expected, rtol=1e-4)
    if batch_norm == "reestimate":
        # The test data are normalised by the training data's statistics.
        output = 3 * (x[:20] - x.mean()) / np.sqrt(x.var() + 1e-3)
        assert result.test_loss[1] == pytest.approx(np.mean((output - y[:20]) ** 2), rel=1e-4)
        assert result.evaluations == 15
    assert_same_bits(before[0], a.get_weights())
    assert_same_bits(before[1], b.get_weights())


@pytest.mark.parametrize("batch_norm", ["batch", "interpolate", "reestimate"])
def test_two_replicas_give_the_same_bits(batch_norm):
    weights = [classifier(seed).get_weights() for seed in (1, 2)]
    strategies = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    results = []
    for strategy in strategies:
        with strategy.scope():
            models = [classifier(1) for _ in weights]
        for model, values in zip(models, weights, strict=True):
            model.set_weights(values)
        arguments = {"alphas": [0, 0.3, 1], "batch_size": 50, "batch_norm": batch_norm}
        results.append(path(*models, data(), **arguments))
    assert [result.objective["replicas"] for result in results] == [1, 2]
    np.testing.assert_array_equal(results[0].train_loss, results[1].train_loss)
    np.testing.assert_array_equal(results[0].train_accuracy, results[1].train_accuracy)


def test_statistics_are_pooled_over_batches_and_calls():
    inputs = keras.Input((2,))
    norm = L.BatchNormalization()
    model = keras.Model(inputs, L.Dense(1)(norm(inputs) + norm(2 * inputs)))
    x = np.random.default_rng(0).normal(3, 2, size=(70, 2)).astype("f4")
    objective = Objective(model, (x, x[:, :1]), "mse", batch_size=32)
    estimates = objective.estimate_statistics()
    # The calls see x and 2 x: on average 1.5 times its mean, (1 + 4) / 2 times its variance.
    batches = [x[:32], x[32:64], x[64:]]
    squares = [
        len(part) * (2.5 * part.var(axis=0) + (1.5 * part.mean(axis=0)) ** 2) for part in batches
    ]
    mean = 1.5 * x.mean(axis=0)
    expected = np.concatenate([mean, np.sum(squares, axis=0) / 70 - mean**2])
    np.testing.assert_allclose(estimates, expected, rtol=1e-5)


def test_frozen_normalization_keeps_its_statistics():
    a, b = classifier(1), classifier(2)
    for model in (a, b):
        model.layers[1].trainable = False
    b.layers[1].set_weights(a.layers[1].get_weights())
    assert Objective(a, data()).statistics.size == 0
    kept, moved = (
        path(a, b, data(), alphas=[0.5], batch_norm=mode).train_loss
        for mode in ("interpolate", "reestimate")
    )
    np.testing.assert_array_equal(kept, moved)


def test_normalization_inside_a_recurrent_loop_is_refused():
    class Cell(L.SimpleRNNCell):
        def __init__(self, units, **kwargs):
            super().__init__(units, **kwargs)
            self.norm = L.BatchNormalization()

        def build(self, shape):
            super().build(shape)
            self.norm.build(shape)

        def call(self, sequence, states, training=False):
            return super().call(self.norm(sequence), states, training=training)

    model = keras.Sequential([keras.Input((3, 2)), L.RNN(Cell(2))])
    x = np.ones((4, 3, 2), "f4")
    with pytest.raises(NotImplementedError, match="recurrent"):
        Objective(model, (x, x[:, 0]), "mse").estimate_statistics()


# -- refusals ------------------------------------------------------------------------------------


def test_models_of_different_structure_are_refused():
    with pytest.raises(ValueError, match=r"same structure.*\(3, 1\) and \(4, 5\)"):
        path(regression(np.ones(3)), classifier(1), data())


def test_models_that_compute_something_else_are_refused():
    with pytest.raises(ValueError, match="something else"):
        path(classifier(1), classifier(2, activation="relu"), data())
    with pytest.raises(ValueError, match="frozen weights"):
        path(classifier(1, frozen=True), classifier(2, frozen=True), data())


def test_negative_variances_are_refused():
    a, b = normalized_line(1, 0, 0.5, 1), normalized_line(1, 0, 1.5, 1)
    x = np.ones((4, 1), "f4")
    with pytest.raises(ValueError, match="-0.5 to 2"):
        path(a, b, (x, x), alphas=np.linspace(-1, 2, 7), batch_norm="interpolate")


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "straight"},
        {"batch_norm": "inference"},
        {"alphas": []},
        {"alphas": [0, np.nan]},
        {"verbose": 2},
    ],
)
def test_arguments_out_of_range(wrong):
    model = regression(np.ones(3))
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be"):
        path(model, model, (np.ones((4, 3)), np.ones((4, 1))), **wrong)


def test_a_loss_that_is_not_finite_names_its_place():
    a, b = regression(np.zeros(3)), regression(np.full(3, 1e19))
    with pytest.raises(FloatingPointError, match="alpha=2"):
        path(a, b, (np.ones((4, 3), "f4"), np.ones((4, 1), "f4")), alphas=[0, 2])


def test_json_round_trip():
    result = path(classifier(1), classifier(2), data(), test=data(20))
    back = PathResult.from_json(result.to_json())
    for name in ("alphas", "train_loss", "train_accuracy", "test_loss", "test_accuracy"):
        assert isinstance(getattr(back, name), np.ndarray)
        np.testing.assert_array_equal(getattr(back, name), getattr(result, name))


def test_models_with_other_penalties_are_refused():
    def penalised(factor):
        keras.utils.set_random_seed(0)
        regularizer = keras.regularizers.L2(factor)
        model = keras.Sequential([keras.Input((4,)), L.Dense(3, kernel_regularizer=regularizer)])
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    path(penalised(0.1), penalised(0.1), data(20), alphas=[0, 1])
    with pytest.raises(ValueError, match="regularizers"):
        path(penalised(0.1), penalised(0.2), data(20), alphas=[0, 1])
