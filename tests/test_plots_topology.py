"""Which lines are drawn between nodes, in which direction and colour."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb

from keras_sharp.plots.topology import topology as draw
from keras_sharp.training import topology


def arrows(collection):
    """Returns the numbers of the nodes that lines go from and to, on a circle, clockwise."""
    start = np.stack([collection.X, collection.Y], 1)
    end = start + np.stack([collection.U, collection.V], 1)
    nodes = 8
    turns = [(np.pi / 2 - np.arctan2(*each.T[::-1])) / (2 * np.pi) for each in (start, end)]
    return {tuple(pair) for pair in (np.round(nodes * np.array(turns)).astype(int) % nodes).T}


def test_neighbours_are_joined():
    ax = draw(topology.ring(8))
    (lines,) = ax.collections
    assert {tuple(sorted(each)) for each in arrows(lines)} == {
        tuple(sorted((i, (i + 1) % 8))) for i in range(8)
    }
    assert lines.headlength == 0
    (nodes,) = ax.lines
    assert len(nodes.get_xdata()) == 8
    gap = 1 - (1 + 2 * np.cos(2 * np.pi / 8)) / 3
    assert ax.get_title() == f"ring, gap {gap:.3g}"
    star = draw(topology.star(8), plt.figure().add_subplot())
    assert all(0 in each for each in arrows(star.collections[0]))
    plt.close("all")


def test_steps_have_colours_and_what_is_one_way_arrows():
    ax = draw(topology.one_peer_exponential(8))
    assert len(ax.collections) == 3
    for step, lines in enumerate(ax.collections):
        pairs = arrows(lines)
        np.testing.assert_allclose(lines.get_facecolor()[:, :3], [to_rgb(f"C{step}")] * len(pairs))
        if step < 2:  # at half the way round, both halves of a pair are sent
            assert pairs == {(i, (i + 2**step) % 8) for i in range(8)} and lines.headlength > 0
        else:
            assert len(pairs) == 4 and lines.headlength == 0
    assert ax.get_title() == "one-peer exponential, gap 1"
    mean = draw(topology.random_matchings(8, period=64))
    assert len(mean.collections) == 1
    alphas = mean.collections[0].get_facecolor()[:, 3]
    assert alphas.max() <= 0.75 and alphas.min() < alphas.max()
    plt.close("all")
