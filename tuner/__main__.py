"""Which batch size, at which learning rate, with which method, and what does it cost?

    python -m keras_sharp.tuner search                                # digits, a few minutes
    python -m keras_sharp.tuner search --network F1 --data mnist --folder runs/mnist
    python -m keras_sharp.tuner search --network my_module:build --data my_module:data
    python -m keras_sharp.tuner search --workers 2
    python -m keras_sharp.tuner report --max-gap 0.005
    python -m keras_sharp.tuner find-batch --network C1 --data cifar10
    python -m keras_sharp.tuner supervise --ids chief tuner0 -- python my_search.py

A search that was stopped goes on when the same command is given again.
"""

import argparse
import importlib
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from keras_sharp.arguments import integer
from keras_sharp.tuner.find_batch import find_batch
from keras_sharp.tuner.records import Records
from keras_sharp.tuner.report import report
from keras_sharp.tuner.search import search
from keras_sharp.tuner.search_tuner import OBJECTIVES, ORACLES
from keras_sharp.tuner.space import GRADIENTS, METHODS, OPTIMIZERS, SCALINGS
from keras_sharp.tuner.supervise import supervise

# Statuses. A command that was called in the wrong way would end so again.
_FAILED, _MISTAKE = 1, 2


def importable(text: str) -> str | Callable:
    """Reads `module:function`, or a name, which stays one."""
    module, colon, name = text.partition(":")
    if not colon:
        return text
    sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be imported: {error}") from error


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m keras_sharp.tuner",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)
    problem = argparse.ArgumentParser(add_help=False)
    problem.add_argument(
        "--network",
        type=importable,
        default="small",
        metavar="NAME",
        help="small, F1 to C4, or module:build; small by default",
    )
    problem.add_argument(
        "--data",
        type=importable,
        default="digits",
        metavar="NAME",
        help="digits, mnist, cifar10, cifar100, timit, or module:function; digits by default",
    )
    problem.add_argument("--data-dir", help="folder of prepared data; TFDS_DATA_DIR by default")
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument(
        "--folder", default="runs/search", help="for results; runs/search by default"
    )
    folder.add_argument(
        "--max-gap", type=float, default=0.005, help="accuracy that may be lost, 0.005 by default"
    )

    go = commands.add_parser(
        "search", parents=[problem, folder], help="search, or go on with it", allow_abbrev=False
    )
    go.add_argument(
        "--base-batch-size", type=int, default=32, help="of the reference, 32 by default"
    )
    go.add_argument("--batch-sizes", type=int, nargs="+", help="doubles of the base by default")
    go.add_argument("--largest-batch", type=int, help="of these; a tenth of the data by default")
    go.add_argument(
        "--learning-rates",
        type=float,
        nargs="+",
        help="at the base batch; by default three that suit the optimizer",
    )
    go.add_argument(
        "--learning-rate-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="at the base batch, in place of a list",
    )
    for name, choices, what in (
        ("scaling", SCALINGS, "of the rate with the batch: {}; sqrt by default"),
        ("optimizer", OPTIMIZERS, "{}; sgd by default"),
        ("gradient", GRADIENTS, "{}; plain by default"),
        ("method", METHODS, "which decides the three above: {}"),
    ):
        go.add_argument(
            f"--{name}",
            nargs="+",
            choices=tuple(choices),
            metavar="NAME",
            help=what.format(", ".join(choices)),
        )
    go.add_argument("--epochs", type=int, help="20 by default")
    go.add_argument("--steps", type=int, help="instead of epochs")
    go.add_argument("--seeds", type=int, default=3, help="trainings of each point, 3 by default")
    go.add_argument("--seed", type=int, default=0, help="of the first of them, 0 by default")
    go.add_argument(
        "--oracle", choices=ORACLES, default="grid", help="which points are next; grid by default"
    )
    go.add_argument("--max-trials", type=int, help="points at most; needed for random and bayesian")
    go.add_argument(
        "--objective",
        choices=tuple(OBJECTIVES),
        default="validation_accuracy",
        help="of the search; validation_accuracy by default",
    )
    go.add_argument(
        "--no-sharpness",
        dest="sharpness",
        action="store_false",
        help="do not measure it after each training",
    )
    go.add_argument(
        "--strategy",
        type=importable,
        metavar="MODULE:FUNCTION",
        help="returns the strategy of each training; all GPUs by default",
    )
    go.add_argument("--limit", type=int, help="use only so many examples of named data")
    go.add_argument("--retry-failed", action="store_true", help="do failed trials again")
    go.add_argument("--workers", type=int, help="search with a chief and so many workers")

    commands.add_parser("report", parents=[folder], help="what a search has found so far")

    fit = commands.add_parser("find-batch", parents=[problem], help="what fits into memory")
    fit.add_argument("--ceiling", type=int, help="largest of interest; all examples by default")
    fit.add_argument("--margin", type=float, default=0.1, help="to keep free, 0.1 by default")
    fit.add_argument("--optimizer", choices=tuple(OPTIMIZERS), default="sgd", help="sgd by default")

    watch = commands.add_parser("supervise", help="keep chief and workers of a program alive")
    watch.add_argument(
        "--ids", nargs="+", default=["chief", "tuner0", "tuner1"], help="one process each"
    )
    watch.add_argument("--address", help="host:port of the chief")
    watch.add_argument("program", nargs="+", metavar="-- PROGRAM")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line says. Returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = vars(parser().parse_args(words))
    command = given.pop("command")
    try:
        if command == "report":
            report(**given)
        elif command == "find-batch":
            found = find_batch(given.pop("network"), given.pop("data"), **given)
            print(found.batch_size, found.status)
            print(f"noise scale after a few steps: {found.noise_scale}. {found.noise_status}")
        elif command == "supervise":
            return supervise(given["program"], given["ids"], address=given["address"])
        else:
            workers = given.pop("workers")
            if workers is None:
                search(given.pop("network"), given.pop("data"), **given)
            else:
                ids = ["chief", *(f"tuner{n}" for n in range(integer("workers", workers)))]
                if given["retry_failed"]:
                    # Here and once: a worker that is started again must not forget what the others
                    # have found meanwhile.
                    Records(given["folder"]).forget_failures()
                again = [
                    word
                    for word, before in zip(words, ["", *words], strict=False)
                    if word.partition("=")[0] not in ("--workers", "--retry-failed")
                    and before != "--workers"
                ]
                return supervise([sys.executable, "-m", "keras_sharp.tuner", *again], ids)
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return _FAILED if isinstance(error, RuntimeError) else _MISTAKE
    except KeyboardInterrupt as stop:
        if command == "search":
            print("\nStopped. What is finished is saved, and the same command goes on:")
            print(shlex.join(["python", "-m", "keras_sharp.tuner", *words]))
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    return 0


def _terminate(number: int, frame: object) -> None:
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(main())
