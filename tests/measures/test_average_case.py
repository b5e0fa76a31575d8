"""Average-case sharpness against expectations in closed form."""

import numpy as np
import pytest

from keras_sharp import Objective
from keras_sharp.measures.average_case import average_case_sharpness
from keras_sharp.results.adaptive import AverageCaseSharpnessResult


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_quadratic(known, norm, adaptive):
    model, data, hessian = known["linear"]
    c = np.abs(model.get_weights()[0].ravel()) if adaptive else np.ones(12)
    result = average_case_sharpness(
        model, data, rho=0.2, norm=norm, adaptive=adaptive, samples=400, m=None
    )
    variance = 1.0 if norm == "l2" else 1 / 3
    expected = 0.2**2 / 2 * variance * np.sum(c**2 * np.diag(hessian))
    assert abs(result.value - expected) < 4 * result.standard_error
    assert result.value == float(result) == pytest.approx(result.rises.mean())
    assert result.rises.shape == (1, 400) and result.evaluations == 401


def test_the_standard_error_is_that_over_seeds(known):
    model, (x, _), hessian = known["linear"]
    objective = Objective(model, (x, x @ model.get_weights()[0]), "mse")
    c = np.abs(objective.weights)
    options = {"rho": 0.2, "m": 12, "samples": 10}
    results = [average_case_sharpness(objective, seed=seed, **options) for seed in range(60)]
    # The mean over uneven batches, by examples, is the whole set's.
    np.testing.assert_array_equal(results[0].sizes, [12, 12, 6])
    errors = np.array([result.value for result in results])
    errors -= 0.2**2 / 2 * np.sum(c**2 * np.diag(hessian))
    stated = np.sqrt(np.mean([result.standard_error**2 for result in results]))
    assert abs(errors.mean()) < 4 * errors.std() / np.sqrt(60)
    assert errors.std() == pytest.approx(stated, rel=4 / np.sqrt(2 * 60))


def test_perturbations_scale_with_rho(known):
    """At a minimum of a quadratic the same perturbations, twice as large, rise four times."""
    model, (x, _), _ = known["linear"]
    data = x, x @ model.get_weights()[0]
    small, large = (average_case_sharpness(model, data, rho=rho) for rho in (0.1, 0.2))
    np.testing.assert_allclose(large.rises, 4 * small.rises, rtol=1e-9)


def test_json_repr_and_errors(relu):
    model, data = relu
    result = average_case_sharpness(model, data, rho=0.1, m=20, samples=3)
    back = AverageCaseSharpnessResult.from_json(result.to_json())
    np.testing.assert_array_equal(back.rises, result.rises)
    assert repr(back) == repr(result) and "3 samples" in repr(result)
    for wrong in ({"rho": -1}, {"samples": 1}, {"norm": 2}, {"m": 1.5}, {"verbose": 3}):
        with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
            average_case_sharpness(model, data, **{"rho": 0.1, **wrong})
    with pytest.raises(FloatingPointError, match="smaller `rho`"):
        average_case_sharpness(model, data, rho=1e300, adaptive=False)
