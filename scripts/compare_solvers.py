"""Why the value can be trusted: the inner problem of epsilon-sharpness solved in several ways.

    python scripts/compare_solvers.py                       digits, by training length
    python scripts/compare_solvers.py --epochs 5 40         two of the lengths only
    python scripts/compare_solvers.py --runs runs/keskar    what reproduce_table.py kept
    python scripts/compare_solvers.py --runs runs/keskar --trials 5 --subspace-dim 100

Every number is saved in `runs/solvers`, or in `solvers` in the folder of `--runs` (`--output`),
when it is known, and the same command goes on where it stopped. The table is printed, and written
there too.

The obvious call of SciPy's L-BFGS-B on -f stops at once on a well-trained network, because its
gradient is smaller than the solver's tolerance; without tolerances the first step is as long as the
gradient, and ten iterations never leave the centre of the box. Handed f divided by its largest
gradient entry, the same ten iterations come close to the maximum that sign ascent finds.

In a random subspace, the one of reproduce_table.py's Table 4, only the last two ways are compared:
where the higher of them is far above the other, one has ended at a low local maximum.

A row costs about eleven gradient passes over the training data for each way, ten iterations and the
centre: 45 in the full space, 23 in a subspace, fewer where a solver ends early.
"""

import argparse
import functools
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import rich.console
import scipy.optimize
from keskar_experiment import EVALUATION_BATCH, REGIME_TITLES
from keskar_settings import DEFAULTS, DIGITS, positive
from keskar_training import LOSS, load, make_optimizer, tenth, trial_seed
from run_folder import locked, read, versions, write
from run_progress import make_console
from run_until_stopped import until_stopped

import keras_sharp
from keras_sharp import datasets
from keras_sharp.networks import NETWORKS
from keras_sharp.training import Trainer

LENGTHS = (5, 10, 20, 40, 80, 160)  # epochs


# --------------------------------------------------------------------------------------------------
# The ways
# --------------------------------------------------------------------------------------------------


class Search(NamedTuple):
    """What is searched, and how long.

    Attributes:
        epsilon: Radius of the box.
        iterations: Of a solver.
        subspace_dim: Dimensions of a random subspace; None for the full space.
        seed: Of the subspace; None for the full space.
    """

    epsilon: float
    iterations: int
    subspace_dim: int | None
    seed: int | None

    @property
    def name(self) -> str:
        space = "full" if self.subspace_dim is None else f"subspace{self.subspace_dim}"
        return f"{space}-{self.epsilon:g}"

    @property
    def ways(self) -> dict[str, Callable[[keras_sharp.Objective, "Search"], float]]:
        return OWN if self.subspace_dim else OBVIOUS | OWN


def unscaled(objective: keras_sharp.Objective, search: Search, **tolerances: float) -> float:
    """The metric with L-BFGS-B called on -f itself, from the centre of the box, in full space."""
    centre = objective.weights
    half = search.epsilon * (np.abs(centre) + 1)
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
        options={"maxiter": search.iterations, **tolerances},
    )
    return 100 * (max(seen) - seen[0]) / (1 + seen[0])


def scaled(objective: keras_sharp.Objective, search: Search, solver: str) -> float:
    """The metric as keras-sharp measures it."""
    result = keras_sharp.sharpness(
        objective,
        epsilon=search.epsilon,
        subspace_dim=search.subspace_dim,
        max_iterations=search.iterations,
        solver=solver,
        seed=search.seed or 0,
        verbose=0,
    )
    return float(result)


OBVIOUS = {
    "f, SciPy's tolerances": unscaled,
    "f, no tolerances": functools.partial(unscaled, ftol=0, gtol=0),
}
OWN = {
    "f / max|gradient|": functools.partial(scaled, solver="l-bfgs-b"),
    "sign ascent": functools.partial(scaled, solver="sign-ascent"),
}


# --------------------------------------------------------------------------------------------------
# Trained networks
# --------------------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """One trained network.

    Attributes:
        title: For readers.
        model: Holds its weights until the next one is yielded.
        data: What it was trained on.
        seed: Of its trial.
    """

    title: str
    model: keras.Model
    data: datasets.Data
    seed: int


def digits_by_length(settings: argparse.Namespace) -> Iterator[Trained]:
    """F1 on digits after more and more epochs; both regimes start from the same weights."""
    data = load("digits")
    sizes = {"small": DEFAULTS[DIGITS]["small_batch"], "large": tenth(len(data.x_train))}
    seed = trial_seed(settings.seed, 1)
    for regime, title in asked(settings):
        keras.utils.set_random_seed(seed)
        model = NETWORKS["F1"].build(data.input_shape, data.classes)
        trainer = Trainer(model, make_optimizer(), LOSS)
        done = 0
        for epochs in sorted(set(settings.epochs)):
            trainer.fit(
                (data.x_train, data.y_train),
                batch_size=sizes[regime],
                epochs=epochs - done,
                seed=trial_seed(settings.seed, 1 + epochs),
                verbose=0,
            )
            done = epochs
            yield Trained(f"{title}, {epochs} epochs", model, data, seed)


def kept(settings: argparse.Namespace) -> Iterator[Trained]:
    """The networks that reproduce_table.py trained and kept."""
    training, network = trained_with(settings.runs), settings.network
    name = "digits" if training["data"] == DIGITS else NETWORKS[network].data
    data = load(name, settings.data_dir, training["limit"])
    model = NETWORKS[network].build(data.input_shape, data.classes)
    for trial in range(1, settings.trials + 1):
        for regime, title in asked(settings):
            file = settings.runs / network / f"trial-{trial}" / f"{regime}.weights.h5"
            if not file.exists():
                raise SystemExit(f"{file} is not there: reproduce_table.py has not trained it yet.")
            model.load_weights(file)
            yield Trained(
                f"{title}, trial {trial}", model, data, trial_seed(training["seed"], trial)
            )


def trained_with(runs: pathlib.Path) -> dict[str, Any]:
    """Returns the settings of the trainings in a folder of reproduce_table.py."""
    file = runs / "config.json"
    if not file.exists():
        raise SystemExit(
            f"{file} is not there: {runs} is no output folder of reproduce_table.py. Name one with "
            f"--runs, or make this one: python scripts/reproduce_table.py --output {runs}"
        )
    return read(file)["training"]


def asked(settings: argparse.Namespace) -> list[tuple[str, str]]:
    """Returns the regimes that are asked for, and their titles."""
    return [each for each in REGIME_TITLES.items() if each[1] in settings.regimes]


# --------------------------------------------------------------------------------------------------
# The table
# --------------------------------------------------------------------------------------------------


def row(
    name: str, title: str, objective: keras_sharp.Objective, search: Search, folder: pathlib.Path
) -> list[str]:
    """Returns a line of the table; numbers of the same weights and settings are read, if kept."""
    mode = objective.settings["batch_norm"]
    key = {
        "weights": hashlib.sha256(objective.weights).hexdigest(),
        "statistics": hashlib.sha256(objective.statistics).hexdigest(),
        "objective": objective.settings,
        "versions": versions(),
        **search._asdict(),
    }
    # Numbers of anything else have a file of their own.
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
    words = f"{name} {title}".replace(",", "").replace(" ", "-")
    file = folder / f"{words}.{mode}-{search.name}.{digest}.json"
    record: dict[str, Any] = read(file) if file.exists() else {"key": key, "values": {}}
    ways = {"loss": lambda objective, _: objective.value(), **search.ways}
    with objective.at_rest():
        for name, way in ways.items():
            if name not in record["values"]:
                record["values"][name] = way(objective, search)
                write(file, json.dumps(record, indent=1))
    loss, *values = (record["values"][name] for name in ways)
    return [title, mode, f"{loss:.3g}", *(f"{value:.4g}" for value in values)]


def compare(settings: argparse.Namespace, console: rich.console.Console) -> int:
    """Prints and writes the table, line by line."""
    networks = kept(settings) if settings.runs else digits_by_length(settings)
    dim = settings.subspace_dim
    space = f"Sharpness in a random subspace of {dim} dimensions" if dim else "Full-space sharpness"
    table: list[str] = []
    with locked(settings.output):
        for title, model, data, seed in networks:
            search = Search(settings.epsilon, settings.iterations, dim, seed if dim else None)
            name = f"{settings.network}-{data.name}"
            name += "" if settings.runs else f"-seed-{settings.seed}"
            file = settings.output / f"{name}.{'-'.join(settings.batch_norm)}-{search.name}.md"
            if not table:
                ways = [way.replace("|", "\\|") for way in search.ways]
                table = [
                    f"{space} at epsilon {settings.epsilon:g}, {settings.iterations} iterations of "
                    "each solver",
                    "",
                    f"| {settings.network} on {data.name} | BatchNormalization | loss | "
                    f"{' | '.join(ways)} |",
                    f"| --- | --- |{' ---: |' * (1 + len(ways))}",
                ]
                console.print("\n".join(table), markup=False, soft_wrap=True)
            for mode in settings.batch_norm:
                objective = keras_sharp.Objective(
                    model,
                    (data.x_train, data.y_train),
                    LOSS,
                    batch_norm=mode,
                    batch_size=EVALUATION_BATCH,
                )
                cells = row(name, title, objective, search, settings.output)
                table.append(f"| {' | '.join(cells)} |")
                console.print(table[-1], markup=False, soft_wrap=True)
                write(file, "\n".join(table) + "\n")
        console.print(f"\nThis table is in {file}", markup=False, soft_wrap=True)
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=pathlib.Path, help="output folder of reproduce_table.py")
    parser.add_argument("--network", choices=NETWORKS, default="F1", help="with --runs; default F1")
    parser.add_argument("--trials", type=positive, default=1, help="with --runs; default 1")
    parser.add_argument("--data-dir", help="folder of prepared data; default: TFDS_DATA_DIR")
    parser.add_argument(
        "--regimes", nargs="+", choices=REGIME_TITLES.values(), default=["SB", "LB"]
    )
    parser.add_argument(
        "--batch-norm", nargs="+", choices=("batch", "inference"), default=["batch", "inference"]
    )
    parser.add_argument("--epsilon", type=float, default=1e-3, help="of the box; default 0.001")
    parser.add_argument(
        "--subspace-dim", type=positive, help="of a random subspace; default: the full space"
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
    parser.add_argument(
        "--output", type=pathlib.Path, help="default runs/solvers; with --runs, solvers in there"
    )
    settings, console = parser.parse_args(arguments), make_console()
    if not settings.epsilon > 0:
        parser.error("--epsilon must be positive")
    if settings.runs is None and settings.network != "F1":
        parser.error("--network goes with --runs: on digits it is F1")
    settings.output = settings.output or (settings.runs or pathlib.Path("runs")) / "solvers"
    return until_stopped(lambda: compare(settings, console), console)


if __name__ == "__main__":
    sys.exit(main())
