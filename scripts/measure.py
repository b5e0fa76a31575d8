"""How sharp and how noisy is the minimum in a saved model? A table, and JSON.

    python scripts/measure.py MODEL.keras --dataset mnist
    python scripts/measure.py MODEL.keras --dataset mnist --split test --batch-norm inference batch
    python scripts/measure.py MODEL.keras --dataset mine.npz --output report.json
    python scripts/measure.py MODEL.keras --dataset mnist --measures sharpness:epsilon=5e-4

--dataset is digits, mnist, cifar10, cifar100 or timit, images scaled to [0, 1]; or a file .npz with
the arrays x and y, and sample_weight if there is one, prepared as the model was trained on them.
"""

import argparse
import ast
import importlib
import json
import os
import pathlib
import sys
import zipfile
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import rich.console
from positive import positive
from run_folder import write

from keras_sharp import datasets
from keras_sharp.measures.report import DEFAULT, MEASURES, measure
from keras_sharp.results.report import Report

console = rich.console.Console()


# --------------------------------------------------------------------------------------------------
# What was asked
# --------------------------------------------------------------------------------------------------


def choice(text: str) -> tuple[str, dict[str, Any]] | str:
    """Reads `name` or `name:option=value,option=value`."""
    name, colon, listed = text.partition(":")
    if name not in MEASURES:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(MEASURES)}")
    if not colon:
        return name
    options = {}
    for entry in listed.split(","):
        option, equals, value = entry.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f"{text!r}: {entry!r} must be option=value")
        try:
            options[option] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[option] = value  # a word, such as sign-ascent
    return name, options


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=pathlib.Path, help="a model that Keras saved")
    parser.add_argument("--dataset", required=True, help="a name, or a file .npz")
    parser.add_argument(
        "--split", choices=("train", "test"), default="train", help="of a name; default: train"
    )
    parser.add_argument("--limit", type=positive, help="only so many examples, the first")
    parser.add_argument("--one-hot", action="store_true", help="labels as vectors, not numbers")
    parser.add_argument("--data-dir", help="folder of prepared data; default: TFDS_DATA_DIR")
    parser.add_argument(
        "--measures",
        nargs="+",
        type=choice,
        metavar="NAME[:OPTION=VALUE,...]",
        help=f"of {', '.join(MEASURES)}; default: {' '.join(DEFAULT)}",
    )
    parser.add_argument(
        "--batch-norm",
        nargs="+",
        choices=("inference", "batch"),
        default=["inference"],
        help="moving statistics, or those of the evaluation batch; a report for each",
    )
    parser.add_argument(
        "--batch-size", type=positive, default=1000, help="of evaluation batches; default: 1000"
    )
    parser.add_argument("--loss", help="a name in keras.losses; default: the compiled one")
    parser.add_argument("--from-logits", action="store_true", help="with --loss: no softmax yet")
    parser.add_argument("--seed", type=int, default=0, help="of all measures; default: 0")
    parser.add_argument(
        "--import",
        dest="modules",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="modules that register the model's own layers with Keras",
    )
    parser.add_argument("--output", type=pathlib.Path, help="also write the reports as JSON")
    settings = parser.parse_args(arguments)
    if settings.from_logits and settings.loss is None:
        parser.error("--from-logits belongs to --loss")
    return settings


# --------------------------------------------------------------------------------------------------
# Model and data
# --------------------------------------------------------------------------------------------------


def load_model(settings: argparse.Namespace) -> keras.Model:
    """Loads the model; what it says of failures is for people who did not write it."""
    if not settings.model.is_file():
        raise SystemExit(f"There is no file {settings.model}.")
    for module in settings.modules:
        sys.path.insert(0, os.getcwd())
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise SystemExit(f"--import {module}: {error}.") from error
    try:
        model = keras.saving.load_model(settings.model, compile=settings.loss is None)
    except (TypeError, ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise SystemExit(
            f"Keras could not load {settings.model}: {first_line(error)}\n"
            "If it has layers or losses of its own, name the module that registers them "
            "(@keras.saving.register_keras_serializable) with --import. If its loss alone is "
            "missing, choose one with --loss. Otherwise build the model in Python, and call "
            "keras_sharp.measure(model, data)."
        ) from error
    if settings.loss is None and not model.compiled:
        raise SystemExit(
            f"{settings.model} was saved without a loss: choose one, as in --loss "
            "sparse_categorical_crossentropy (with --from-logits if it ends without a softmax)."
        )
    return model


def load_loss(settings: argparse.Namespace) -> Any:
    """Returns the loss that was chosen; None for the compiled one."""
    if settings.loss is None:
        return None
    words = settings.loss.split("_")
    name = "".join(word.title() for word in words) if len(words) > 1 else settings.loss
    try:
        if settings.from_logits:
            return keras.losses.get({"class_name": name, "config": {"from_logits": True}})
        return keras.losses.get(settings.loss)
    except (TypeError, ValueError) as error:
        raise SystemExit(
            f"--loss {settings.loss}{' --from-logits' * settings.from_logits} is no loss of Keras: "
            f"{first_line(error)}"
        ) from error


def load_data(settings: argparse.Namespace) -> tuple[np.ndarray, ...]:
    """Returns `(x, y)` or `(x, y, sample_weight)`."""
    if settings.dataset.endswith(".npz"):
        arrays = load_file(pathlib.Path(settings.dataset))
    else:
        try:
            data = datasets.load(settings.dataset, data_dir=settings.data_dir)
        except (ValueError, FileNotFoundError) as error:
            raise SystemExit(f"--dataset {settings.dataset}: {error}") from error
        train = settings.split == "train"
        arrays = (data.x_train, data.y_train) if train else (data.x_test, data.y_test)
    x, y, *weights = (array[: settings.limit] for array in arrays)
    if settings.one_hot:
        if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
            raise SystemExit(f"--one-hot needs labels 0, 1, 2... Found: {y.dtype}, {y.shape}.")
        classes = data.classes if not settings.dataset.endswith(".npz") else int(y.max()) + 1
        y = np.eye(classes, dtype=np.float32)[y]
    return x, y, *weights


def load_file(file: pathlib.Path) -> tuple[np.ndarray, ...]:
    """Returns the arrays of a file .npz."""
    if not file.is_file():
        raise SystemExit(f"There is no file {file}.")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            names = ["x", "y"] + ["sample_weight"] * ("sample_weight" in arrays)
            return tuple(arrays[name] for name in names)
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise SystemExit(f"{file} must hold arrays x and y. Found: {error}") from error


def fitted(model: keras.Model, arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Returns the arrays, the examples in the shape that the model takes.

    Rows of numbers become images of one channel and images rows of numbers; axes of length 1 come
    and go. What cannot become what the model takes ends the program.
    """
    x, shape = arrays[0], getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or not all(isinstance(n, int | None) for n in shape):
        if isinstance(shape, dict | list | tuple):
            raise SystemExit(
                f"The model has several inputs, {shape}, and the data one. Call "
                "keras_sharp.measure(model, data) in Python."
            )
        return arrays
    fits = len(shape) == x.ndim and all(
        wanted in (None, got) for wanted, got in zip(shape[1:], x.shape[1:], strict=True)
    )
    if fits:
        return arrays
    wanted, given = ([n for n in each[1:] if n != 1] for each in (shape, x.shape))
    same = None not in wanted and np.prod(wanted) == np.prod(given)
    # An image of several channels may have them first or last, and rows of numbers don't say.
    if not same or not (
        wanted == given or len(wanted) == 1 or len(given) == 1 and len(wanted) == 2
    ):
        raise SystemExit(
            f"The model takes examples of shape {shape[1:]}. Those of the data are {x.shape[1:]}."
        )
    console.print(f"Examples of shape {x.shape[1:]} are reshaped to {shape[1:]}.", markup=False)
    return x.reshape(len(x), *shape[1:]), *arrays[1:]


def first_line(error: Exception) -> str:
    """Returns what an error says, without the configurations that Keras puts around it."""
    text = str(error).rpartition("Exception encountered: ")[2].partition(" Full object config:")[0]
    return (text.strip() or type(error).__name__).splitlines()[0]


# --------------------------------------------------------------------------------------------------
# Reports
# --------------------------------------------------------------------------------------------------


def check_output(file: pathlib.Path | None) -> None:
    """Says before the work whether its result can be written."""
    if file is None:
        return
    if file.is_dir() or not os.access(file.parent, os.W_OK):
        raise SystemExit(f"--output {file} must be a file in a folder that can be written to.")


def as_json(settings: argparse.Namespace, reports: list[Report]) -> str:
    """Returns the reports, and what they are of."""
    content = {
        "model": str(settings.model),
        "dataset": settings.dataset,
        "split": None if settings.dataset.endswith(".npz") else settings.split,
        "limit": settings.limit,
        "reports": [json.loads(report.to_json()) for report in reports],
    }
    return json.dumps(content, indent=2) + "\n"


def main(arguments: list[str] | None = None) -> int:
    settings = parse(arguments)
    check_output(settings.output)
    loss = load_loss(settings)
    model = load_model(settings)
    data = fitted(model, load_data(settings))
    reports = []
    for mode in settings.batch_norm:
        partial = None

        def keep(report: Report) -> None:  # so that whatever comes next loses nothing
            nonlocal partial
            partial = report
            if settings.output:
                write(settings.output, as_json(settings, [*reports, report]))

        try:
            report = measure(
                model,
                data,
                settings.measures,
                seed=settings.seed,
                loss=loss,
                batch_norm=mode,
                batch_size=settings.batch_size,
                after_each=keep,
            )
        except KeyboardInterrupt:
            if partial is not None:
                console.print(partial)
            raise SystemExit(130) from None
        except (ValueError, RuntimeError) as error:
            raise SystemExit(f"{settings.model} could not be measured. {error}") from error
        console.print(report)
        reports.append(report)
    return 1 if any(report.failures for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
