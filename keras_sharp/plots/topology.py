"""Who averages with whom."""

from typing import TYPE_CHECKING, Any

import numpy as np

from keras_sharp.plots.axes import LEFT, axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_COLOURS = 10


def topology(graph: Any, ax: Any = None) -> "Axes":
    """Draws the nodes on a circle, with a line to each neighbour, and the spectral gap above.

    A line is the darker the larger its weight. Where the weights of two nodes for each other differ
    it is an arrow, from the node that sends. Of matrices that change from step to step the lines of
    each step have a colour of their own, up to ten; of more, the mean over the steps is drawn.

    Args:
        graph: A `training.topology.Topology`, or anything with its `name`, its `spectral_gap` and
            its `matrices`, `(period, nodes, nodes)`.
        ax: Axes.

    Returns:
        The axes.

    Example:
    ```python
    keras_sharp.plots.topology(keras_sharp.training.topology.ring(8))
    ```
    """
    ax = axes(ax)
    matrices = np.asarray(graph.matrices, np.float64)
    if len(matrices) > _MOST_COLOURS:
        matrices = matrices.mean(0, keepdims=True)
    angles = np.pi / 2 - 2 * np.pi * np.arange(matrices.shape[1]) / matrices.shape[1]
    nodes = np.stack([np.cos(angles), np.sin(angles)], 1)
    for step, matrix in enumerate(matrices):
        colour = f"C{step}" if len(matrices) > 1 else "black"
        _lines(ax, nodes, matrix, colour)
    ax.plot(*nodes.T, "o", color=LEFT, markersize=6, zorder=3)
    ax.set_title(f"{graph.name}, gap {abs(graph.spectral_gap):.3g}", fontsize="medium")
    ax.set(aspect="equal", xlim=(-1.15, 1.15), ylim=(-1.15, 1.15))
    ax.set_axis_off()
    return ax


def _lines(ax: "Axes", nodes: np.ndarray, matrix: np.ndarray, colour: str) -> None:
    """Draws the lines of one matrix, plain ones and arrows."""
    from matplotlib.colors import to_rgba

    weights = matrix - np.diag(np.diag(matrix))
    one_way = ~np.isclose(weights, weights.T, atol=1e-12)
    for chosen, head in ((np.triu(weights * ~one_way), 0), (weights * one_way, 5)):
        to, sender = np.nonzero(chosen)
        if not len(to):
            continue
        strength = chosen[to, sender] / weights.max()
        colours = np.tile(to_rgba(colour), (len(to), 1))
        colours[:, 3] = 0.15 + 0.6 * strength
        ax.quiver(
            *nodes[sender].T,
            *(nodes[to] - nodes[sender]).T,
            color=colours,
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.006,
            headwidth=head or 1,
            headlength=head,
            headaxislength=head,
        )
