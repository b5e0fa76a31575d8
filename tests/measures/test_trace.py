"""The trace against closed forms, and its standard error against the truth over many seeds."""

import numpy as np
import pytest

from keras_sharp import Objective
from keras_sharp.measures.hessian import rademacher
from keras_sharp.measures.trace import hessian_trace
from keras_sharp.results.hessian import HessianTraceResult


def test_both_formulas_by_hand(known):
    model, data, hessian = known["softmax"]
    signs = np.stack([rademacher(48, 3, number) for number in range(22)], axis=1)
    result = hessian_trace(model, data, method="hutchinson", probes=22, seed=3)
    np.testing.assert_allclose(result.samples, np.diag(signs.T @ hessian @ signs), rtol=1e-10)
    assert result.value == pytest.approx(result.samples.mean(), rel=1e-14)
    assert result.standard_error == pytest.approx(result.samples.std(ddof=1) / 22**0.5)
    assert result.products == 22

    result = hessian_trace(model, data, probes=15, sketch=7, seed=3)
    q, _ = np.linalg.qr(hessian @ signs[:, :7])
    rest = signs[:, 7:] - q @ q.T @ signs[:, 7:]
    expected = np.trace(q.T @ hessian @ q) + np.diag(rest.T @ hessian @ rest)
    np.testing.assert_allclose(result.samples, expected, rtol=1e-10)
    assert result.products == 29 and float(result) == result.value


@pytest.mark.parametrize("options", [{"method": "hutchinson"}, {"sketch": 4}])
def test_the_standard_error_is_that_over_seeds(known, options):
    model, data, hessian = known["softmax"]
    objective = Objective(model, data)
    results = [hessian_trace(objective, probes=12, seed=seed, **options) for seed in range(60)]
    errors = np.array([result.value for result in results]) - np.trace(hessian)
    stated = np.sqrt(np.mean([result.standard_error**2 for result in results]))
    assert abs(errors.mean()) < 4 * errors.std() / np.sqrt(60)
    # Given the sketch, the residual probes are unbiased: what they state is the whole error.
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(stated, rel=4 / np.sqrt(2 * 60))


def test_a_sketch_takes_most_of_the_error_away(known):
    model, (x, y), _ = known["linear"]
    x = x * np.geomspace(1e-3, 1, 12)  # a few large eigenvalues and many small ones
    plain = hessian_trace(model, (x, y), method="hutchinson", probes=20)
    sketched = hessian_trace(model, (x, y), probes=10, sketch=5)
    assert plain.products == sketched.products == 20
    assert sketched.standard_error < plain.standard_error / 10
    assert abs(sketched.value - 2 / 30 * np.sum(x**2)) < 4 * sketched.standard_error


def test_low_rank_is_exact(known):
    model, (x, y), _ = known["linear"]
    result = hessian_trace(model, (x[:4], y[:4]), sketch=6)
    assert result.value == pytest.approx(2 / 4 * np.sum(x[:4] ** 2), rel=1e-12)
    assert result.standard_error < 1e-12 * result.value


@pytest.mark.parametrize("sketch", [12, 40])
def test_as_many_columns_as_weights_are_exact(known, sketch):
    model, data, hessian = known["linear"]
    result = hessian_trace(model, data, sketch=sketch, batch_size=7)
    assert result.value == pytest.approx(np.trace(hessian), rel=1e-12)
    assert result.standard_error == 0 and result.products == 12 and "exact" in result.status


def test_layers_add_up(relu, dense):
    model, data = relu
    whole = dense(Objective(model, data))
    parts = [
        hessian_trace(model, data, layers=layer, sketch=40).value for layer in ("first", "second")
    ]
    np.testing.assert_allclose(parts, [np.trace(whole[:36, :36]), np.trace(whole[36:, 36:])], 1e-6)


def test_stops_early_when_told_to(known):
    model, data, _ = known["softmax"]
    options = {"method": "hutchinson", "probes": 400}
    result = hessian_trace(model, data, tolerance=0.05, **options)
    assert 10 <= len(result.samples) < 400 and result.converged
    assert result.standard_error <= 0.05 * result.value
    one_less = result.samples[:-1]
    if len(one_less) >= 10:
        error = one_less.std(ddof=1) / np.sqrt(len(one_less))
        assert error > 0.05 * one_less.mean()
    never = hessian_trace(model, data, tolerance=1e-9, method="hutchinson", probes=12)
    assert never.converged is False and "raise `probes`" in never.status
    assert hessian_trace(model, data, probes=10).converged is None


def test_json_and_repr(known):
    model, data, _ = known["linear"]
    result = hessian_trace(model, data, probes=10, sketch=3, tolerance=0.5)
    back = HessianTraceResult.from_json(result.to_json())
    np.testing.assert_array_equal(back.samples, result.samples)
    assert back.value == result.value and back.objective == result.objective
    assert repr(back) == repr(result) and "hutch++" in repr(result)


def test_errors(known):
    model, data, _ = known["linear"]
    for wrong, match in [
        ({"method": "exact"}, "`method`"),
        ({"probes": 9}, "at least 10"),
        ({"sketch": 0}, "`sketch`"),
        ({"sketch": 3, "method": "hutchinson"}, "`sketch`"),
        ({"tolerance": -1.0}, "`tolerance`"),
        ({"verbose": 2}, "`verbose`"),
    ]:
        with pytest.raises(ValueError, match=match):
            hessian_trace(model, data, **wrong)
