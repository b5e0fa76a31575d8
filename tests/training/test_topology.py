"""Mixing matrices keep the mean, and shrink differences as fast as theory says."""

import functools

import numpy as np
import pytest

from keras_sharp.training import topology
from keras_sharp.training.mixing import rounds, vectors_sent

KINDS = [
    topology.ring,
    topology.grid,
    topology.torus,
    topology.star,
    topology.full,
    topology.exponential,
    topology.symmetric_exponential,
    topology.one_peer_exponential,
    topology.hypercube,
    topology.random_matchings,
]


def product(made):
    return functools.reduce(np.matmul, made.matrices[::-1])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_columns_sum_to_one_for_any_number_of_nodes(kind):
    for nodes in (1, 2, 3, 4, 6, 7, 8, 16):
        if kind is topology.hypercube and nodes & (nodes - 1):
            continue
        made = kind(nodes)
        assert made.nodes == nodes
        np.testing.assert_allclose(made.matrices.sum(1), 1, atol=1e-12)
        np.testing.assert_allclose(made.matrices.sum(2), 1, atol=1e-12)
        assert (np.diagonal(made.matrices, axis1=1, axis2=2) > 0).all()


@pytest.mark.parametrize(
    ("kind", "nodes", "expected"),
    [
        # A ring's eigenvalues are (1 + 2 cos(2 pi k / n)) / 3.
        (topology.ring, 8, (1 + 2 * np.cos(2 * np.pi / 8)) / 3),
        (topology.ring, 16, (1 + 2 * np.cos(2 * np.pi / 16)) / 3),
        (topology.ring, 32, (1 + 2 * np.cos(2 * np.pi / 32)) / 3),
        (topology.grid, 8, 0.8536),
        (topology.grid, 16, 0.8686),
        (topology.grid, 32, 0.9658),
        # An exponential graph of 2^p nodes has (p - 1) / (p + 1).
        (topology.exponential, 8, 1 / 2),
        (topology.exponential, 16, 3 / 5),
        (topology.exponential, 32, 2 / 3),
        (topology.symmetric_exponential, 8, 0.5),
        (topology.star, 8, 7 / 8),
        (topology.full, 8, 0.0),
    ],
)
def test_second_eigenvalue(kind, nodes, expected):
    assert kind(nodes).second_eigenvalue == pytest.approx(expected, abs=1e-4)
    assert kind(nodes).spectral_gap == pytest.approx(1 - expected, abs=1e-4)


def test_second_eigenvalue_of_a_long_period():
    # The product of all is less than what rounding leaves of the mean, or than any float.
    ring = topology.ring(8)
    for times in (400, 4000):
        made = topology.Topology("long", np.tile(ring.matrices, (times, 1, 1)))
        assert made.second_eigenvalue == pytest.approx(ring.second_eigenvalue, rel=1e-6)


def test_vectors_a_node_sends():
    np.testing.assert_array_equal(vectors_sent(topology.one_peer_exponential(8)), [2, 2, 1])
    # The centre exchanges with each of four, and they with nobody else.
    np.testing.assert_allclose(vectors_sent(topology.star(5)), [8 / 5])
    # An eighth of the vector goes seven times around a ring to add up, and seven to hand round.
    np.testing.assert_allclose(vectors_sent(topology.full(8)), [14 / 8])


def test_metropolis_weights_by_hand():
    # A path of two by three: corners have degree 3 with themselves, the middle ones 4.
    expected = np.array([[5, 3, 0, 4, 0, 0], [3, 3, 3, 0, 3, 0]]) / 12
    np.testing.assert_allclose(topology.grid(6).matrix(0)[:2], expected)
    star = topology.star(4).matrix(5)
    np.testing.assert_allclose(star[0], np.full(4, 1 / 4))
    np.testing.assert_allclose(star[2], [1 / 4, 0, 3 / 4, 0])


def test_a_period_of_pairs_averages_exactly():
    for kind in (topology.one_peer_exponential, topology.hypercube):
        for nodes in (2, 4, 8, 32):
            assert kind(nodes).period == np.log2(nodes)
            np.testing.assert_array_equal(product(kind(nodes)), np.full((nodes, nodes), 1 / nodes))
            assert kind(nodes).spectral_gap == 1
    assert 0 < topology.one_peer_exponential(6).second_eigenvalue < 1


def test_matchings_pair_each_node_once_and_others_every_step():
    for nodes in (6, 7):
        made = topology.random_matchings(nodes, period=9, seed=1)
        assert ((made.matrices > 0).sum(1) == 2).sum() == 9 * (nodes // 2 * 2)
        assert len(np.unique(made.matrices, axis=0)) > 1
    with pytest.raises(ValueError, match="`nodes` must be a power of two"):
        topology.hypercube(6)


@pytest.mark.parametrize(
    ("kind", "nodes", "count"),
    [
        (topology.hypercube, 8, 1),
        (topology.random_matchings, 7, 1),
        (topology.ring, 8, 2),
        (topology.ring, 7, 3),
        (topology.one_peer_exponential, 8, 2),
        (topology.star, 5, 4),
        (topology.grid, 12, 4),
    ],
)
def test_rounds_of_pairs_make_the_matrix(kind, nodes, count):
    made = kind(nodes)
    partners, weights = rounds(made)
    everyone = np.arange(nodes)
    assert partners.shape[1] == count
    for step in range(made.period):
        matrix = np.zeros((nodes, nodes))
        for partner, weight in zip(partners[step], weights[step], strict=True):
            np.testing.assert_array_equal(partner[partner], everyone)
            matrix[everyone, partner] += weight
        matrix += np.diag(1 - matrix.sum(1))
        np.testing.assert_allclose(matrix, made.matrix(step), atol=1e-6)


def test_matrices_that_change_the_mean_are_refused():
    with pytest.raises(ValueError, match="rows and columns that sum to 1"):
        topology.Topology("bad", [[[0.5, 0.5], [0.4, 0.6]]])
    with pytest.raises(ValueError, match="entries of at least 0"):
        topology.Topology("bad", [[[-1, 2], [2, -1]]])
    with pytest.raises(ValueError, match="shape"):
        topology.Topology("bad", np.eye(3))
