"""A picture of a navigation policy: where it went, what it saw, how it learned."""

import pathlib

import matplotlib.axes
import matplotlib.figure
import matplotlib.ticker
import numpy as np
from pointnav_evaluation import Episode
from pointnav_training import PointNavTraining

from keras_sharp.rl.navigation.geometry import CELL

_FRAMES = 6  # of what was seen on the way


def draw(file: pathlib.Path, episodes: list[Episode], training: PointNavTraining) -> None:
    """Writes the picture: paths from above, depth images of the longest one, learning curves."""
    figure = matplotlib.figure.Figure(figsize=(12, 9), layout="constrained")
    rows = figure.subfigures(3, 1, height_ratios=[3, 2, 3])
    longest = max(episodes, key=lambda episode: len(episode.path))
    for ax, episode in zip(np.ravel(rows[0].subplots(1, len(episodes))), episodes, strict=True):
        draw_path(ax, episode)
    for ax, step in zip(rows[1].subplots(1, _FRAMES), _steps(longest), strict=True):
        ax.imshow(longest.depth[step], cmap="gray_r", vmin=0, vmax=0.6)
        ax.set(xticks=[], yticks=[], title=f"step {step + 1}")
    rows[1].suptitle("What was seen on the longest of these ways: near is bright")
    draw_learning(*rows[2].subplots(1, 2), training)
    figure.savefig(file, dpi=110)


def draw_path(ax: matplotlib.axes.Axes, episode: Episode) -> None:
    """Draws a map, walls dark, and the way that was taken through it.

    An agent that looks along x has y on its right: drawn downwards, or left and right would change.
    """
    side = len(episode.free) * CELL
    ax.imshow(episode.free, cmap="gray", vmin=-1, vmax=1, extent=(0, side, side, 0))
    ax.plot(*episode.path.T, color="tab:blue")
    ax.plot(*episode.path[0], "o", color="tab:blue")
    ax.plot(*episode.goal, "*", color="tab:red", markersize=12)
    outcome = f"SPL {episode.spl:.2f}" if episode.success else "failed"
    ax.set(xticks=[], yticks=[], title=f"{len(episode.path)} actions, {outcome}")


def draw_learning(
    left: matplotlib.axes.Axes, right: matplotlib.axes.Axes, training: PointNavTraining
) -> None:
    """Draws success and SPL against frames, and where the seconds of an update go."""
    frames = training.column("frames")
    for name in ("success", "spl"):
        left.plot(frames, smooth(training, name), label=name)
    left.set(xlabel="frames", ylabel="of the episodes that ended in training", ylim=(0, 1))
    left.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter())
    left.legend(frameon=False)
    seconds = training.seconds()
    seconds.pop("all")
    bars = right.bar(list(seconds), 1000 * np.nan_to_num(list(seconds.values())))
    right.bar_label(bars, fmt="%.0f")
    right.margins(y=0.1)
    count = training.environments * training.settings.steps
    right.set(
        ylabel=f"ms for {count:,} frames", title=f"{training.frames_per_second():,.0f} frames/s"
    )


def smooth(training: PointNavTraining, name: str, updates: int = 20) -> np.ndarray:
    """Returns the mean over all episodes that ended in the last updates, `(all updates,)`."""
    counts = training.column("episodes")
    weighted = np.nan_to_num(training.column(name)) * counts
    total, episodes = (np.concatenate([[0], np.cumsum(each)]) for each in (weighted, counts))
    now = np.arange(1, len(counts) + 1)
    before = np.maximum(now - updates, 0)
    seen = episodes[now] - episodes[before]
    return np.where(seen > 0, (total[now] - total[before]) / np.maximum(seen, 1), np.nan)


def _steps(episode: Episode) -> np.ndarray:
    return np.linspace(0, len(episode.depth) - 1, _FRAMES).round().astype(int)
