"""Reproduces Tables 2, 3 and 4 of Keskar et al. 2017, which compare small with large batches.

Without arguments it trains F1's architecture on scikit-learn's digits, a few minutes on a CPU:

    python scripts/reproduce_table.py

The paper's networks on the paper's data (TensorFlow Datasets downloads them; TIMIT is licensed):

    python scripts/reproduce_table.py --networks F1 C1
    python scripts/reproduce_table.py --networks all --data-dir ~/data

Every piece of work is saved when it is finished. The same command goes on where it stopped; with
the other --batch-norm it measures the same trained weights in the other mode.
"""

import argparse
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import rich.console
from keskar_experiment import EVALUATION_BATCH, attempt, make_plan
from keskar_report import report, show
from keskar_training import batch_sizes, make_optimizer
from run_folder import RunFolder, locked
from run_progress import Display, make_console
from run_until_stopped import until_stopped

from keras_sharp.networks import NETWORKS

DEFAULTS = {
    "digits": {"trials": 3, "epochs": 40, "small_batch": 32},
    "the paper's": {"trials": 5, "epochs": 100, "small_batch": 256},
}
# What decides the trained weights: an output folder holds the results of one choice of these.
TRAINING_SETTINGS = ("data", "small_batch", "large_batch", "epochs", "seed", "limit")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Returns the settings; ends the program with a message if they are of no use."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(NETWORKS)
    for name in DEFAULTS["digits"]:
        of_paper, of_digits = (DEFAULTS[data][name] for data in ("the paper's", "digits"))
        text = f"default {of_paper}; {of_digits} on digits"
        parser.add_argument(f"--{name.replace('_', '-')}", type=positive, help=text)
    for name, kind, text in (
        ("--large-batch", positive, "default 10 %% of the training data"),
        ("--data-dir", str, "folder of prepared data; default TFDS_DATA_DIR, then TFDS's own"),
        ("--output", pathlib.Path, "default runs/keskar; runs/digits on digits"),
        ("--limit", positive, "train and test on so many examples only, for a quick look"),
    ):
        parser.add_argument(name, type=kind, help=text)
    parser.add_argument(
        "--networks", nargs="+", metavar="NAME", help=f"{names} or all, on the paper's data"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the whole experiment, default 0")
    parser.add_argument(
        "--batch-norm",
        choices=("batch", "inference"),
        default="batch",
        help="measure with the statistics of the evaluation batch, as the authors' code does "
        "(default), or with the moving statistics",
    )
    parser.add_argument(
        "--evaluation-batch",
        type=positive,
        default=EVALUATION_BATCH,
        help=f"default {EVALUATION_BATCH}, as the authors' code",
    )
    settings = parser.parse_args(arguments)

    on_digits = settings.networks is None
    asked = ["F1"] if on_digits else settings.networks
    unknown = set(asked) - set(NETWORKS) - {"all"}
    if unknown:
        parser.error(f"--networks: unknown {', '.join(sorted(unknown))}; there are {names}")
    if settings.seed < 0:
        parser.error("--seed must not be negative")
    settings.data = "digits" if on_digits else "the paper's"
    settings.networks = [name for name in NETWORKS if name in asked or "all" in asked]
    for name, default in DEFAULTS[settings.data].items():
        if getattr(settings, name) is None:
            setattr(settings, name, default)
    settings.output = settings.output or pathlib.Path("runs", "digits" if on_digits else "keskar")
    try:  # how many examples there are without a limit, only the data tell
        batch_sizes(settings.small_batch, settings.large_batch, settings.limit or sys.maxsize)
    except ValueError as error:
        parser.error(str(error))
    return settings


def positive(text: str) -> int:
    """Returns the number in an argument, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be positive, not {value}")
    return value


def reproduce(settings: argparse.Namespace, console: rich.console.Console) -> int:
    """Does all that is left; returns the exit status, 1 if no measured value exists at all."""
    training = {name: getattr(settings, name) for name in TRAINING_SETTINGS}
    optimizer = keras.optimizers.serialize(make_optimizer())["config"]
    with locked(settings.output):
        folder = RunFolder(settings.output, training, {"optimizer": optimizer})
        plan = make_plan(settings, folder, console)
        for remark in folder.remarks:
            console.print(f"Note: since {folder.root} was begun, the {remark}.", markup=False)
        reasons: dict[str, list[str]] = {}
        with Display(plan, console) as display:
            for network in settings.networks:
                if plan.is_done(network):
                    continue
                why = attempt(network, settings, folder, display)
                if why:
                    reasons[network] = why
                    plan.drop(network)
                report(settings, folder, reasons)
        made = report(settings, folder, reasons)
        show(made, console)
    return 0 if any(each.trials for each in made.measured) else 1


def main(arguments: list[str] | None = None) -> int:
    settings, console = parse(arguments), make_console()
    return until_stopped(lambda: reproduce(settings, console), console)


if __name__ == "__main__":
    sys.exit(main())
