"""The figures of a search, as PNG files in memory."""

import io
from typing import TYPE_CHECKING

import numpy as np

from keras_sharp.plots import legend_above
from keras_sharp.tuner.recommendation import Point, Recommendation, best_by_batch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# With more rates than these, a search drew them at random: squares would be mostly empty.
_ROWS = 12


def heat_map(points: list[Point], ax: "Axes") -> "Axes":
    """Draws validation accuracy over batch size and learning rate.

    Where several points share these two, the best one is drawn.

    Args:
        points: Finished points.
        ax: Axes.
    """
    best: dict[tuple[int, float], float] = {}
    for point in points:
        place = point.batch_size, point.learning_rate
        best[place] = max(best.get(place, 0.0), 100 * point.accuracy)
    sizes, rates = (sorted({place[axis] for place in best}) for axis in (0, 1))
    ax.set(xlabel="batch size", ylabel="learning rate at the base batch")
    if len(rates) > _ROWS:
        x, y = np.array(list(best)).T
        drawn = ax.scatter(x, y, c=list(best.values()), s=60)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_yscale("log")
    else:
        table = np.array([[best.get((size, rate), np.nan) for size in sizes] for rate in rates])
        drawn = ax.imshow(table, origin="lower", aspect="auto")
        ax.set_xticks(range(len(sizes)), [f"{size}" for size in sizes])
        ax.set_yticks(range(len(rates)), [f"{rate:.3g}" for rate in rates])
        for (row, column), value in np.ndenumerate(table):
            if np.isfinite(value):
                box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1}
                ax.text(column, row, f"{value:.1f}", ha="center", va="center", bbox=box)
    ax.figure.colorbar(drawn, ax=ax, label="validation accuracy (%)")
    return ax


def accuracy_curve(points: list[Point], recommendation: Recommendation, ax: "Axes") -> "Axes":
    """Draws the accuracy of each batch size at its best rate, and where it begins to cost.

    Args:
        points: Finished points.
        recommendation: Of these points.
        ax: Axes.
    """
    best = best_by_batch(points)
    means = [100 * point.accuracy for point in best.values()]
    errors = [100 * (point.error or 0) for point in best.values()]
    ax.errorbar(list(best), means, errors, fmt="o-", capsize=3, label="best rate ± standard error")
    limit = 100 * (recommendation.reference["accuracy"] - recommendation.max_gap)
    ax.axhline(limit, color="tab:gray", linestyle=":", label="limit")
    ax.axvline(recommendation.batch_size, color="tab:green", linestyle="--", label="critical batch")
    scales = [each["value"] for each in recommendation.noise_scale if each["value"] is not None]
    for number, scale in enumerate(scales):
        label = None if number else "noise scale of each seed"
        ax.axvline(scale, color="tab:orange", linestyle="-.", label=label)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="batch size", ylabel="validation accuracy (%)")
    legend_above(ax)
    return ax


def png_files(points: list[Point], recommendation: Recommendation) -> dict[str, bytes]:
    """Returns the figures by the names of their files."""
    # Imported here, and not pyplot: no window, no state, whatever else the program draws.
    from matplotlib.figure import Figure

    files = {}
    for name in ("heat-map", "accuracy"):
        figure = Figure(figsize=(7, 4), layout="constrained")
        ax = figure.add_subplot()
        if name == "heat-map":
            heat_map(points, ax)
        else:
            accuracy_curve(points, recommendation, ax)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=120)
        files[f"{name}.png"] = stream.getvalue()
    return files
