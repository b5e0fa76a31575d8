"""Principal components of trajectories whose plane is known."""

import numpy as np
import pytest

from keras_sharp.landscape import principal_plane


def known_trajectory(noise=0.0):
    """Iterates in a plane spanned by two orthonormal vectors, and those."""
    random = np.random.default_rng(0)
    basis, _ = np.linalg.qr(random.normal(size=(40, 2)))
    angles = np.linspace(0, 2, 30)
    coordinates = np.stack([9 * np.cos(angles), 2 * np.sin(angles)], axis=1)
    iterates = random.normal(size=40) + coordinates @ basis.T
    return iterates + noise * random.normal(size=iterates.shape), basis


def test_it_finds_the_plane():
    iterates, basis = known_trajectory()
    plane = principal_plane(iterates)
    np.testing.assert_allclose(plane.directions.T @ plane.directions, np.eye(2), atol=1e-12)
    # The two planes are one: projecting on the other loses nothing.
    overlap = np.linalg.svd(plane.directions.T @ basis)[1]
    np.testing.assert_allclose(overlap, 1, rtol=1e-12)
    assert np.sum(plane.explained) == pytest.approx(1)
    np.testing.assert_allclose(
        plane.centre + plane.path @ plane.directions.T, iterates, rtol=1e-9, atol=1e-12
    )
    np.testing.assert_array_equal(plane.path[-1], 0)
    assert np.all(plane.path[0] > 0)


def test_variance_explained():
    iterates, _ = known_trajectory(noise=0.3)
    plane = principal_plane(iterates)
    spread = iterates - iterates.mean(axis=0)
    values = np.linalg.eigvalsh(spread @ spread.T)[::-1]
    np.testing.assert_allclose(plane.explained, values[:2] / values.sum(), rtol=1e-9)
    along = np.var(plane.path, axis=0) / np.sum(np.var(iterates, axis=0))
    np.testing.assert_allclose(along, plane.explained, rtol=1e-9)


@pytest.mark.parametrize(
    "iterates",
    [
        np.ones(5),
        np.ones((2, 5)),
        np.full((4, 5), np.nan),
        np.arange(4)[:, None] * np.ones(5),
        np.ones((4, 5)),
    ],
)
def test_what_spans_no_plane_is_refused(iterates):
    with pytest.raises(ValueError, match="`iterates` must"):
        principal_plane(iterates)
