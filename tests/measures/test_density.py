"""The density against dense spectra: exact moments, exact nodes, areas."""

import numpy as np
import pytest
import scipy.linalg

from keras_sharp import Objective
from keras_sharp.measures.density import hessian_density, lanczos
from keras_sharp.measures.hessian import rademacher
from keras_sharp.results.hessian import HessianDensityResult


@pytest.mark.parametrize("name", ["linear", "softmax"])
def test_nodes_and_weights_integrate_polynomials_exactly(known, name):
    model, data, hessian = known[name]
    size, steps = len(hessian), 5
    result = hessian_density(model, data, probes=3, steps=steps, seed=2, batch_size=7)
    assert result.nodes.shape == result.weights.shape == (3, steps)
    np.testing.assert_allclose(result.weights.sum(axis=1), 1, rtol=1e-12)
    for number in range(3):
        probe = rademacher(size, 2, number)
        image = probe
        for order in range(2 * steps):
            found = result.weights[number] @ result.nodes[number] ** order
            assert found == pytest.approx(probe @ image / size, rel=1e-8), order
            image = hessian @ image
    assert result.products == 15


def test_first_moments_are_those_of_the_spectrum(relu, dense):
    model, data = relu
    spectrum = np.linalg.eigvalsh(dense(Objective(model, data)))
    result = hessian_density(model, data, probes=60, steps=4)
    for order in (1, 2, 3):
        value, error = result.moment(order)
        assert error < np.mean(np.abs(spectrum) ** order)
        assert abs(value - np.mean(spectrum**order)) < 4 * error
    assert result.moment(0) == (pytest.approx(1.0, rel=1e-12), pytest.approx(0.0, abs=1e-12))
    assert hessian_density(model, data, probes=1, steps=4).moment(1)[1] is None


@pytest.mark.parametrize("steps", [12, 100])
def test_as_many_steps_as_weights_give_the_eigenvalues(known, steps):
    model, data, hessian = known["linear"]
    result = hessian_density(model, data, probes=2, steps=steps)
    spectrum = np.linalg.eigvalsh(hessian)
    assert result.steps == 12
    for nodes in result.nodes:
        np.testing.assert_allclose(nodes, spectrum, rtol=1e-6)
    # The weight of an eigenvalue is the probe's share along its eigenvector.
    _, vectors = np.linalg.eigh(hessian)
    shares = (vectors.T @ rademacher(12, 0, 1)) ** 2 / 12
    np.testing.assert_allclose(result.weights[1], shares, rtol=1e-5)


def test_no_eigenvalue_is_found_twice():
    """Without orthogonalising, an outlier that has converged comes back after some ten steps."""

    class Diagonal:
        """The part of a `HessianOperator` that Lanczos uses."""

        entries = np.append(np.linspace(0, 1, 199), 100.0)
        norm = 100.0

        def matvec(self, vector):
            return self.entries * vector

    diagonal, off = lanczos(Diagonal(), rademacher(200, 0, 0), 60, 1e-15)
    ritz = scipy.linalg.eigh_tridiagonal(diagonal, off, eigvals_only=True)
    assert np.sum(ritz > 1.5) == 1 and ritz[-1] == pytest.approx(100, rel=1e-12)


def test_an_exhausted_krylov_space_ends_the_probe(known):
    model, (x, y), _ = known["linear"]
    result = hessian_density(model, (x[:3], y[:3]), probes=2, steps=10)
    spectrum = np.linalg.eigvalsh(2 / 3 * x[:3].T @ x[:3])
    # Three eigenvalues and all the zeros make four nodes.
    assert result.products == 8 and "fewer than 10 steps" in result.status and result.converged
    assert hessian_density(model, (x[:3], y[:3]), probes=2, steps=3).converged is None
    for nodes, weights in zip(result.nodes, result.weights, strict=True):
        np.testing.assert_allclose(nodes[:4], spectrum[-4:], rtol=1e-8, atol=1e-12)
        assert np.all(nodes[4:] == nodes[3]) and not weights[4:].any()
    assert result.moment(1)[0] == pytest.approx(
        np.mean([rademacher(12, 0, n) @ (x[:3].T @ (x[:3] @ rademacher(12, 0, n))) for n in (0, 1)])
        * (2 / 3 / 12)
    )


def test_a_flat_loss_has_its_whole_spectrum_at_zero(known):
    model, data, _ = known["linear"]
    result = hessian_density(model, data, loss=lambda y, p: p[:, 0], probes=2)
    assert not result.nodes.any() and result.moment(1) == (0.0, 0.0)
    assert np.trapezoid(result.density(result.grid()), result.grid()) == pytest.approx(1, rel=1e-4)


def test_the_density_has_area_one_and_counts_eigenvalues(known):
    model, data, hessian = known["linear"]
    result = hessian_density(model, data, probes=3, steps=12)
    spectrum, vectors = np.linalg.eigh(hessian)
    widest = np.argmax(np.diff(spectrum))
    gap, width = spectrum[widest : widest + 2].mean(), np.diff(spectrum)[widest] / 12
    grid = result.grid(4000, width)
    density = result.density(grid, width)
    assert grid[0] < spectrum[0] and grid[-1] > spectrum[-1] and np.all(density >= 0)
    assert np.trapezoid(density, grid) == pytest.approx(1, rel=1e-5)
    probes = np.stack([rademacher(12, 0, number) for number in range(3)], axis=1)
    seen = np.sum((vectors[:, widest + 1 :].T @ probes) ** 2) / 3  # of those above the gap
    above = 12 * np.trapezoid(density[grid > gap], grid[grid > gap])
    assert above == pytest.approx(seen, rel=1e-3)
    assert result.density(np.zeros((2, 3)), width).shape == (2, 3)


def test_a_single_node_by_hand(known):
    model, data, _ = known["linear"]
    result = hessian_density(model, data, probes=1, steps=1)
    node = result.nodes[0, 0]
    assert result.density(np.array([node]), 0.5)[0] == pytest.approx(1 / (0.5 * np.sqrt(2 * np.pi)))
    ratio = result.density(np.array(node + 0.5), 0.5) / result.density(np.array(node), 0.5)
    assert ratio == pytest.approx(np.exp(-0.5))


def test_a_layer_s_own_density(relu, dense):
    model, data = relu
    block = dense(Objective(model, data))[36:, 36:]
    result = hessian_density(model, data, layers="second", probes=1, steps=3)
    probe = rademacher(21, 0, 0)
    assert result.moment(2)[0] == pytest.approx(np.sum((block @ probe) ** 2) / 21, rel=1e-6)


def test_json_and_repr(known):
    model, data, _ = known["linear"]
    result = hessian_density(model, data, probes=2, steps=4)
    back = HessianDensityResult.from_json(result.to_json())
    np.testing.assert_array_equal(back.nodes, result.nodes)
    np.testing.assert_array_equal(back.density(back.grid()), result.density(result.grid()))
    assert repr(back) == repr(result) and "2 probes of 4 steps" in repr(result)


def test_errors(known):
    model, data, _ = known["linear"]
    for wrong in ({"probes": 0}, {"steps": 0}, {"verbose": 2}):
        with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
            hessian_density(model, data, **wrong)
    with pytest.raises(ValueError, match="`width`"):
        hessian_density(model, data, probes=1, steps=1).density(np.zeros(1), -1.0)
