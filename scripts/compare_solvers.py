"""Why the value can be trusted: the inner problem of epsilon-sharpness solved in four ways.

    python scripts/compare_solvers.py                                   digits, by training length
    python scripts/compare_solvers.py --epochs 5 40                     two of the lengths only
    python scripts/compare_solvers.py --runs runs/keskar --network F1   what reproduce_table.py kept

The obvious call of SciPy's L-BFGS-B on -f stops at once on a well-trained network, because its
gradient is smaller than the solver's tolerance; without tolerances the first step is as long as the
gradient, and ten iterations never leave the centre of the box. Handed f divided by its largest
gradient entry, the same ten iterations come close to the maximum that sign ascent finds.
"""

import argparse
import functools
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import rich.console
import rich.table
import scipy.optimize
from keskar_experiment import EVALUATION_BATCH
from keskar_settings import DEFAULTS, DIGITS, positive
from keskar_training import LOSS, make_optimizer, tenth, trial_seed

import keras_sharp
from keras_sharp import datasets
from keras_sharp.networks import NETWORKS
from keras_sharp.training import Trainer

EPSILON = 1e-3
LENGTHS = (5, 10, 20, 40, 80, 160)  # epochs

console = rich.console.Console()


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
    parser.add_argument("--output", type=pathlib.Path, help="also write the table to this file")
    settings = parser.parse_args(arguments)

    table = rich.table.Table(
        title=f"Full-space sharpness at epsilon {EPSILON:g}, {settings.iterations} iterations of "
        "each solver"
    )
    for head in ("network", "BatchNormalization", "loss", *WAYS):
        table.add_column(head, justify="right")
    if settings.runs:
        models = kept(settings.runs, settings.network, settings.trials, settings.data_dir)
    else:
        models = digits_by_length(settings.seed, sorted(set(settings.epochs)))
    for title, model, data in models:
        for mode in settings.batch_norm:
            objective = keras_sharp.Objective(
                model,
                (data.x_train, data.y_train),
                LOSS,
                batch_norm=mode,
                batch_size=EVALUATION_BATCH,
            )
            values = [f"{way(objective, settings.iterations):.4g}" for way in WAYS.values()]
            table.add_row(title, mode, f"{objective.value():.3g}", *values)
            console.print(f"{title}, {mode}: {', '.join(values)}")
    recorder = rich.console.Console(record=True, width=140)
    recorder.print(table)
    if settings.output:
        settings.output.write_text(recorder.export_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
