"""Momentum SGD with neighbours only: its bias, real trainings, and a plan for thousands of nodes.

    python scripts/compare_decentralized.py bias               # closed forms, seconds
    python scripts/compare_decentralized.py train              # digits, some minutes on a CPU
    python scripts/compare_decentralized.py train --dataset mnist --topology one-peer-exponential
    python scripts/compare_decentralized.py plan --step-seconds 0.1 --megabytes 100 --gigabits 10
    python scripts/compare_decentralized.py topologies --nodes 16

Every training is saved when it is finished and measured, and the same command goes on where it
stopped. More methods, batch sizes and trials are added to those that are there.
"""

import argparse
import math
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")  # pictures go into files

import decentralized_report
import keskar_report
import matplotlib.pyplot as plt
import rich.console
import tensorflow as tf
from decentralized_bias import STEPS, biases
from decentralized_plan import Cluster, plan
from decentralized_settings import (
    ALPHA,
    DATASETS,
    DROP_AFTER,
    LARS_RATE,
    METHODS,
    MOMENTUM,
    RATE,
    SPLITS,
    TOPOLOGIES,
    WARM_UP,
)
from decentralized_study import DecentralizedStudy
from keskar_experiment import FAILURES
from methods_settings import GRID, VALIDATION_SHARE
from positive import positive
from run_folder import RunFolder, locked
from run_progress import Display, Plan, make_console
from run_until_stopped import until_stopped

from keras_sharp.plots.topology import topology as draw_topology


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Returns the settings; ends the program with a message if they are of no use."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    made = {name: commands.add_parser(name, help=work.__doc__) for name, work in COMMANDS.items()}
    for name, command in made.items():
        output = pathlib.Path("runs", "decentralized")
        output = output if name != "train" else output / "train"
        command.add_argument("--output", type=pathlib.Path, default=output)
    for command in (made["bias"], made["train"]):
        command.add_argument("--seed", type=_natural, default=0, help="of everything, default 0")
    made["bias"].add_argument("--steps", type=positive, default=STEPS)
    made["topologies"].add_argument("--nodes", type=positive, default=16)
    _add_training(made["train"])
    _add_plan(made["plan"])
    return parser.parse_args(arguments)


def _add_training(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dataset", choices=DATASETS, default="digits")
    command.add_argument("--topology", choices=TOPOLOGIES, default="ring")
    for name, choices in (("methods", METHODS), ("splits", SPLITS)):
        command.add_argument(f"--{name}", nargs="+", choices=choices, help="default all")
    for name in ("trials", "epochs"):
        defaults = ", ".join(f"{getattr(each, name)} on {key}" for key, each in DATASETS.items())
        command.add_argument(f"--{name}", type=positive, help=f"default {defaults}")
    defaults = ", ".join(f"{each.batch_sizes} on {name}" for name, each in DATASETS.items())
    command.add_argument(
        "--batch-sizes",
        nargs="+",
        type=positive,
        metavar="SIZE",
        help=f"examples of a node in a step, default {defaults}, and 10 %% of all",
    )
    command.add_argument("--nodes", type=positive, default=8, help="default 8")
    command.add_argument("--data-dir", help="folder of prepared data; default TFDS_DATA_DIR")
    command.add_argument("--limit", type=positive, help="use so many examples only")


def _add_plan(command: argparse.ArgumentParser) -> None:
    for name, default, meaning in (
        ("step-seconds", 0.1, "a node's own, for the gradient of its part of a batch"),
        ("megabytes", 100.0, "of weights, 4 bytes each"),
        ("gigabits", 10.0, "a second, of a link"),
        ("latency", 5e-5, "of a message, in seconds"),
        ("oversubscription", 1.0, "what a rack's nodes can send over what its uplink takes"),
    ):
        command.add_argument(
            f"--{name}", type=_above_zero, default=default, help=f"{meaning}, default {default:g}"
        )
    for name, default, meaning in (
        ("rack", 16, "nodes in a rack, a power of two"),
        ("ring-limit", 16, "largest ring that trains as well as all-reduce, 4 or more"),
        ("most-nodes", 4096, "largest number of nodes"),
    ):
        command.add_argument(
            f"--{name}", type=positive, default=default, help=f"{meaning}, default {default}"
        )


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, 0 or more")
    return int(text)


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0")
    return value


def bias(settings: argparse.Namespace, console: rich.console.Console) -> int:
    """Where each method ends without noise, beside the paper's formulas."""
    settings.output.mkdir(parents=True, exist_ok=True)
    found = biases(settings.steps, settings.seed)
    keskar_report.show(decentralized_report.report_biases(settings, found), console)
    return 0


def train(settings: argparse.Namespace, console: rich.console.Console) -> int:
    """Trainings with each method on equal terms, data alike and not."""
    decisive = {name: getattr(settings, name) for name in ("topology", "nodes", "epochs", "seed")}
    decisive |= {"limit": settings.limit, "grid": list(GRID), "rates": [RATE, LARS_RATE]}
    decisive |= {"momentum": MOMENTUM, "warm_up": WARM_UP, "drop_after": DROP_AFTER}
    decisive |= {"alpha": ALPHA, "validation_share": VALIDATION_SHARE}
    with locked(settings.output):
        folder = RunFolder(settings.output, decisive, {})
        for remark in folder.remarks:
            console.print(f"Note: since {folder.root} was begun, the {remark}.", markup=False)
        studies, failures = [], []
        with Display(Plan(), console) as display:
            for split in [each for each in SPLITS if each in (settings.splits or SPLITS)]:
                name = f"{settings.dataset}, {split}"
                try:
                    study = DecentralizedStudy(settings.dataset, split, settings, folder, display)
                except (FileNotFoundError, *FAILURES) as error:  # no data, or none of use
                    failures.append(f"{name}: {str(error).replace('`data_dir`', '`--data-dir`')}")
                    continue
                study.plan()
                studies.append(study)
            for study in studies:
                for case in study.cases:
                    study.run(case)
        made = decentralized_report.report_trainings(settings, folder, studies, failures)
        keskar_report.show(made, console)
    return 0 if any(outcome.trials for each in studies for outcome in each.outcomes()) else 1


def plan_past_this_machine(settings: argparse.Namespace, console: rich.console.Console) -> int:
    """Who wins as nodes grow to thousands, from measured times and link speeds."""
    if settings.rack & (settings.rack - 1) or settings.ring_limit < 4 or settings.most_nodes < 2:
        console.print(
            "--rack must be a power of two, --ring-limit at least 4 and --most-nodes at least 2.",
            markup=False,
        )
        return 2
    settings.output.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(
        step_seconds=settings.step_seconds,
        size=1e6 * settings.megabytes,
        bandwidth=1e9 / 8 * settings.gigabits,
        latency=settings.latency,
        rack=settings.rack,
        oversubscription=settings.oversubscription,
        ring_limit=settings.ring_limit,
    )
    rows = plan(cluster, [2**k for k in range(1, settings.most_nodes.bit_length())])
    keskar_report.show(decentralized_report.report_plan(settings, cluster, rows), console)
    return 0


def topologies(settings: argparse.Namespace, console: rich.console.Console) -> int:
    """All topologies, drawn with their spectral gaps."""
    settings.output.mkdir(parents=True, exist_ok=True)
    drawn = []
    for kind in TOPOLOGIES.values():
        try:
            drawn.append(kind(settings.nodes))
        except ValueError as error:  # not every number of nodes has each of them
            console.print(f"Not drawn: {kind.__name__}: {error}", markup=False)
    figure, panels = plt.subplots(2, 5, figsize=(13, 5.6), layout="constrained")
    for ax in panels.flat[len(drawn) :]:
        ax.set_axis_off()
    for ax, graph in zip(panels.flat, drawn, strict=False):
        draw_topology(graph, ax)
    stem = settings.output / f"topologies-{settings.nodes}"
    decentralized_report.save_figure(figure, stem)
    console.print(f"This is in {stem}.png and .svg", markup=False)
    return 0


COMMANDS = {
    "bias": bias,
    "train": train,
    "plan": plan_past_this_machine,
    "topologies": topologies,
}


def main(arguments: list[str] | None = None) -> int:
    settings, console = parse(arguments), make_console()
    tf.get_logger().setLevel("ERROR")  # it warns that steps are traced often: that is the plan
    return until_stopped(lambda: COMMANDS[settings.command](settings, console), console)


if __name__ == "__main__":
    sys.exit(main())
