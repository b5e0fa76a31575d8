"""Reproduces Figures 2 to 7 of Keskar et al. 2017, and the distances of its section 4.

Without arguments it draws all of them from F1's architecture on scikit-learn's digits:

    python scripts/reproduce_figures.py
    python scripts/reproduce_figures.py 3 7               # two of them only

From the paper's networks on the paper's data (TensorFlow Datasets downloads them):

    python scripts/reproduce_figures.py 2 3 6 7 distance --networks F1 C1

2 training curves, 3 linear path, 4 batch sizes, 5 warm start, 6 sharpness against loss, 7 curved
path, and `distance`. Each becomes a PNG, an SVG, its numbers as CSV, and what they were made with
as JSON. Every piece of work is saved when it is finished, and the same command goes on where it
stopped.
"""

import argparse
import csv
import io
import json
import os
import pathlib
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")  # pictures go into files

import keras
import matplotlib.pyplot as plt
import rich.console
from keskar_experiment import FAILURES, data_name
from keskar_figures import FIGURES, Figure, Row
from keskar_settings import DIGITS, PAPER, TRAINING_SETTINGS, make_parser, resolve
from keskar_study import MEASURING, Study
from keskar_training import make_optimizer
from positive import positive
from run_folder import RunFolder, locked, versions, write
from run_progress import Display, Plan, make_console
from run_until_stopped import until_stopped


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Returns the settings; ends the program with a message if they are of no use."""
    outputs = {DIGITS: "figures-digits", PAPER: "figures-keskar"}
    parser = make_parser(__doc__, outputs, trials=False)
    parser.add_argument(
        "--batch-sizes",
        nargs="+",
        type=positive,
        metavar="SIZE",
        help="of figure 4; default: doublings of a quarter of the small batch up to all examples, "
        "and the two. What does not fit into the memory that is free is left out",
    )
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=", ".join(FIGURES))
    settings = resolve(parser, arguments)
    unknown = set(settings.figures) - set(FIGURES)
    if unknown:
        parser.error(f"unknown figure {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    asked = settings.figures or FIGURES
    settings.figures = [name for name in FIGURES if name in asked]
    return settings


def training_settings(settings: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings that decide the trained weights."""
    return {name: getattr(settings, name) for name in TRAINING_SETTINGS}


def reproduce(settings: argparse.Namespace, console: rich.console.Console) -> int:
    """Draws what is asked for; returns the exit status, 1 if nothing could be drawn."""
    training = training_settings(settings)
    optimizer = keras.optimizers.serialize(make_optimizer())["config"]
    drawn, failures = [], []
    with locked(settings.output):
        folder = RunFolder(settings.output, training, {"optimizer": optimizer})
        for remark in folder.remarks:
            console.print(f"Note: since {folder.root} was begun, the {remark}.", markup=False)
        with Display(Plan(), console) as display:
            for network in settings.networks:
                try:
                    study = Study(network, data_name(network, settings), settings, folder, display)
                except (FileNotFoundError, *FAILURES) as error:
                    reason = str(error).replace("`data_dir`", "`--data-dir`")
                    failures.append(f"{network}: {reason}")
                    continue
                figures = [FIGURES[name] for name in settings.figures]
                study.plan(
                    dict.fromkeys(run for figure in figures for run in figure.runs(study)),
                    dict.fromkeys(point for figure in figures for point in figure.points(study)),
                )
                for name in settings.figures:
                    try:
                        drawn.append(draw(name, FIGURES[name], study))
                        display.say(f"{drawn[-1]}.png, .svg, .csv and .json")
                    except FAILURES as error:
                        failures.append(f"{network}, figure {name}: {error}")
    for failure in failures:
        console.print(f"Not done: {failure}", markup=False)
    return 0 if drawn else 1


def draw(name: str, figure: Figure, study: Study) -> pathlib.Path:
    """Does what a figure needs, and writes it; returns its path without an ending."""
    for run in figure.runs(study):
        study.train(run)
    for run, epoch in figure.points(study):
        study.point(run, epoch)
    picture = plt.figure(figsize=(6.4, 4.4), layout="constrained")
    try:
        rows = figure.draw(study, picture.add_subplot())
        title = f"figure-{name}" if name.isdigit() else name
        stem = study.folder.root / f"{study.network}-{study.data.name}-{title}"
        for ending in ("png", "svg"):
            picture.savefig(stem.with_name(f"{stem.name}.{ending}"), dpi=150)
    finally:
        plt.close(picture)
    write(stem.with_name(f"{stem.name}.csv"), as_csv(rows))
    write(stem.with_name(f"{stem.name}.json"), json.dumps(record(name, figure, study), indent=2))
    return stem


def record(name: str, figure: Figure, study: Study) -> dict[str, Any]:
    """Returns what a figure shows, and the settings and versions it was made with."""
    return {
        "figure": name,
        "title": figure.title,
        "network": study.network,
        "data": study.data.name,
        "examples": {"train": len(study.data.x_train), "test": len(study.data.x_test)},
        "runs": [run._asdict() for run in figure.runs(study)],
        "training": training_settings(study.settings),
        "measuring": MEASURING,
        "versions": versions(),
    }


def as_csv(rows: list[Row]) -> str:
    """Returns rows of the same columns as CSV."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def main(arguments: list[str] | None = None) -> int:
    settings, console = parse(arguments), make_console()
    return until_stopped(lambda: reproduce(settings, console), console)


if __name__ == "__main__":
    sys.exit(main())
