"""What all plots have in common."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEFT, RIGHT = "tab:blue", "tab:red"


def axes(ax: Any = None, projection: str | None = None) -> "Axes":
    """Returns the given axes, or those of a new figure."""
    if ax is not None:
        return ax
    # Imported here: whoever only measures should not wait for it.
    import matplotlib.pyplot as plt

    return plt.figure(layout="constrained").add_subplot(projection=projection)


def twin_axes(ax: Any = None) -> tuple["Axes", "Axes"]:
    """Returns left and right axes over one x axis: the given ones, or a new right one."""
    if isinstance(ax, tuple):
        return ax
    left = axes(ax)
    right = left.twinx()
    for each, colour in ((left, LEFT), (right, RIGHT)):
        each.tick_params(axis="y", labelcolor=colour)
    return left, right


def legend_above(*drawn_on: "Axes") -> None:
    """Puts one legend for several axes above the first, where no line can pass under it."""
    handles = [handle for each in drawn_on for handle in each.get_legend_handles_labels()[0]]
    drawn_on[0].legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        # One row, or one column for each axis.
        ncols=len(handles) if len(handles) < 4 else 2,
        frameon=False,
    )


def mean_and_spread(values: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns means and standard deviations over trials, which are along the last of two axes.

    Args:
        values: `(n,)` or `(n, trials)`.

    Returns:
        `(n,)`, and `(n,)` or None where there is one trial.
    """
    values = np.asarray(values, np.float64)
    if values.ndim == 1:
        return values, None
    one = values.shape[1] == 1
    return values.mean(axis=1), None if one else values.std(axis=1, ddof=1)
