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
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import rich.console
from keskar_experiment import EVALUATION_BATCH, attempt, make_plan
from keskar_report import report, show
from keskar_settings import DIGITS, PAPER, TRAINING_SETTINGS, make_parser, positive, resolve
from keskar_training import make_optimizer
from run_folder import RunFolder, locked
from run_progress import Display, make_console
from run_until_stopped import until_stopped


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Returns the settings; ends the program with a message if they are of no use."""
    parser = make_parser(__doc__, {DIGITS: "digits", PAPER: "keskar"})
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
    return resolve(parser, arguments)


def reproduce(settings: argparse.Namespace, console: rich.console.Console) -> int:
    """Does all that is left; returns the exit status, 1 if nothing asked for was measured."""
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
    asked = (each for each in made.measured if each.network in settings.networks)
    return 0 if any(each.trials for each in asked) else 1


def main(arguments: list[str] | None = None) -> int:
    settings, console = parse(arguments), make_console()
    return until_stopped(lambda: reproduce(settings, console), console)


if __name__ == "__main__":
    sys.exit(main())
