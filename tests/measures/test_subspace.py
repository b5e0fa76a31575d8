"""The random subspace against the dense matrix it stands for."""

import threading
import weakref

import numpy as np
import pytest

from keras_sharp.measures import subspace
from keras_sharp.measures.subspace import GaussianSubspace

CENTRE = np.random.default_rng(0).normal(size=1000)


def dense(space):
    return np.stack([space.lift(unit) - CENTRE for unit in np.eye(7)], axis=1)


@pytest.fixture(params=["kept", "drawn again"])
def space(request, monkeypatch):
    monkeypatch.setattr(subspace, "_ENTRIES", 2100)
    return GaussianSubspace(CENTRE, 7, seed=5, memory=2**20 if request.param == "kept" else 0)


def test_maps_are_the_matrix_and_its_transpose(space):
    a, random = dense(space), np.random.default_rng(1)
    y, gradient = random.normal(size=7), random.normal(size=1000)
    np.testing.assert_allclose(space.lift(y), CENTRE + a @ y, rtol=0, atol=1e-5)
    np.testing.assert_allclose(space.pull(gradient), a.T @ gradient, rtol=0, atol=1e-4)
    np.testing.assert_allclose(space.coordinates, np.linalg.pinv(a) @ CENTRE, rtol=0, atol=1e-6)


def test_entries_are_standard_normal_and_independent(space):
    a = dense(space)
    assert abs(a.mean()) < 4 / np.sqrt(a.size) and abs(a.std() - 1) < 4 / np.sqrt(2 * a.size)
    blocks = [a[start : start + 300].ravel() for start in (0, 300, 600)]
    assert np.abs(np.corrcoef(blocks) - np.eye(3)).max() < 4 / np.sqrt(2100)


def test_seed_decides(space):
    again = GaussianSubspace(CENTRE, 7, seed=5, memory=2**20)
    other = GaussianSubspace(CENTRE, 7, seed=6, memory=2**20)
    np.testing.assert_array_equal(dense(space), dense(again))
    assert not np.allclose(dense(space), dense(other))


def test_coordinates_in_a_subspace_of_nearly_all_dimensions():
    """A's condition number is 254 here, and that of its normal equations 64,000."""
    space = GaussianSubspace(CENTRE[:200], 199, seed=0, memory=2**20)
    a = np.stack([space.lift(unit) - CENTRE[:200] for unit in np.eye(199)], axis=1)
    expected = np.linalg.lstsq(a, CENTRE[:200])[0]
    np.testing.assert_allclose(space.coordinates, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("memory", "at_once"), [(0, 1), (3 * 56 * 7 * 4, 3)])
def test_no_more_blocks_are_alive_than_fit(memory, at_once, monkeypatch):
    monkeypatch.setattr(subspace, "_ENTRIES", 56 * 7)  # 18 blocks of 56 rows
    monkeypatch.setattr(subspace.os, "cpu_count", lambda: 8)
    space, draw = GaussianSubspace(CENTRE, 7, seed=5, memory=memory), GaussianSubspace._draw
    # Each draw waits for as many others as there should be, on threads of their own.
    together = threading.Barrier(at_once, timeout=60)
    blocks, alive = [], []

    def watched(self, start):
        block = draw(self, start)
        blocks.append(weakref.ref(block))
        together.wait()
        alive.append(sum(each() is not None for each in blocks))
        return block

    monkeypatch.setattr(GaussianSubspace, "_draw", watched)
    space.lift(np.ones(7))
    assert len(alive) == 18 and max(alive) <= at_once + 1  # and the one in use
