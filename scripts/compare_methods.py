"""Compares the methods of keras_sharp.large_batch on equal terms.

A small batch, the plain large batch, and the large batch with each method: all train for the same
number of epochs, and each has its learning rate chosen from as many candidates, on examples that
are neither trained nor tested on. Then come several trainings with other seeds at that rate.

    python scripts/compare_methods.py                       # digits, ten minutes on a CPU
    python scripts/compare_methods.py --dataset mnist cifar10 --methods sam swa --trials 5

Every training is saved when it is finished and measured, and the same command goes on where it
stopped. More methods, batch sizes and trials are added to those that are there.
"""

import argparse
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")  # pictures go into files

import keskar_report
import rich.console
import tensorflow as tf
from keskar_experiment import FAILURES
from methods_report import report
from methods_settings import DATASETS, GRID, RATES, VALIDATION_SHARE
from methods_study import Study, collections_between_trainings
from positive import positive
from run_folder import RunFolder, locked
from run_progress import Display, Plan, make_console
from run_until_stopped import until_stopped

from keras_sharp.large_batch import METHODS


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Returns the settings; ends the program with a message if they are of no use."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, choices, default in (("dataset", DATASETS, ["digits"]), ("methods", METHODS, None)):
        there_are = ", ".join(choices)
        parser.add_argument(
            f"--{name}", nargs="+", metavar="NAME", choices=choices, default=default, help=there_are
        )
    for name in ("trials", "epochs", "small_batch"):
        defaults = ", ".join(f"{getattr(each, name)} on {key}" for key, each in DATASETS.items())
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=positive, help=f"default {defaults}"
        )
    defaults = ", ".join(f"{each.batch_sizes} on {name}" for name, each in DATASETS.items())
    parser.add_argument(
        "--batch-sizes", nargs="+", type=positive, metavar="SIZE", help=f"default {defaults}"
    )
    parser.add_argument("--data-dir", help="folder of prepared data; default TFDS_DATA_DIR")
    parser.add_argument("--limit", type=positive, help="use so many examples only")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs", "methods"))
    parser.add_argument("--seed", type=int, default=0, help="of the whole experiment, default 0")
    settings = parser.parse_args(arguments)
    if settings.seed < 0:
        parser.error("--seed must not be negative")
    return settings


def compare(settings: argparse.Namespace, console: rich.console.Console) -> int:
    """Does all that is left; returns the exit status, 1 if no trial could be measured."""
    decisive = {name: getattr(settings, name) for name in ("small_batch", "epochs", "seed")}
    decisive |= {"limit": settings.limit, "grid": list(GRID), "rates": RATES}
    decisive |= {"validation_share": VALIDATION_SHARE}
    with locked(settings.output):
        folder = RunFolder(settings.output, decisive, {})
        for remark in folder.remarks:
            console.print(f"Note: since {folder.root} was begun, the {remark}.", markup=False)
        studies, failures = [], []
        with Display(Plan(), console) as display:
            for name in settings.dataset:
                try:
                    study = Study(name, settings, folder, display)
                except (FileNotFoundError, *FAILURES) as error:  # no data, or none of use
                    failures.append(f"{name}: {str(error).replace('`data_dir`', '`--data-dir`')}")
                    continue
                study.plan()
                studies.append(study)
            made = report(settings, folder, studies, failures)
            with collections_between_trainings():
                for study in studies:
                    for case in study.cases:
                        study.run(case)
                    made = report(settings, folder, studies, failures)
        keskar_report.show(made, console)
    return 0 if any(outcome.trials for each in studies for outcome in each.outcomes()) else 1


def main(arguments: list[str] | None = None) -> int:
    settings, console = parse(arguments), make_console()
    tf.get_logger().setLevel("ERROR")  # it warns that steps are traced often: that is the plan
    return until_stopped(lambda: compare(settings, console), console)


if __name__ == "__main__":
    sys.exit(main())
