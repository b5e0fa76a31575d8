"""Sharpness against what it may depend on."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_sharp.plots.axes import LEFT, RIGHT, axes, legend_above, mean_and_spread, twin_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def batch_size_sweep(
    batch_sizes: Any, test_accuracy: Any, sharpness: Any, ax: Any = None, *, log: bool = False
) -> tuple["Axes", "Axes"]:
    """Draws test accuracy (left axis) and sharpness (right axis) against the batch size.

    Args:
        batch_sizes: `(n,)`.
        test_accuracy: `(n,)`, 0 to 1, or `(n, trials)`, drawn as means with standard deviations.
        sharpness: `(n,)` or `(n, trials)`.
        ax: Axes, or the pair that another call returned.
        log: Whether the sharpness has a logarithmic axis.

    Returns:
        The left and the right axes.

    References:
        - [Keskar et al., 2017](https://arxiv.org/abs/1609.04836), figure 4.
    """
    left, right = twin_axes(ax)
    for each, values, colour, line, name in (
        (left, 100 * np.asarray(test_accuracy), LEFT, "o-", "test accuracy"),
        (right, sharpness, RIGHT, "s--", "sharpness"),
    ):
        means, spread = mean_and_spread(values)
        each.errorbar(batch_sizes, means, spread, fmt=line, color=colour, label=name, capsize=3)
    left.set_xlabel("batch size")
    left.set_xscale("log", base=2)
    left.xaxis.set_major_formatter("{x:g}")
    left.set_ylabel("test accuracy (%)", color=LEFT)
    right.set_ylabel("sharpness", color=RIGHT)
    right.set_yscale("log" if log else "linear")
    legend_above(left, right)
    return left, right


def sharpness_against_loss(
    curves: Mapping[str, tuple[Any, Any]], ax: Any = None, *, log: bool = True
) -> "Axes":
    """Draws sharpness against training loss along trainings, the loss falling to the right.

    Args:
        curves: For each training its name in the legend and `(losses, sharpness)`, each `(t,)` in
            the order of training.
        ax: Axes.
        log: Whether both axes are logarithmic.

    Returns:
        The axes.

    References:
        - [Keskar et al., 2017](https://arxiv.org/abs/1609.04836), figure 6.
    """
    ax = axes(ax)
    for name, (losses, sharpness) in curves.items():
        ax.plot(losses, sharpness, ".-", label=name)
    scale = "log" if log else "linear"
    ax.set(xlabel="training loss", ylabel="sharpness", xscale=scale, yscale=scale)
    if not ax.xaxis_inverted():
        ax.invert_xaxis()
    legend_above(ax)
    return ax
