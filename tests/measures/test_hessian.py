"""The Hessian as an operator, against closed forms and finite differences."""

import keras
import numpy as np
import pytest
import scipy.sparse.linalg
import tensorflow as tf

from keras_sharp import Objective
from keras_sharp.measures.hessian import HessianOperator, rademacher

L = keras.layers


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("name", ["linear", "softmax"])
def test_is_the_closed_form_however_batched(known, name, batch_size):
    model, data, hessian = known[name]
    operator = HessianOperator(Objective(model, data, batch_size=batch_size))
    whole = operator @ np.eye(len(hessian))
    np.testing.assert_allclose(whole, hessian, rtol=0, atol=1e-10 * np.abs(hessian).max())
    np.testing.assert_array_equal(operator.T @ np.eye(len(hessian)), whole)
    assert operator.products == 2 * len(hessian)


def test_norm_is_a_lower_bound_that_the_top_eigenvector_attains(known):
    model, data, hessian = known["softmax"]
    operator, (values, vectors) = HessianOperator(Objective(model, data)), np.linalg.eigh(hessian)
    operator @ np.ones(len(hessian))
    assert 0 < operator.norm < values[-1]
    operator @ vectors[:, -1]
    assert operator.norm == pytest.approx(values[-1], rel=1e-10)


@pytest.mark.parametrize(
    ("layers", "owned"),
    [
        (["first"], slice(0, 36)),
        ("second", slice(36, 57)),
        (["second", "first"], slice(0, 57)),
        ("first/kernel", slice(0, 30)),
        ("bias", [*range(30, 36), *range(54, 57)]),
    ],
)
def test_layers_are_blocks(relu, dense, layers, owned):
    objective = Objective(*relu)
    operator, whole = HessianOperator(objective, layers), dense(objective)
    rows = np.arange(57)[owned]
    np.testing.assert_array_equal(operator.indices, rows)
    assert operator.shape == (len(rows), len(rows))
    block = operator @ np.eye(len(rows))
    np.testing.assert_allclose(block, whole[np.ix_(rows, rows)], rtol=0, atol=1e-7)
    embedded = operator.embed(np.ones((len(rows), 2)))
    assert embedded.shape == (57, 2) and embedded[rows].all() and embedded.sum() == 2 * len(rows)


def test_weights_are_those_of_the_moment_or_those_given(relu, dense):
    model, data = relu
    objective, unit = Objective(model, data), np.eye(57)[3]
    expected, w = dense(objective)[:, 3], objective.weights
    operator = HessianOperator(objective)
    model.set_weights([2 * value for value in model.get_weights()])
    np.testing.assert_allclose(operator @ unit, expected, rtol=0, atol=1e-7)
    again = HessianOperator(objective, weights=w) @ unit
    np.testing.assert_array_equal(again, operator @ unit)
    assert not np.allclose(HessianOperator(objective) @ unit, expected)


def test_moving_statistics_are_those_of_the_moment():
    random = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((3,)), L.Dense(4), L.BatchNormalization(), L.Dense(2)])
    data = random.normal(size=(10, 3)), random.normal(size=(10, 2))
    objective = Objective(model, data, "mse")
    operator, unit = HessianOperator(objective), np.eye(objective.size)[2]
    before = operator @ unit
    model.layers[1].moving_variance.assign(np.full(4, 9.0))
    np.testing.assert_array_equal(operator @ unit, before)
    assert not np.allclose(HessianOperator(objective) @ unit, before)


def test_any_scipy_routine_takes_it(known):
    model, data, hessian = known["linear"]
    objective = Objective(model, data)
    _, gradient = objective.value_and_gradient()
    step, failed = scipy.sparse.linalg.cg(HessianOperator(objective), -gradient, rtol=1e-12)
    assert not failed
    # Newton's step ends in the minimum.
    _, there = objective.value_and_gradient(objective.weights + step)
    assert np.abs(there).max() < 1e-9 * np.abs(gradient).max()


def test_probes_are_signs_of_their_own():
    probes = np.stack([rademacher(4000, 0, number) for number in range(3)])
    assert set(np.unique(probes)) == {-1.0, 1.0}
    assert np.abs(np.corrcoef(probes) - np.eye(3)).max() < 4 / np.sqrt(4000)
    assert np.abs(probes.mean(axis=1)).max() < 4 / np.sqrt(4000)
    np.testing.assert_array_equal(probes[1], rademacher(4000, 0, 1))


def test_errors(relu):
    objective = Objective(*relu)
    with pytest.raises(ValueError, match=r"second/bias.*Received: 'third'"):
        HessianOperator(objective, ["first", "third"])
    for layers in ([], [1], "", 3.5):
        with pytest.raises(ValueError, match="`layers` must be names"):
            HessianOperator(objective, layers)
    model = keras.Sequential([keras.Input((1,)), L.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign([[0.0]])
    root = Objective(
        model, (np.ones((2, 1)), np.ones((2, 1))), lambda y, p: tf.sqrt(tf.abs(p[:, 0]))
    )
    with pytest.raises(FloatingPointError, match="square root"):
        HessianOperator(root) @ np.ones(1)
