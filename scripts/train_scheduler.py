"""Learns which waiting job to start next, and compares what it learned with the rules of thumb.

    python scripts/train_scheduler.py                                # a generated workload
    python scripts/train_scheduler.py --trace lublin_256.swf --output runs/lublin-1
    python scripts/train_scheduler.py --epochs 2 --trajectories 10 --output runs/look   # a minute

One policy is trained without backfilling and one with it, on sequences from the first four fifths
of the trace; the rules and the policies are measured on sequences from the last fifth. Figures go
to TensorBoard, in the folder's `tensorboard`. Every epoch is saved, and the same command goes on
where it stopped.
"""

import argparse
import math
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import rich.box
import rich.console
import rich.table
from json_text import json_text
from positive import positive
from run_folder import RunFolder, locked, versions, write
from run_progress import Display, Plan, make_console
from run_until_stopped import until_stopped
from scheduler_training import AGENT, SchedulerTraining

from keras_sharp.hashing import ArrayHash, joint_hash
from keras_sharp.rl.scheduling import Jobs, lublin_feitelson, read_swf, schedule
from keras_sharp.rl.scheduling.heuristics import HEURISTICS
from keras_sharp.rl.scheduling.scores import SCORES

MODES = {"without": False, "with": True}
LEARNED = "learned"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Returns the settings; ends the program with a message if they are of no use."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trace", type=pathlib.Path, help="an SWF file; default: generated jobs")
    parser.add_argument("--processors", type=positive, help="default the trace's, or 256")
    parser.add_argument("--score", choices=sorted(SCORES), default="bounded_slowdown")
    parser.add_argument("--backfilling", choices=["both", *MODES], default="both")
    for name, default, meaning in (
        ("jobs", 10_000, "generated"),
        ("length", 256, "jobs of a sequence"),
        ("epochs", 30, "of training"),
        ("trajectories", 100, "sequences of an epoch"),
        ("steps-per-epoch", 10, "of the policy, at most, and of the value network"),
        ("pool", 1000, "sequences to train on"),
        ("sequences", 100, "to measure on"),
    ):
        parser.add_argument(
            f"--{name}", type=positive, default=default, help=f"{meaning}, default {default}"
        )
    parser.add_argument(
        "--filter-epochs",
        type=int,
        default=0,
        help="first epochs, only on sequences on which the shortest job first scores within the "
        "bounds of --filter; default 0",
    )
    parser.add_argument(
        "--filter", type=float, nargs=2, default=[10.0, 150.0], metavar=("LOW", "HIGH")
    )
    parser.add_argument("--learning-rate", type=float, default=1e-2, help="default 0.01")
    parser.add_argument("--value-learning-rate", type=float, default=1e-2, help="default 0.01")
    parser.add_argument("--decay", type=float, default=0.9, help="lambda of the GAE, default 0.9")
    parser.add_argument("--seed", type=int, default=0, help="of everything, default 0")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs", "scheduler"))
    settings = parser.parse_args(arguments)
    if settings.seed < 0 or settings.filter_epochs < 0:
        parser.error("--seed and --filter-epochs must be 0 or more")
    if not all(
        0 < each < math.inf for each in (settings.learning_rate, settings.value_learning_rate)
    ):
        parser.error("--learning-rate and --value-learning-rate must be above 0 and finite")
    if not 0 <= settings.decay <= 1:
        parser.error("--decay must be from 0 to 1")
    if settings.backfilling != "both":
        settings.modes = [settings.backfilling]
    else:
        settings.modes = list(MODES)
    return settings


def load(settings: argparse.Namespace) -> Jobs:
    """Returns the trace; ends the program with a message if there is none of use."""
    try:
        if settings.trace is None:
            size = settings.processors or 256
            return lublin_feitelson(settings.jobs, processors=size, seed=settings.seed)
        return read_swf(settings.trace, processors=settings.processors)
    except (OSError, ValueError) as error:
        raise SystemExit(f"There is no trace to learn from: {error}") from error


def digest(trace: Jobs) -> str:
    """Returns a hash of all jobs."""
    columns = trace.submit, trace.run, trace.requested, trace.processors, trace.features
    return joint_hash([ArrayHash(each) for each in columns])


def draw(settings: argparse.Namespace, trace: Jobs) -> tuple[np.ndarray, np.ndarray]:
    """Returns where sequences begin, those to train on and those to measure on."""
    cut = len(trace) * 4 // 5
    ranges = (0, cut - settings.length + 1), (cut, len(trace) - settings.length + 1)
    if any(first >= end for first, end in ranges):
        raise SystemExit(
            f"A fifth of the trace's {len(trace)} jobs must hold a sequence of {settings.length}. "
            "Choose a smaller --length or a longer trace."
        )
    rng = np.random.default_rng(settings.seed)
    numbers = settings.pool, settings.sequences
    return tuple(
        np.sort(rng.choice(np.arange(*each), min(number, each[1] - each[0]), replace=False))
        for each, number in zip(ranges, numbers, strict=True)
    )


def work(settings: argparse.Namespace, console: rich.console.Console) -> int:
    trace = load(settings)
    training, test = draw(settings, trace)
    names = ("score", "length", "trajectories", "pool", "filter_epochs", "filter", "seed", *AGENT)
    decisive = {name: getattr(settings, name) for name in names}
    decisive |= {"trace": settings.trace.name if settings.trace else "Lublin-Feitelson"}
    decisive |= {"jobs": len(trace), "machine": trace.machine, "contents": digest(trace)}
    with locked(settings.output):
        folder = RunFolder(settings.output, decisive, {})
        for remark in folder.remarks:
            console.print(f"Note: since {folder.root} was begun, the {remark}.", markup=False)
        jobs, policies = trace.sequences(test, settings.length), {}
        with Display(Plan(), console) as display:
            for mode in settings.modes:
                display.plan.left[mode, "epoch"] = settings.epochs
            for mode in settings.modes:
                policies[mode] = SchedulerTraining(
                    settings, trace, training, mode, MODES[mode], folder, display
                )
                policies[mode].run()
            measured = measure(settings, jobs, policies)
        show(settings, measured, policies, test, console)
    return 0


def measure(
    settings: argparse.Namespace, jobs: Jobs, policies: dict[str, SchedulerTraining]
) -> dict[str, dict[str, np.ndarray]]:
    """Returns the scores on each sequence, by who chose and by the mode of backfilling."""
    score, _ = SCORES[settings.score]
    measured = {
        name: {
            mode: score(jobs, schedule(jobs, rule, backfill=backfill))
            for mode, backfill in MODES.items()
        }
        for name, rule in HEURISTICS.items()
    }
    measured[LEARNED] = {mode: policy.scores(jobs) for mode, policy in policies.items()}
    return measured


def show(
    settings: argparse.Namespace,
    measured: dict[str, dict[str, np.ndarray]],
    policies: dict[str, SchedulerTraining],
    test: np.ndarray,
    console: rich.console.Console,
) -> None:
    """Prints the tables, and writes them and all that they were made of."""
    _, sign = SCORES[settings.score]
    title = (
        f"{settings.score.replace('_', ' ').capitalize()}, {'higher' if sign > 0 else 'lower'} is "
        f"better: mean ± standard deviation of {len(test)} sequences of {settings.length} jobs. "
        "The learned policies take what they find likeliest"
    )
    rows = {name: [_cell(values.get(mode)) for mode in MODES] for name, values in measured.items()}
    paired = {
        name: [_difference(measured[LEARNED].get(mode), values[mode]) for mode in MODES]
        for name, values in measured.items()
        if name != LEARNED
    }
    tables = {
        title: rows,
        "Learned less each rule, sequence by sequence: mean ± its standard error, as if sequences "
        "did not overlap": paired,
    }
    stem = settings.output / f"table-{settings.score}"
    text = []
    for caption, each in tables.items():
        head = ["", *(f"{mode} backfilling" for mode in MODES)]
        table = rich.table.Table(*head, title=caption, box=rich.box.SIMPLE)
        lines = [[name, *cells] for name, cells in each.items()]
        for line in lines:
            table.add_row(*line)
        console.print(table)
        text += [f"{caption}.", ""]
        text += [f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines]] + [""]
    write(stem.with_suffix(".md"), "\n".join(text))
    made = {
        "settings": vars(settings),
        "versions": versions(),
        "sequences": test.tolist(),
        "scores": {
            name: {mode: each.tolist() for mode, each in values.items()}
            for name, values in measured.items()
        },
        "training": {mode: policy.history for mode, policy in policies.items()},
    }
    write(stem.with_suffix(".json"), json_text(made))
    console.print(f"This is in {stem}.md and .json, beside the policies.", markup=False)


def _cell(values: np.ndarray | None) -> str:
    if values is None:
        return "not trained"
    return f"{values.mean():.2f} ± {_spread(values):.2f}"


def _difference(learned: np.ndarray | None, others: np.ndarray) -> str:
    if learned is None:
        return "not trained"
    less = learned - others
    return f"{less.mean():+.2f} ± {_spread(less) / len(less) ** 0.5:.2f}"


def _spread(values: np.ndarray) -> float:
    return values.std(ddof=1) if len(values) > 1 else float("nan")


def main(arguments: list[str] | None = None) -> int:
    settings, console = parse(arguments), make_console()
    return until_stopped(lambda: work(settings, console), console)


if __name__ == "__main__":
    sys.exit(main())
