"""The Gaussian process of AutoWU against its equations in dense matrices."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm

from keras_sharp.callbacks.passed_minimum import passed_minimum, probabilities_below_last

GRID = np.linspace(0, 1, 500)


def kernel(a, b):
    return np.exp(-((a[:, None] - b) ** 2) / (2 * 0.2**2))


def dense(x, y):
    """Mean and covariance on the grid, with the hyperparameters of the largest likelihood."""

    def minus_log_likelihood(theta):
        scale, noise = np.exp(theta)
        covariance = scale * kernel(x, x) + noise * np.eye(len(x))
        _, log_determinant = np.linalg.slogdet(covariance)
        return (y @ np.linalg.solve(covariance, y) + log_determinant) / 2

    bounds = [(np.log(1e-5), np.log(1e5)), (np.log(1e-4), np.log(1e5))]
    found = minimize(minus_log_likelihood, [0.0, -4.0], bounds=bounds, tol=1e-12)
    scale, noise = np.exp(found.x)
    inverse = np.linalg.inv(scale * kernel(x, x) + noise * np.eye(len(x)))
    across = scale * kernel(GRID, x)
    return across @ inverse @ y, scale * kernel(GRID, GRID) - across @ inverse @ across.T


def bowl(count, bottom, noise=0.05):
    x = np.arange(count) / count
    return 1 + 2 * (x - bottom) ** 2 + noise * np.random.default_rng(1).normal(size=count)


@pytest.mark.parametrize("lost", [[], [3, 40, 79]])
def test_against_dense_matrices(lost):
    losses = bowl(80, 0.6)
    losses[lost] = [np.nan, np.inf, -np.inf][: len(lost)]
    kept = np.setdiff1d(np.arange(80), lost)
    y = losses[kept]
    mean, covariance = dense(kept / 80, y - y.mean())
    variance = np.diag(covariance) + covariance[-1, -1] - 2 * covariance[-1] + 1e-4
    expected = norm.cdf((mean[-1] - mean[:-1]) / np.sqrt(variance[:-1])).max()
    # With no more points than are fitted, all subsets are the same.
    probabilities, places = passed_minimum(losses, draws=2, seed=0)
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    np.testing.assert_allclose(places, GRID[mean.argmin()], atol=1 / 499 + 1e-9)


def test_a_fall_and_a_rise():
    before, _ = passed_minimum(bowl(300, 1.2), draws=3, seed=0)
    after, places = passed_minimum(bowl(300, 0.5), draws=3, seed=0)
    assert before.max() < 0.9 and after.min() > 0.95
    np.testing.assert_allclose(places, 0.5, atol=0.05)


def test_large_curves_are_looked_at_in_seeded_random_subsets():
    losses = bowl(700, 0.9, noise=0.3)
    probabilities, places = passed_minimum(losses, draws=3, seed=0)
    again = passed_minimum(losses, draws=3, seed=0)
    np.testing.assert_array_equal(again, (probabilities, places))
    assert len(set(probabilities)) == 3
    assert not set(passed_minimum(losses, draws=3, seed=1)[0]) & set(probabilities)


def test_a_loss_that_explodes_is_a_rise():
    losses = bowl(80, 0.5)
    losses[-16:] = 1e30 * (1 + losses[-16:])
    probabilities, _ = passed_minimum(losses, draws=2, seed=0)
    assert probabilities.min() > 0.95


def test_without_a_finite_loss_there_is_no_answer():
    assert passed_minimum(np.array([np.nan, np.inf]), draws=5, seed=0) is None


def test_probabilities_against_a_monte_carlo_estimate():
    random = np.random.default_rng(0)
    mean, root = random.normal(size=6), random.normal(size=(6, 6))
    draws = mean + random.normal(size=(400_000, 6)) @ root.T
    expected = (draws[:, :-1] < draws[:, -1:]).mean(axis=0)
    actual = probabilities_below_last(mean, root @ root.T)
    np.testing.assert_allclose(actual, expected, atol=4 * 0.5 / np.sqrt(400_000))
