"""Eigenpairs against dense Hessians: closed forms, and finite differences in float64."""

import keras
import numpy as np
import pytest

from keras_sharp import Objective
from keras_sharp.measures.eigenvalues import hessian_eigenvalues
from keras_sharp.measures.trace import hessian_trace
from keras_sharp.results.hessian import HessianEigenvaluesResult

L = keras.layers

SORTED = {"LA": lambda v: np.sort(v)[::-1], "SA": np.sort, "LM": lambda v: v[np.argsort(-abs(v))]}


@pytest.mark.parametrize(
    # The softmax is flat along twelve directions: its smallest eigenvalues are one and the same.
    ("name", "which"),
    [("linear", "LA"), ("linear", "SA"), ("linear", "LM"), ("softmax", "LA"), ("softmax", "LM")],
)
def test_closed_forms(known, name, which):
    model, data, hessian = known[name]
    result = hessian_eigenvalues(model, data, k=4, which=which, tolerance=1e-5, batch_size=7)
    expected = SORTED[which](np.linalg.eigvalsh(hessian))[:4]
    np.testing.assert_allclose(result.eigenvalues, expected, rtol=1e-4)
    assert float(result) == result.eigenvalues[0] and result.converged.all()
    v = result.eigenvectors
    np.testing.assert_allclose(v.T @ v, np.eye(4), rtol=0, atol=1e-10)
    true = np.linalg.norm(hessian @ v - v * result.eigenvalues, axis=0)
    np.testing.assert_allclose(result.residuals, true, rtol=1e-3, atol=1e-9)
    assert "All of 4" in result.status


@pytest.mark.parametrize("which", SORTED)
def test_an_indefinite_hessian(relu, dense, which):
    model, data = relu
    expected = SORTED[which](np.linalg.eigvalsh(dense(Objective(model, data))))[:3]
    result = hessian_eigenvalues(model, data, k=3, which=which, tolerance=1e-5)
    np.testing.assert_allclose(result.eigenvalues, expected, rtol=1e-4)


@pytest.mark.parametrize("k", [1, 7, 12])
def test_as_many_pairs_as_weights(known, k):
    model, data, hessian = known["linear"]
    result = hessian_eigenvalues(model, data, k=k)
    np.testing.assert_allclose(result.eigenvalues, SORTED["LA"](np.linalg.eigvalsh(hessian))[:k])
    assert result.products == 12 and result.converged.all()


def test_a_layer_s_own_spectrum(relu, dense):
    model, data = relu
    block = dense(Objective(model, data))[36:, 36:]
    result = hessian_eigenvalues(model, data, k=2, layers=["second"], tolerance=1e-5)
    np.testing.assert_allclose(result.eigenvalues, SORTED["LA"](np.linalg.eigvalsh(block))[:2])
    assert result.dimension == 21 and result.eigenvectors.shape == (57, 2)
    assert not result.eigenvectors[:36].any()


# -- layers whose second derivatives are hard to get right ---------------------------------------

NETS = {
    "layer normalization": ((5,), [lambda: L.Dense(6), L.LayerNormalization]),
    "group normalization": ((5,), [lambda: L.Dense(6), lambda: L.GroupNormalization(2)]),
    "batch normalization": ((5,), [lambda: L.Dense(6), L.BatchNormalization]),
    "max-pooling": ((6, 6, 1), [lambda: L.Conv2D(3, 3), L.MaxPooling2D, L.Flatten]),
    "GRU": ((3, 2), [lambda: L.GRU(3)]),
    "LSTM": ((3, 2), [lambda: L.LSTM(3)]),
}


@pytest.mark.parametrize("name", NETS)
def test_top_eigenvalue_and_trace_are_the_dense_hessian_s(float64, dense, name):
    shape, layers = NETS[name]
    model = keras.Sequential(
        [keras.Input(shape), *[layer() for layer in layers], L.Activation("tanh"), L.Dense(3)]
    )
    random = np.random.default_rng(0)
    data = random.normal(size=(20, *shape)), random.integers(0, 3, 20)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    objective = Objective(model, data, loss, batch_norm="batch", batch_size=10)
    spectrum = np.linalg.eigvalsh(dense(objective))
    top = hessian_eigenvalues(objective, k=2, tolerance=1e-5)
    np.testing.assert_allclose(top.eigenvalues, spectrum[:-3:-1], rtol=1e-4)
    trace = hessian_trace(objective, sketch=objective.size)
    assert trace.value == pytest.approx(spectrum.sum(), rel=1e-4)


# -- when it does not converge -------------------------------------------------------------------


def test_what_was_found_is_returned_with_flags(known):
    model, data, hessian = known["softmax"]
    spectrum = np.linalg.eigvalsh(hessian)
    flags = []
    for max_products in (83, 100, 1000):
        result = hessian_eigenvalues(model, data, tolerance=1e-13, max_products=max_products)
        assert result.eigenvalues.shape == (5,) and result.eigenvectors.shape == (48, 5)
        assert result.products <= max_products
        assert np.all(np.diff(result.eigenvalues) <= 0)
        # What a residual promises, whether converged or not.
        for value, residual in zip(result.eigenvalues, result.residuals, strict=True):
            assert np.abs(spectrum - value).min() <= residual + 1e-12
        within = result.residuals <= 1e-13 * result.eigenvalues
        assert np.all(result.converged[within])
        flags.append(result.converged.sum())
        assert f"{flags[-1]} of 5 eigenpairs converged in {result.products} products" in (
            result.status.replace("All", "5")
        )
    assert flags[0] < 5 and flags[-1] == 5


def test_a_flat_loss_has_eigenvalues_zero(float64):
    model = keras.Sequential([keras.Input((30,)), L.Dense(1, use_bias=False)])
    data = np.ones((4, 30)), np.ones((4, 1))
    result = hessian_eigenvalues(model, data, k=2, loss=lambda y, p: p[:, 0])
    assert not result.eigenvalues.any() and not result.residuals.any() and result.converged.all()


def test_zeros_converge_in_float32():
    random = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((40,)), L.Dense(1, use_bias=False)])
    x = random.normal(size=(3, 40)).astype("f4")
    result = hessian_eigenvalues(model, (x, np.ones((3, 1), "f4")), k=6, loss="mse")
    expected = SORTED["LA"](np.linalg.eigvalsh(2 / 3 * x.T.astype("f8") @ x))[:6]
    scale = expected[0]
    np.testing.assert_allclose(result.eigenvalues, expected, rtol=1e-4, atol=1e-5 * scale)
    assert result.converged.all()


def test_the_smallest_eigenvalue_of_a_flat_loss_converges_in_float32():
    """A softmax does not see the same weights added to all classes."""
    random = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((8,)), L.Dense(4)])
    x, y = random.normal(size=(60, 8)).astype("f4"), random.integers(0, 4, 60)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    result = hessian_eigenvalues(model, (x, y), k=1, which="SA", loss=loss)
    assert abs(result.eigenvalues[0]) < 1e-5 and result.converged.all()
    assert result.products < 300


def test_mixed_precision_promises_no_more_than_it_holds():
    """A bfloat16 layer in a float32 model: what the same weights give in float32 is within reach.

    Products agree to about 0.5 % of the largest eigenvalue, so no pair has converged to 0.1 %.
    """
    random = np.random.default_rng(7)
    data = random.normal(size=(40, 5)).astype("f4"), random.integers(0, 3, 40)
    weights = [random.normal(size=shape) for shape in ((5, 6), (6,), (6, 3), (3,))]
    results = []
    for policy in ("float32", "mixed_bfloat16"):
        layers = [L.Dense(6, "tanh", dtype=policy), L.Dense(3, dtype="float32")]
        model = keras.Sequential([keras.Input((5,)), *layers])
        model.set_weights(weights)
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        results.append(hessian_eigenvalues(model, data, k=3))
    exact, mixed = results
    assert exact.converged.all() and not mixed.converged.any()
    assert np.all(np.abs(mixed.eigenvalues - exact.eigenvalues) <= mixed.residuals)
    assert "0.08 of the largest eigenvalue: raise `tolerance`" in mixed.status
    loose = hessian_eigenvalues(model, data, k=1, tolerance=0.1)
    assert loose.converged.all() and loose.residuals[0] <= 0.1 * loose.eigenvalues[0]


# -- manners -------------------------------------------------------------------------------------


def test_the_seed_decides_and_the_model_stays(relu):
    model, data = relu
    before = [variable.numpy().copy() for variable in model.variables]
    first, again, other = (hessian_eigenvalues(model, data, k=2, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.eigenvalues, again.eigenvalues)
    assert not np.array_equal(first.eigenvectors, other.eigenvectors)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def test_json_and_repr(known):
    model, data, _ = known["linear"]
    result = hessian_eigenvalues(model, data, k=2, layers="only")
    back = HessianEigenvaluesResult.from_json(result.to_json())
    np.testing.assert_array_equal(back.eigenvalues, result.eigenvalues)
    np.testing.assert_array_equal(back.converged, result.converged)
    assert back.eigenvectors is None and back.converged.dtype == bool
    assert back.objective == result.objective and back.layers == ["only"]
    assert "LA" in repr(result) and "12 weights, of only" in repr(back)


def test_errors(known):
    model, data, _ = known["softmax"]
    for wrong, match in [
        ({"k": 0}, "`k`"),
        ({"k": 49}, "must not exceed"),
        ({"which": "BE"}, "`which`"),
        ({"tolerance": 0}, "`tolerance`"),
        ({"max_products": 82}, "at least 83"),
        ({"verbose": 2}, "`verbose`"),
        ({"layers": ["other"]}, "`layers`"),
    ]:
        with pytest.raises(ValueError, match=match):
            hessian_eigenvalues(model, data, **wrong)
    model.layers[0].kernel.assign(np.full((12, 4), np.nan))
    with pytest.raises(ValueError, match="finite"):
        hessian_eigenvalues(model, data)
