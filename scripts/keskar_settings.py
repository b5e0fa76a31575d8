"""The settings that reproduce_table.py and reproduce_figures.py share: networks, data, training."""

import argparse
import pathlib
import sys

from keskar_training import batch_sizes
from positive import positive

from keras_sharp.networks import NETWORKS

DIGITS, PAPER = "digits", "the paper's"
# The defaults of numbers that depend on the data.
DEFAULTS = {
    DIGITS: {"trials": 3, "epochs": 40, "small_batch": 32},
    PAPER: {"trials": 5, "epochs": 100, "small_batch": 256},
}
# What decides the trained weights: an output folder holds the results of one choice of these.
TRAINING_SETTINGS = ("data", "small_batch", "large_batch", "epochs", "seed", "limit")


def make_parser(
    description: str, outputs: dict[str, str], *, trials: bool = True
) -> argparse.ArgumentParser:
    """Returns a parser of the shared settings.

    Args:
        description: What the script does.
        outputs: Name of the output folder below `runs`, by the data.
        trials: Whether it repeats its trainings.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, of_paper in DEFAULTS[PAPER].items():
        if name == "trials" and not trials:
            continue
        text = f"default {of_paper}; {DEFAULTS[DIGITS][name]} on digits"
        parser.add_argument(f"--{name.replace('_', '-')}", type=positive, help=text)
    output = f"default runs/{outputs[PAPER]}; runs/{outputs[DIGITS]} on digits"
    for name, kind, text in (
        ("--large-batch", positive, "default 10 %% of the training data"),
        ("--data-dir", str, "folder of prepared data; default TFDS_DATA_DIR, then TFDS's own"),
        ("--output", pathlib.Path, output),
        ("--limit", positive, "train and test on so many examples only, for a quick look"),
    ):
        parser.add_argument(name, type=kind, help=text)
    names = ", ".join(NETWORKS)
    parser.add_argument(
        "--networks", nargs="+", metavar="NAME", help=f"{names} or all, on the paper's data"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the whole experiment, default 0")
    parser.set_defaults(outputs=outputs)
    return parser


def resolve(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """Returns the settings with their defaults; ends the program if they are of no use."""
    settings = parser.parse_args(arguments)
    on_digits = settings.networks is None
    asked = ["F1"] if on_digits else settings.networks
    unknown = set(asked) - set(NETWORKS) - {"all"}
    if unknown:
        there_are = ", ".join(NETWORKS)
        parser.error(f"--networks: unknown {', '.join(sorted(unknown))}; there are {there_are}")
    if settings.seed < 0:
        parser.error("--seed must not be negative")
    settings.data = DIGITS if on_digits else PAPER
    settings.networks = [name for name in NETWORKS if name in asked or "all" in asked]
    for name, default in DEFAULTS[settings.data].items():
        if getattr(settings, name, default) is None:
            setattr(settings, name, default)
    settings.output = settings.output or pathlib.Path("runs", settings.outputs[settings.data])
    try:  # how many examples there are without a limit, only the data tell
        batch_sizes(settings.small_batch, settings.large_batch, settings.limit or sys.maxsize)
    except ValueError as error:
        parser.error(str(error))
    return settings
