"""Figures 2 to 7 of Keskar et al. 2017, and the distance ratio: what each needs, and how it looks.

The captions of the paper say what is drawn; keskar_study.py trains and measures it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keskar_study import Run, Study

from keras_sharp import plots
from keras_sharp.landscape.published import NETWORKS, published_path

Row = dict[str, Any]


class Figure(NamedTuple):
    """A figure of the paper.

    Attributes:
        title: What it shows.
        runs: Returns the runs it needs.
        points: Returns the runs and epochs at which it needs measurements.
        draw: Draws it on axes, and returns its numbers, a row each.
    """

    title: str
    runs: Callable[[Study], list[Run]]
    points: Callable[[Study], list[tuple[Run, int]]]
    draw: Callable[[Study, Any], list[Row]]


def both(study: Study) -> list[Run]:
    """Returns the small-batch and the large-batch run."""
    return [study.small, study.large]


def none(study: Study) -> list[tuple[Run, int]]:
    """Returns no points: some figures need trained weights alone."""
    return []


def title(run: Run) -> str:
    """Returns a run's name in a legend."""
    return f"{'SB' if run.name == 'small' else 'LB'} (batch {run.batch_size})"


# --------------------------------------------------------------------------------------------------
# Figures 2 and 6, and the distance: along a training
# --------------------------------------------------------------------------------------------------


def training_curves(study: Study, ax: Any) -> list[Row]:
    """Test accuracy after each epoch: it does not rise and fall again, as over-fitting would."""
    for run in both(study):
        percent = 100 * np.array(study.history(run)["val_accuracy"])
        ax.plot(np.arange(1, len(percent) + 1), percent, label=title(run))
    ax.set(xlabel="epoch", ylabel="test accuracy (%)")
    ax.xaxis.get_major_locator().set_params(integer=True)
    plots.legend_above(ax)
    return by_epoch(study, ("loss", "val_loss", "val_accuracy"))


def distance(study: Study, ax: Any) -> list[Row]:
    """How far the weights have gone from their start; the paper's ratio SB/LB is 3 to 10."""
    ways = [study.history(run)["distance"] for run in both(study)]
    for run, way in zip(both(study), ways, strict=True):
        ax.plot(np.arange(1, len(way) + 1), way, label=title(run))
    ax.set(xlabel="epoch", ylabel="distance from the initial weights")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(title=f"SB has gone {ways[0][-1] / ways[1][-1]:.2f} times as far", frameon=False)
    return by_epoch(study, ("distance",))


def by_epoch(study: Study, names: tuple[str, ...]) -> list[Row]:
    """Returns what the two runs recorded, a row an epoch."""
    return [
        {"run": run.name, "batch_size": run.batch_size, "epoch": epoch + 1}
        | {name: study.history(run)[name][epoch] for name in names}
        for run in both(study)
        for epoch in range(study.settings.epochs)
    ]


def snapshots(study: Study) -> list[tuple[Run, int]]:
    """Returns all kept epochs of both runs."""
    return [(run, epoch) for run in both(study) for epoch in study.snapshots]


def sharpness_against_loss(study: Study, ax: Any) -> list[Row]:
    """Sharpness against cross-entropy: alike at first, then LB's rises as the loss falls."""
    rows = [
        {"run": run.name, "batch_size": run.batch_size, "epoch": epoch}
        | study.point(run, epoch)._asdict()
        for run, epoch in snapshots(study)
    ]
    curves = {}
    for run in both(study):
        own = [row for row in rows if row["run"] == run.name]
        curves[title(run)] = [[row[name] for row in own] for name in ("train_loss", "sharpness")]
    plots.sharpness_against_loss(curves, ax)
    return rows


# --------------------------------------------------------------------------------------------------
# Figures 3 and 7: from one solution to the other
# --------------------------------------------------------------------------------------------------


def linear_path(study: Study, ax: Any) -> list[Row]:
    """Loss and accuracy on the line from the small-batch (0) to the large-batch solution (1)."""
    return path(study, ax, "linear")


def curved_path(study: Study, ax: Any) -> list[Row]:
    """The same along sines and cosines of the angle."""
    return path(study, ax, "curved")


def path(study: Study, ax: Any, kind: str) -> list[Row]:
    """Draws a path, over the authors' own curves where they published them."""
    pair = ax
    published = kind == "linear" and study.network in NETWORKS and study.data.name != "digits"
    if published:
        pair = plots.path(
            published_path(study.network), pair, label="published", linewidth=0.8, alpha=0.5
        )
    result = study.path(kind)
    plots.path(result, pair, label="measured" if published else "")
    names = ("alphas", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
    columns = [getattr(result, name) for name in names]
    return [dict(zip(names, values, strict=True)) for values in np.stack(columns, axis=1).tolist()]


# --------------------------------------------------------------------------------------------------
# Figures 4 and 5: what large batches need
# --------------------------------------------------------------------------------------------------


def sweep(study: Study) -> list[Run]:
    """Returns a run for each batch size."""
    return [study.run_of(size) for size in study.batch_sizes]


def ends(runs: Callable[[Study], list[Run]]) -> Callable[[Study], list[tuple[Run, int]]]:
    """Returns a function that returns the last epoch of some runs."""
    return lambda study: [(run, study.settings.epochs) for run in runs(study)]


def batch_size_sweep(study: Study, ax: Any) -> list[Row]:
    """Test accuracy and sharpness of the solution against the batch size."""
    rows = [
        {"batch_size": run.batch_size} | study.point(run, epoch)._asdict()
        for run, epoch in ends(sweep)(study)
    ]
    columns = ([row[name] for row in rows] for name in ("batch_size", "test_accuracy", "sharpness"))
    plots.batch_size_sweep(*columns, ax, log=True)
    return rows


def warm_starts(study: Study) -> list[Run]:
    """Returns the small-batch run, and a large-batch one from each of its kept epochs."""
    return [study.small, *(study.piggyback(epoch) for epoch in study.snapshots)]


def warm_start_points(study: Study) -> list[tuple[Run, int]]:
    """Returns the kept epochs of the small-batch run, and the ends of those that start there."""
    own = [(study.small, epoch) for epoch in study.snapshots]
    return own + ends(lambda study: warm_starts(study)[1:])(study)


def piggyback(study: Study, ax: Any) -> list[Row]:
    """Large-batch training from the weights that small batches reached after some epochs.

    ADAM starts afresh: the paper does not say whether it did.
    """
    rows = []
    for epoch in study.snapshots:
        own = study.point(study.small, epoch)
        warm = study.point(study.piggyback(epoch), study.settings.epochs)
        row = {"small_batch_epochs": epoch, "small_batch_test_accuracy": own.test_accuracy}
        rows.append(row | warm._asdict())
    epochs = [row["small_batch_epochs"] for row in rows]
    right = ax.twinx()
    # Untrained, SB guesses: its accuracy would leave no room for the others.
    own, warm, sharp = (
        [row[name] for row in rows]
        for name in ("small_batch_test_accuracy", "test_accuracy", "sharpness")
    )
    ax.plot(epochs[1:], 100 * np.array(own[1:]), ".--", color="tab:blue", label="SB")
    ax.plot(epochs, 100 * np.array(warm), ".-", color="tab:blue", label="LB from there")
    right.plot(epochs, sharp, ".:", color="tab:red", label="sharpness of LB")
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xticks(epochs, labels=epochs)
    ax.set(xlabel="epochs with the small batch")
    ax.set_ylabel("test accuracy (%)", color="tab:blue")
    right.set_ylabel("sharpness", color="tab:red")
    right.set_yscale("log")
    plots.legend_above(ax, right)
    return rows


FIGURES = {
    "2": Figure("training curves", both, none, training_curves),
    "3": Figure("linear path", both, none, linear_path),
    "4": Figure("batch sizes", sweep, ends(sweep), batch_size_sweep),
    "5": Figure("warm start", warm_starts, warm_start_points, piggyback),
    "6": Figure("sharpness and loss", both, snapshots, sharpness_against_loss),
    "7": Figure("curved path", both, none, curved_path),
    "distance": Figure("distance from the start", both, none, distance),
}
