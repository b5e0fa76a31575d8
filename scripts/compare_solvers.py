"""Why the value can be trusted: the inner problem of epsilon-sharpness solved in four ways.

    python scripts/compare_solvers.py                                   digits, by training length
    python scripts/compare_solvers.py --epochs 5 40                     two of the lengths only
    python scripts/compare_solvers.py --runs runs/keskar --network F1   what reproduce_table.py kept

Every number is saved in `runs/solvers` (`--output`) when it is known, and the same command goes on
where it stopped. The table is printed, and written there as table.md.

The obvious call of SciPy's L-BFGS-B on -f stops at once on a well-trained network, because its
gradient is smaller than the solver's tolerance; without tolerances the first step is as long as the
gradient, and ten iterations never leave the centre of the box. Handed f divided by its largest
gradient entry, the same ten iterations come close to the maximum that sign ascent finds.
"""

import argparse
import functools
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import rich.console
import scipy.optimize
from keskar_experiment import EVALUATION_BATCH
from keskar_settings import DEFAULTS, DIGITS, positive
from keskar_training import LOSS, make_optimizer, tenth, trial_seed
from run_folder import locked, read, versions, write
from run_progress import make_console
from run_until_stopped import until_stopped

import keras_sharp
from keras_sharp import datasets
from keras_sharp.networks import NETWORKS
from keras_sharp.training import Trainer

EPSILON = 1e-3
LENGTHS = (5, 10, 20, 40, 80, 160)  # epochs


# --------------------------------------------------------------------------------------------------
# Four ways
# --------------------------------------------------------------------------------------------------


def unscaled(objective: keras_sharp.Objective, iterations: int, **tolerances: float) -> float:
    """The metric with L-BFGS-B called on -f itself, from the centre of the box."""
    centre = objective.weights
    half = EPSILON * (np.abs(centre) + 1)
    seen = []

    def descend(y):
        value, gradient = objective.value_and_gradient(centre + y)
        seen.append(value)
        return -value, -gradient

    scipy.optimize.minimize(
        descend,
        np.zeros_like(centre),
        jac=True,
        method="L-BFGS-B",
        bounds=scipy.optimize.Bounds(-half, half),
        options={"maxiter": iterations, **tolerances},
    )
    return 100 * (max(seen) - seen[0]) / (1 + seen[0])


def scaled(objective: keras_sharp.Objective, iterations: int, solver: str) -> float:
    """The metric as keras-sharp measures it."""
    search = {"solver": solver, "max_iterations": iterations, "verbose": 0}
    return float(keras_sharp.sharpness(objective, epsilon=EPSILON, **search))


WAYS = {
    "f, SciPy's tolerances": unscaled,
    "f, no tolerances": functools.partial(unscaled, ftol=0, gtol=0),
    "f / max|gradient|": functools.partial(scaled, solver="l-bfgs-b"),
    "sign ascent": functools.partial(scaled, solver="sign-ascent"),
}


# --------------------------------------------------------------------------------------------------
# Trained networks
# --------------------------------------------------------------------------------------------------


def digits_by_length(
    seed: int, lengths: Sequence[int]
) -> Iterator[tuple[str, keras.Model, datasets.Data]]:
    """F1 on digits after more and more epochs; both regimes start from the same weights."""
    data = datasets.load("digits")
    sizes = {"SB": DEFAULTS[DIGITS]["small_batch"], "LB": tenth(len(data.x_train))}
    for regime, batch_size in sizes.items():
        keras.utils.set_random_seed(trial_seed(seed, 1))
        model = NETWORKS["F1"].build(data.input_shape, data.classes)
        trainer = Trainer(model, make_optimizer(), LOSS)
        done = 0
        for epochs in lengths:
            trainer.fit(
                (data.x_train, data.y_train),
                batch_size=batch_size,
                epochs=epochs - done,
                seed=trial_seed(seed, 1 + epochs),
                verbose=0,
            )
            done = epochs
            yield f"{regime}, {epochs} epochs", model, data


def kept(
    runs: pathlib.Path, network: str, trials: int, data_dir: str | None
) -> Iterator[tuple[str, keras.Model, datasets.Data]]:
    """The networks that reproduce_table.py trained and kept."""
    config = json.loads((runs / "config.json").read_text())
    name = "digits" if config["training"]["data"] == "digits" else NETWORKS[network].data
    data = datasets.load(name, data_dir=data_dir)
    model = NETWORKS[network].build(data.input_shape, data.classes)
    for trial in range(1, trials + 1):
        for regime, title in (("small", "SB"), ("large", "LB")):
            file = runs / network / f"trial-{trial}" / f"{regime}.weights.h5"
            if not file.exists():
                raise SystemExit(f"{file} is not there: reproduce_table.py has not trained it yet.")
            model.load_weights(file)
            yield f"{title}, trial {trial}", model, data


# --------------------------------------------------------------------------------------------------
# The table
# --------------------------------------------------------------------------------------------------


def row(
    title: str, objective: keras_sharp.Objective, iterations: int, folder: pathlib.Path
) -> list[str]:
    """Returns a line of the table; numbers of the same weights and settings are read, if kept."""
    mode = objective.settings["batch_norm"]
    file = folder / f"{title.replace(', ', '-').replace(' ', '-')}.{mode}.json"
    key = {
        "weights": hashlib.sha256(objective.weights).hexdigest(),
        "statistics": hashlib.sha256(objective.statistics).hexdigest(),
        "objective": objective.settings,
        "epsilon": EPSILON,
        "iterations": iterations,
        "versions": versions(),
    }
    record: dict[str, Any] = read(file) if file.exists() else {}
    if record.get("key") != key:
        record = {"key": key, "values": {}}
    ways = {"loss": lambda objective, iterations: objective.value(), **WAYS}
    for name, way in ways.items():
        if name not in record["values"]:
            record["values"][name] = way(objective, iterations)
            write(file, json.dumps(record, indent=1))
    loss, *values = record["values"].values()
    return [title, mode, f"{loss:.3g}", *(f"{value:.4g}" for value in values)]


def compare(settings: argparse.Namespace, console: rich.console.Console) -> int:
    """Prints and writes the table, line by line."""
    if settings.runs:
        models = kept(settings.runs, settings.network, settings.trials, settings.data_dir)
    else:
        models = digits_by_length(settings.seed, sorted(set(settings.epochs)))
    heads = ["network", "BatchNormalization", "loss", *(way.replace("|", "\\|") for way in WAYS)]
    table = [
        f"Full-space sharpness at epsilon {EPSILON:g}, {settings.iterations} iterations of each "
        "solver",
        "",
        f"| {' | '.join(heads)} |",
        f"| --- | --- |{' ---: |' * (len(heads) - 2)}",
    ]
    with locked(settings.output):
        console.print("\n".join(table), markup=False, soft_wrap=True)
        for title, model, data in models:
            for mode in settings.batch_norm:
                objective = keras_sharp.Objective(
                    model,
                    (data.x_train, data.y_train),
                    LOSS,
                    batch_norm=mode,
                    batch_size=EVALUATION_BATCH,
                )
                cells = row(title, objective, settings.iterations, settings.output)
                table.append(f"| {' | '.join(cells)} |")
                console.print(table[-1], markup=False, soft_wrap=True)
                write(settings.output / "table.md", "\n".join(table) + "\n")
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=pathlib.Path, help="output folder of reproduce_table.py")
    parser.add_argument("--network", choices=NETWORKS, default="F1", help="with --runs; default F1")
    parser.add_argument("--trials", type=int, default=1, help="with --runs; default 1")
    parser.add_argument("--data-dir", help="folder of prepared data; default: TFDS_DATA_DIR")
    parser.add_argument(
        "--batch-norm", nargs="+", choices=("batch", "inference"), default=["batch", "inference"]
    )
    parser.add_argument("--seed", type=int, default=0, help="of the training on digits")
    parser.add_argument(
        "--iterations", type=positive, default=10, help="of the solvers; default 10"
    )
    parser.add_argument(
        "--epochs",
        type=positive,
        nargs="+",
        default=LENGTHS,
        help=f"lengths of the training on digits; default {' '.join(map(str, LENGTHS))}",
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/solvers"))
    settings, console = parser.parse_args(arguments), make_console()
    return until_stopped(lambda: compare(settings, console), console)


if __name__ == "__main__":
    sys.exit(main())
