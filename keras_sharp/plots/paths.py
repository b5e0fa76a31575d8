"""Parametric plots."""

from typing import TYPE_CHECKING, Any

import numpy as np

from keras_sharp.plots.axes import LEFT, RIGHT, legend_above, twin_axes
from keras_sharp.results.landscape import PathResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def path(
    result: PathResult, ax: Any = None, *, log: bool = False, label: str = "", **style: Any
) -> tuple["Axes", "Axes"]:
    """Draws loss (left axis) and accuracy (right axis) along a path, train solid, test dashed.

    Args:
        result: What `keras_sharp.landscape.path` returned, or anything that has its `alphas`,
            `train_loss`, `test_loss`, `train_accuracy` and `test_accuracy`, each an array or None.
        ax: Axes, or the pair that another call returned, to draw over it.
        log: Whether the loss has a logarithmic axis.
        label: Put before each curve's name in the legend.
        **style: Options of all lines, such as `marker` or `linewidth`.

    Returns:
        The left and the right axes. Without an accuracy the right one is hidden.

    References:
        - [Keskar et al., 2017](https://arxiv.org/abs/1609.04836), figures 3 and 7.
    """
    left, right = twin_axes(ax)
    first = not left.lines
    for part, line in (("train", "-"), ("test", "--")):
        for axes, colour, name, scale in (
            (left, LEFT, "loss", 1),
            (right, RIGHT, "accuracy", 100),
        ):
            values = getattr(result, f"{part}_{name}")
            if values is not None:
                options = {"color": colour, "linestyle": line} | style
                text = f"{label} {part} {name}".strip()
                axes.plot(result.alphas, scale * np.asarray(values), label=text, **options)
    if first:
        for model in (0, 1):
            left.axvline(model, color="0.8", linewidth=1, zorder=0)
    left.set(xlabel=r"$\alpha$", yscale="log" if log else "linear")
    left.set_ylabel("loss", color=LEFT)
    if right.lines:
        right.set_ylabel("accuracy (%)", color=RIGHT)
        right.set_ylim(-2, 102)
    right.get_yaxis().set_visible(bool(right.lines))
    legend_above(left, right)
    return left, right
