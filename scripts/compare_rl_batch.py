"""What a larger batch costs in reinforcement learning: the same frames, in ever more environments.

    python scripts/compare_rl_batch.py                               # two cores, an hour
    python scripts/compare_rl_batch.py --environments 64 --optimizers lamb adam --output runs/short

PointGoal navigation as in train_pointnav.py, with Adam, with LAMB, whose rates grow with the square
root of the batch, and with LAMB without that. A minibatch is half of all environments times the
steps of a rollout. Beside them the gradient noise scale, the batch size at which a gradient's noise
is as large as the gradient itself (McCandlish et al. 2018). Up to minibatches of 256 frames both
LAMBs are the same, and one is trained. Everything finished is kept, and the same command goes on
where it stopped.
"""

import argparse
import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib.figure
import matplotlib.ticker
import numpy as np
import rich.box
import rich.console
import rich.table
from json_text import json_text
from pointnav_evaluation import evaluate
from pointnav_picture import smooth
from pointnav_settings import (
    BASE_BATCH,
    HELD_OUT,
    MINIBATCHES,
    RATES,
    add_numbers,
    check,
    decisive,
    make_environment,
)
from pointnav_training import PointNavTraining
from positive import positive
from run_folder import RunFolder, locked, read, versions, write
from run_progress import Display, Plan, make_console
from run_until_stopped import until_stopped

from keras_sharp.rl.navigation import PointGoalEnvironment

Trainings = dict[tuple[str, int], PointNavTraining]

_NOISE = 100  # how often it is measured in a training
_STYLES = {"lamb": "-", "lamb-unscaled": ":", "adam": "--"}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Returns the settings; ends the program with a message if they are of no use."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=positive, default=1_000_000, help="default 1,000,000")
    parser.add_argument(
        "--environments", type=positive, nargs="+", default=[16, 64, 256], help="default 16 64 256"
    )
    parser.add_argument("--optimizers", choices=RATES, nargs="+", default=list(RATES))
    add_numbers(parser, "rl-batch")
    settings = parser.parse_args(arguments)
    settings.learning_rate = None
    check(parser, settings, *settings.environments)
    return settings


def cells(settings: argparse.Namespace) -> list[tuple[str, int]]:
    """Returns optimizer and environments of every training."""
    found = []
    for number in settings.environments:
        names = list(settings.optimizers)
        if number * settings.steps // MINIBATCHES <= BASE_BATCH and "lamb" in names:
            names = [name for name in names if name != "lamb-unscaled"]  # it would be the same
        found += [(name, number) for name in names]
    return found


def work(settings: argparse.Namespace, console: rich.console.Console) -> int:
    trainings, results, diverged = {}, {}, {}
    not_these = ("optimizers", "learning_rate")
    claims = {name: value for name, value in decisive(settings).items() if name not in not_these}
    with locked(settings.output):
        folder = RunFolder(settings.output, claims, {})
        for remark in folder.remarks:
            console.print(f"Note: since {folder.root} was begun, the {remark}.", markup=False)
        held_out = settings.seed + HELD_OUT
        environment = make_environment(settings, settings.episodes, held_out, settings.episodes)
        with Display(Plan(), console) as display:
            for name, number in cells(settings):
                trainings[name, number] = PointNavTraining(
                    settings, number, name, folder, display, _NOISE
                )
            for cell, training in trainings.items():
                try:
                    training.run()
                except FloatingPointError as error:
                    diverged[cell] = str(error)
                    continue
                results[cell] = _measure(settings, training, environment, folder)
    for cell, reason in diverged.items():
        console.print(f"{trainings.pop(cell).name} is left out: {reason}", markup=False)
    if trainings:
        show(settings, trainings, results, console)
    return 0 if trainings else 1


def _measure(
    settings: argparse.Namespace,
    training: PointNavTraining,
    environment: PointGoalEnvironment,
    folder: RunFolder,
) -> dict[str, float | None]:
    file = folder.path("pointnav", 1, training.name, "json")
    found = read(file) if file.exists() else {}
    # No two trainings take the same time: a policy that was trained again is measured again.
    of = {"episodes": settings.episodes, "trained": training.history[-1]["seconds"]}
    if any(found.get(name) != value for name, value in of.items()):
        made = evaluate(
            training.policy, environment, steps=settings.steps, seed=settings.seed, watch=0
        )
        found = {**of, **made.summary()}
        write(file, json.dumps(found, indent=1))
    return {**found, **noise_scale(training)}


def noise_scale(training: PointNavTraining) -> dict[str, float | None]:
    """Returns the noise scale in frames, of the first and of the second half of a training.

    A ratio of means, as a mean of ratios would be ruled by the smallest denominators, with the
    standard error of a jackknife over the measurements. None where the mean of the denominators is
    not positive, or would not be without one of them.
    """
    trace, square = training.column("noise_trace"), training.column("noise_square")
    known = ~np.isnan(trace)
    halves = np.array_split(trace[known], 2), np.array_split(square[known], 2)
    found = {}
    for name, traces, squares in zip(("noise_early", "noise_late"), *halves, strict=True):
        above, below = (np.sum(each) - each for each in (traces, squares))  # without each in turn
        value = error = None
        if np.sum(squares) > 0 and np.all(below > 0):
            value = float(np.sum(traces) / np.sum(squares))
            error = float(np.std(above / below) * np.sqrt(len(squares) - 1))
        found |= {name: value, f"{name}_error": error}
    return found


def show(
    settings: argparse.Namespace,
    trainings: Trainings,
    results: dict[tuple[str, int], dict[str, float | None]],
    console: rich.console.Console,
) -> None:
    """Prints the table, writes it and the picture and all that they were made of."""
    title = (
        f"PointGoal navigation after {settings.frames:,} frames, one training each: success and "
        f"SPL of {settings.episodes} episodes on maps never seen, actions drawn, mean ± standard "
        "error over these episodes (another training would differ by more), or of a jackknife over "
        "the measurements of the noise"
    )
    head = ["optimizer", "environments", "minibatch", "updates", "success", "SPL"]
    head += ["frames/s (median)", "seconds", "noise scale, first half", "second half"]
    rows = [_row(settings, *cell, trainings[cell], results[cell]) for cell in trainings]
    table = rich.table.Table(*head, title=title, box=rich.box.SIMPLE)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    stem = settings.output / "rl-batch"
    lines = [f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows]]
    write(stem.with_suffix(".md"), "\n".join([f"{title}.", "", *lines, ""]))
    made = {
        "settings": vars(settings),
        "versions": versions(),
        "results": {training.name: results[cell] for cell, training in trainings.items()},
        "training": {training.name: training.history for training in trainings.values()},
    }
    write(stem.with_suffix(".json"), json_text(made))
    draw(settings, trainings, stem.with_suffix(".png"))
    console.print(f"This is in {stem}.md, .json and .png, beside the policies.", markup=False)


def _row(
    settings: argparse.Namespace,
    name: str,
    number: int,
    training: PointNavTraining,
    found: dict[str, float | None],
) -> list[str]:
    noise = (
        "none" if found[half] is None else f"{found[half]:,.0f} ± {found[f'{half}_error']:,.0f}"
        for half in ("noise_early", "noise_late")
    )
    return [
        name,
        str(number),
        f"{number * settings.steps // MINIBATCHES:,}",
        f"{training.updates:,}",
        f"{found['success']:.3f} ± {found['success_error']:.3f}",
        f"{found['spl']:.3f} ± {found['spl_error']:.3f}",
        f"{training.frames_per_second():,.0f}",
        f"{training.history[-1]['seconds']:,.0f}",
        *noise,
    ]


def draw(settings: argparse.Namespace, trainings: Trainings, file: pathlib.Path) -> None:
    """Draws success in training against frames and against seconds."""
    figure = matplotlib.figure.Figure(figsize=(12, 5), layout="constrained")
    colours = {number: f"C{index}" for index, number in enumerate(settings.environments)}
    for ax, name in zip(figure.subplots(1, 2, sharey=True), ("frames", "seconds"), strict=True):
        for (optimizer, number), training in trainings.items():
            # Over the same number of frames, whatever the number of environments.
            updates = max(training.updates // 20, 1)
            ax.plot(
                training.column(name),
                smooth(training, "success", updates),
                _STYLES[optimizer],
                color=colours[number],
                label=f"{optimizer}, {number} environments",
            )
        ax.set(xlabel=name)
    figure.axes[0].xaxis.set_major_formatter(matplotlib.ticker.EngFormatter())
    figure.axes[0].set(ylabel="success of the episodes that ended in training", ylim=(0, 1))
    figure.axes[1].legend(frameon=False, fontsize="small")
    figure.savefig(file, dpi=110)


def main(arguments: list[str] | None = None) -> int:
    settings, console = parse(arguments), make_console()
    return until_stopped(lambda: work(settings, console), console)


if __name__ == "__main__":
    sys.exit(main())
