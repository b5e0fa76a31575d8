"""Eigenvalues of the Hessian."""

from typing import TYPE_CHECKING, Any

import numpy as np

from keras_sharp.plots.axes import LEFT, RIGHT, axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def spectrum(
    result: Any,
    ax: Any = None,
    *,
    eigenvalues: Any = None,
    grid: Any = None,
    log: bool = True,
    label: str | None = None,
) -> "Axes":
    """Draws the density of the eigenvalues.

    Args:
        result: What `hessian_density` returned, or anything with `density(grid)`.
        ax: Axes.
        eigenvalues: Eigenvalues `(k,)`, or a result that has them, marked below the density.
        grid: `(g,)` where the density is drawn. Defaults to the result's own.
        log: Whether the density has a logarithmic axis, over eight decades at most.
        label: Name for a legend.

    Returns:
        The axes.
    """
    ax = axes(ax)
    grid = result.grid() if grid is None else np.asarray(grid)
    density = np.asarray(result.density(grid))
    ax.plot(grid, density, color=None if label else LEFT, label=label)
    if eigenvalues is not None:
        values = np.asarray(getattr(eigenvalues, "eigenvalues", eigenvalues))
        # In units of the axes' height: at the bottom whatever the range of the density.
        ax.plot(
            values,
            np.full(values.shape, 0.04),
            "|",
            color=RIGHT,
            markersize=14,
            markeredgewidth=1.5,
            transform=ax.get_xaxis_transform(),
        )
    if log:
        ax.set_yscale("log")
        top, bottom = density.max(), density[density > 0].min()
        ax.set_ylim(max(bottom, 1e-8 * top) / 2, 3 * top)
    ax.set(xlabel="eigenvalue of the Hessian", ylabel="density")
    if label:
        ax.legend(frameon=False)
    return ax


def eigenvalues(result: Any, ax: Any = None) -> "Axes":
    """Draws eigenvalues from the largest down, each with its residual as an error bar.

    Args:
        result: A result with `eigenvalues` and `residuals`, or eigenvalues `(k,)`.
        ax: Axes.

    Returns:
        The axes.
    """
    ax = axes(ax)
    values = np.asarray(getattr(result, "eigenvalues", result), np.float64)
    order = np.argsort(-values)
    residuals = getattr(result, "residuals", None)
    ax.axhline(0, color="0.8", linewidth=1, zorder=0)
    ax.errorbar(
        np.arange(1, values.size + 1),
        values[order],
        yerr=None if residuals is None else np.asarray(residuals)[order],
        fmt="o",
        color=LEFT,
        capsize=3,
    )
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="rank", ylabel="eigenvalue of the Hessian")
    return ax
