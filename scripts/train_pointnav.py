"""Learns to find a goal in unknown rooms by a depth camera, in many environments at once.

    python scripts/train_pointnav.py                               # two cores, a quarter of an hour
    python scripts/train_pointnav.py --environments 256 --output runs/pointnav-256
    python scripts/train_pointnav.py --frames 20000 --output runs/look                # a minute

The task, the kind of network, PPO and the optimizer are those of Shacklett et al. 2021; maps,
images and network are smaller, so that no GPU is needed: rooms in 6 by 6 m, goals 1 to 8 m away.
The policy is evaluated on maps it has not learned from, once on each. Figures go to TensorBoard, in
the folder's `tensorboard`. The same command goes on where it stopped, as if it had not.
"""

import argparse
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import rich.console
from json_text import json_text
from pointnav_evaluation import evaluate
from pointnav_picture import draw
from pointnav_settings import (
    HELD_OUT,
    RATES,
    add_numbers,
    check,
    decisive,
    make_environment,
)
from pointnav_training import PointNavTraining
from positive import positive
from run_folder import RunFolder, locked, versions, write
from run_progress import Display, Plan, make_console
from run_until_stopped import until_stopped


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Returns the settings; ends the program with a message if they are of no use."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=positive, default=3_000_000, help="default 3,000,000")
    parser.add_argument("--environments", type=positive, default=64, help="default 64")
    parser.add_argument("--optimizer", choices=RATES, default="lamb", help="default lamb")
    parser.add_argument(
        "--learning-rate",
        type=float,
        help=f"for minibatches of 256 frames; default {RATES['lamb']} with LAMB",
    )
    parser.add_argument("--likeliest", action="store_true", help="evaluate without drawing actions")
    add_numbers(parser, "pointnav")
    settings = parser.parse_args(arguments)
    check(parser, settings, settings.environments)
    return settings


def work(settings: argparse.Namespace, console: rich.console.Console) -> int:
    chosen = {name: getattr(settings, name) for name in ("environments", "optimizer")}
    with locked(settings.output):
        folder = RunFolder(settings.output, {**decisive(settings), **chosen}, {})
        for remark in folder.remarks:
            console.print(f"Note: since {folder.root} was begun, the {remark}.", markup=False)
        # What is wrong with it shall show before the training.
        held_out = settings.seed + HELD_OUT
        environment = make_environment(settings, settings.episodes, held_out, settings.episodes)
        with Display(Plan(), console) as display:
            training = PointNavTraining(
                settings, settings.environments, settings.optimizer, folder, display
            )
            try:
                training.run()
            except FloatingPointError as error:
                raise SystemExit(
                    f"{error} Choose a lower --learning-rate, and another --output: what is in "
                    f"{settings.output} leads here again."
                ) from error
            display.show("evaluation", f"{settings.episodes} episodes on maps never seen")
            seed = None if settings.likeliest else settings.seed
            found = evaluate(training.policy, environment, steps=settings.steps, seed=seed)
        measured = found.summary()
        actions = "the likeliest" if settings.likeliest else "drawn"
        picture = settings.output / "pointnav.png"
        draw(picture, found.watched, training)
        made = {
            "settings": vars(settings),
            "versions": versions(),
            "hardware": folder.hardware,
            "evaluation": {**measured, "actions": actions},
            "frames_per_second": training.frames_per_second(),
            "seconds_of_an_update": training.seconds(),
            "training": training.history,
        }
        write(settings.output / "pointnav.json", json_text(made))
    console.print(
        f"After {training.history[-1]['frames']:,.0f} frames in "
        f"{training.history[-1]['seconds']:,.0f} s, {training.frames_per_second():,.0f} a second:\n"
        f"success {measured['success']:.3f} ± {measured['success_error']:.3f}, "
        f"SPL {measured['spl']:.3f} ± {measured['spl_error']:.3f} in {settings.episodes} episodes "
        f"on maps never seen, actions {actions}.\n"
        f"This is in {picture.with_suffix('.json')}, and drawn in {picture}.",
        markup=False,
    )
    return 0


def main(arguments: list[str] | None = None) -> int:
    settings, console = parse(arguments), make_console()
    return until_stopped(lambda: work(settings, console), console)


if __name__ == "__main__":
    sys.exit(main())
