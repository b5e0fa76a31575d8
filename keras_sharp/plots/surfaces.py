"""Lines and planes through the minimum."""

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from keras_sharp.plots.axes import LEFT, axes
from keras_sharp.results.landscape import SurfaceResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from mpl_toolkits.mplot3d import Axes3D


def surface(
    result: SurfaceResult, ax: Any = None, *, levels: int = 20, log: bool = False
) -> "Axes":
    """Draws the loss as contours, or as a curve if there is one direction.

    The model is the star; a training trajectory is drawn on the plane and starts at the circle.

    Args:
        result: What `keras_sharp.landscape.surface` returned.
        ax: Axes.
        levels: Number of contours.
        log: Whether contours, or the axis of a curve, are logarithmic.

    Returns:
        The axes.

    Raises:
        ValueError: If `log` is asked for and a loss is not positive.
    """
    ax = axes(ax)
    _check_positive(result, log)
    if result.y is None:
        ax.plot(result.x, result.loss, color=LEFT)
        ax.set(xlabel=_names(result)[0], ylabel="loss", yscale="log" if log else "linear")
        return ax
    low, high = result.loss.min(), result.loss.max()
    if low == high:
        raise ValueError(f"A surface must not be flat to have contours. Received: loss {low:g}")
    space = np.geomspace if log else np.linspace
    contours = ax.contour(
        result.x,
        result.y,
        result.loss.T,
        levels=space(low, high, levels + 2)[1:-1],
        norm="log" if log else "linear",
        cmap="viridis",
        linewidths=1,
    )
    ax.clabel(contours, contours.levels[::3], fontsize=7, fmt="%.3g", colors="0.25")
    if result.path is not None:
        _trajectory(ax, result.path.T)
    ax.plot(0, 0, "*", color="black", markersize=11, zorder=4)
    ax.set(xlabel=_names(result)[0], ylabel=_names(result)[1])
    return ax


def surface_3d(result: SurfaceResult, ax: Any = None, *, log: bool = False) -> "Axes3D":
    """Draws the loss as height, and the trajectory where it would lie on the surface.

    Args:
        result: What `keras_sharp.landscape.surface` returned for two directions.
        ax: Axes with `projection="3d"`.
        log: Whether the height is the decimal logarithm of the loss.

    Returns:
        The axes.

    Raises:
        ValueError: For a result with one direction, axes of another kind, and if `log` is asked for
            and a loss is not positive.
    """
    ax = axes(ax, "3d")
    if ax.name != "3d" or result.y is None:
        raise ValueError(
            '`ax` must have projection="3d" and `result` two directions. Received: axes '
            f"{ax.name!r}, loss of shape {result.loss.shape}"
        )
    _check_positive(result, log)
    height = np.log10(result.loss) if log else result.loss
    x, y = np.meshgrid(result.x, result.y, indexing="ij")
    # Otherwise matplotlib hides the trajectory wherever the middle of the surface is nearer.
    ax.computed_zorder = False
    ax.plot_surface(x, y, height, cmap="viridis", rstride=1, cstride=1, linewidth=0, alpha=0.9)
    if result.path is not None:
        on = RegularGridInterpolator((result.x, result.y), height, bounds_error=False)
        _trajectory(ax, (*result.path.T, on(result.path)))
    names = [name.replace(" (", "\n(") for name in _names(result)]
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.get_major_locator().set_params(nbins=5)
    pad = 8 if result.explained is None else 18  # points; two lines need more
    ax.set_xlabel(names[0], labelpad=pad)
    ax.set_ylabel(names[1], labelpad=pad)
    ax.set_zlabel(r"$\log_{10}$ loss" if log else "loss", labelpad=8)
    ax.set_box_aspect(None, zoom=0.8)  # room for the labels, which no layout counts in
    return ax


def _trajectory(ax: Any, coordinates: Any) -> None:
    ax.plot(*coordinates, ".-", color="tab:red", linewidth=1.2, markersize=4, zorder=3)
    start = [values[:1] for values in coordinates]
    ax.plot(*start, "o", color="tab:red", markersize=7, zorder=3)


def _names(result: SurfaceResult) -> list[str]:
    if result.explained is None:
        return ["first direction", "second direction"]
    ordinals = ("first", "second")
    return [
        f"{ordinal} component ({share:.1%} of the variance)"
        for ordinal, share in zip(ordinals, result.explained, strict=True)
    ]


def _check_positive(result: SurfaceResult, log: bool) -> None:
    if log and result.loss.min() <= 0:
        raise ValueError(
            "`log` must be False where a loss is not positive. Received: loss down to "
            f"{result.loss.min():g}"
        )
