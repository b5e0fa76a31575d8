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
import json
import os
import pathlib
import shlex
import sys
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import keskar_tables
import numpy as np
import rich.box
import rich.console
import rich.markup
import rich.table
import tensorflow as tf
from keskar_tables import EPSILONS, REGIMES, SUBSPACE_DIMS, Measured, Table
from run_folder import RunFolder, hardware, read, read_sharpness, versions, write, write_weights
from run_progress import Display, Plan, ShowEpochs

from keras_sharp import Objective, datasets, sharpness
from keras_sharp.networks import NETWORKS
from keras_sharp.training import Trainer

REGIME_TITLES = {"small": "SB", "large": "LB"}
SHARPNESS = {
    keskar_tables.sharpness(table, epsilon): (dimension, epsilon)
    for table, dimension in SUBSPACE_DIMS.items()
    for epsilon in EPSILONS
}
QUANTITIES = ("accuracy", *SHARPNESS)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
EVALUATION_BATCH = 5000  # as the authors' code
DEFAULTS = {
    "digits": {"trials": 3, "epochs": 40, "small_batch": 32},
    "the paper's": {"trials": 5, "epochs": 100, "small_batch": 256},
}
# What keeps one training or measurement from its end, and need not keep the others: a loss that is
# not finite, an array of no use, a machine too small.
FAILURES = (ValueError, FloatingPointError, MemoryError, tf.errors.ResourceExhaustedError)

console = rich.console.Console(highlight=False)
if not console.is_terminal:
    console.width = 160  # a log file has no width, and tables cut to 80 columns cannot be read


def make_optimizer() -> keras.optimizers.Optimizer:
    """Returns ADAM with the defaults of Keras 1, which trained the paper's networks."""
    return keras.optimizers.Adam(1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-8)


def trial_seed(seed: int, trial: int) -> int:
    """Returns the seed of everything random in a trial: weights, order, dropout and subspace."""
    return int(np.random.SeedSequence([seed, trial]).generate_state(1)[0])


def tenth(examples: int) -> int:
    """Returns the large batch: a tenth of the training examples, rounded up.

    So an epoch has ten nearly equal batches and no tiny eleventh, whose own statistics
    BatchNormalization would use.
    """
    return -(-examples // 10)


# --------------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------------

# What decides the trained weights: an output folder holds the results of one choice of these.
TRAINING_SETTINGS = ("data", "small_batch", "large_batch", "epochs", "seed", "limit")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Returns the settings; ends the program with a message if they are of no use."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(NETWORKS)
    for name in DEFAULTS["digits"]:
        of_paper, of_digits = (DEFAULTS[data][name] for data in ("the paper's", "digits"))
        text = f"default {of_paper}; {of_digits} on digits"
        parser.add_argument(f"--{name.replace('_', '-')}", type=positive, help=text)
    for name, kind, text in (
        ("--large-batch", positive, "default 10 %% of the training data"),
        ("--data-dir", str, "folder of prepared data; default TFDS_DATA_DIR, then TFDS's own"),
        ("--output", pathlib.Path, "default runs/keskar; runs/digits on digits"),
        ("--limit", positive, "train and test on so many examples only, for a quick look"),
    ):
        parser.add_argument(name, type=kind, help=text)
    parser.add_argument(
        "--networks", nargs="+", metavar="NAME", help=f"{names} or all, on the paper's data"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the whole experiment, default 0")
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
    settings = parser.parse_args(arguments)

    on_digits = settings.networks is None
    asked = ["F1"] if on_digits else settings.networks
    unknown = set(asked) - set(NETWORKS) - {"all"}
    if unknown:
        parser.error(f"--networks: unknown {', '.join(sorted(unknown))}; there are {names}")
    if settings.seed < 0:
        parser.error("--seed must not be negative")
    settings.data = "digits" if on_digits else "the paper's"
    settings.networks = [name for name in NETWORKS if name in asked or "all" in asked]
    for name, default in DEFAULTS[settings.data].items():
        if getattr(settings, name) is None:
            setattr(settings, name, default)
    settings.output = settings.output or pathlib.Path("runs", "digits" if on_digits else "keskar")
    return settings


def positive(text: str) -> int:
    """Returns the number in an argument, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be positive, not {value}")
    return value


# --------------------------------------------------------------------------------------------------
# What is to be done, and what is there already
# --------------------------------------------------------------------------------------------------


def measurement(
    folder: RunFolder,
    settings: argparse.Namespace,
    network: str,
    trial: int,
    regime: str,
    quantity: str,
) -> pathlib.Path:
    """Returns the file of one measurement in the mode that is asked for."""
    mode = f"{settings.batch_norm}-{settings.evaluation_batch}"
    return folder.path(network, trial, regime, f"{mode}.{quantity}.json")


def make_plan(settings: argparse.Namespace, folder: RunFolder) -> Plan:
    """Returns what is left to do; says what was found."""
    plan = Plan()
    trained, measured, runs = 0, 0, 0
    for network in settings.networks:
        for trial in range(1, settings.trials + 1):
            for regime in REGIMES:
                runs += 1
                if folder.path(network, trial, regime, "training.json").exists():
                    trained += 1
                else:
                    plan.left[network, regime] += settings.epochs
                for quantity in QUANTITIES:
                    if measurement(folder, settings, network, trial, regime, quantity).exists():
                        measured += 1
                    else:
                        plan.left[network, quantity] += 1
    if trained or measured:
        console.print(
            f"Found in {folder.root}: {trained} of {runs} trainings and {measured} of "
            f"{runs * len(QUANTITIES)} measurements. Going on with the rest."
        )
    for remark in folder.remarks:
        console.print(f"Note: since {folder.root} was begun, the {remark}.", markup=False)
    return plan


# --------------------------------------------------------------------------------------------------
# One network: train and measure
# --------------------------------------------------------------------------------------------------


class Experiment:
    """All trials of one network.

    Attributes:
        failures: A sentence about each training or measurement that could not be done.
    """

    def __init__(
        self, network: str, settings: argparse.Namespace, folder: RunFolder, display: Display
    ):
        self.network, self.settings, self.folder = network, settings, folder
        self.display, self.plan = display, display.plan
        self.failures: list[str] = []
        self.data = load(network, settings)
        large = settings.large_batch or tenth(len(self.data.x_train))
        self.batch_sizes = {"small": settings.small_batch, "large": large}
        for regime, size in self.batch_sizes.items():
            if not 1 <= size <= len(self.data.x_train):
                raise ValueError(
                    f"The {regime} batch must be between 1 and the number of training examples, "
                    f"{len(self.data.x_train)}. Received: {size}"
                )
        several = len(tf.config.list_physical_devices("GPU")) > 1
        mirrored = tf.distribute.MirroredStrategy
        self.strategy = mirrored() if several else tf.distribute.get_strategy()
        self._objectives: dict[str, Objective] | None = None

    def run(self) -> None:
        """Does what is left of all trials; what fails is noted, and the rest goes on."""
        for trial in range(1, self.settings.trials + 1):
            for regime in REGIMES:
                if not self.is_trained(trial, regime):
                    try:
                        self.train(trial, regime)
                    except FAILURES as error:
                        self.fail(self.title(trial, regime), error)
            for regime in REGIMES:
                if self.is_trained(trial, regime):
                    self.measure(trial, regime)
                else:
                    for quantity in self.unmeasured(trial, regime):
                        self.plan.left[self.network, quantity] -= 1

    def is_trained(self, trial: int, regime: str) -> bool:
        """Returns whether a training is finished."""
        return self.folder.path(self.network, trial, regime, "training.json").exists()

    def unmeasured(self, trial: int, regime: str) -> dict[str, pathlib.Path]:
        """Returns the measurements that are left, from quantity to file."""
        files = {
            quantity: measurement(self.folder, self.settings, self.network, trial, regime, quantity)
            for quantity in QUANTITIES
        }
        return {quantity: file for quantity, file in files.items() if not file.exists()}

    def fail(self, what: str, error: Exception) -> None:
        """Notes why something could not be done, and says so."""
        self.failures.append(f"{what}: {str(error) or type(error).__name__}")
        console.print(f"Not done, {self.failures[-1]}", markup=False)

    def build(self) -> keras.Model:
        """Returns the network, untrained, under the strategy."""
        with self.strategy.scope():
            return NETWORKS[self.network].build(
                self.data.input_shape,
                self.data.classes,
                synchronized=self.strategy.num_replicas_in_sync > 1,
            )

    def title(self, trial: int, regime: str) -> str:
        """Returns a training's name for readers."""
        of = f"{self.network} trial {trial}/{self.settings.trials}"
        return f"{of} {REGIME_TITLES[regime]} (batch {self.batch_sizes[regime]})"

    def train(self, trial: int, regime: str) -> None:
        """Trains one network; both regimes of a trial start from the same weights."""
        title, epochs = self.title(trial, regime), self.settings.epochs
        file = self.folder.path(self.network, trial, regime, "training.json")
        checkpoint = file.with_name(f"{regime}.checkpoint.npz")
        file.parent.mkdir(parents=True, exist_ok=True)
        if checkpoint.exists():
            console.print(f"{title}: going on from its last finished epoch")
        self.display.show(title, "preparing")
        seed = trial_seed(self.settings.seed, trial)
        keras.utils.set_random_seed(seed)
        progress = ShowEpochs(self.display, (self.network, regime), title, epochs)
        began = time.perf_counter()
        try:
            model = self.build()
            with self.strategy.scope():
                optimizer = make_optimizer()
            history = Trainer(model, optimizer, LOSS).fit(
                (self.data.x_train, self.data.y_train),
                batch_size=self.batch_sizes[regime],
                epochs=epochs,
                callbacks=[progress],
                seed=seed,
                checkpoint=checkpoint,
                verbose=0,
            )
        finally:
            progress.finish()
        seconds = time.perf_counter() - began
        write_weights(file.with_name(f"{regime}.weights.h5"), model)
        record = {
            "network": self.network,
            "data": self.data.name,
            "trial": trial,
            "regime": regime,
            "batch_size": self.batch_sizes[regime],
            "epochs": epochs,
            "seed": seed,
            "examples": len(self.data.x_train),
            "replicas": self.strategy.num_replicas_in_sync,
            "seconds_since_last_start": seconds,
            "history": {name: [float(v) for v in each] for name, each in history.history.items()},
            "versions": versions(),
            "hardware": hardware(),
        }
        write(file, json.dumps(record))  # last: it says that the training is finished
        checkpoint.unlink(missing_ok=True)
        loss = history.history["loss"][-1]
        console.print(f"{title}: {epochs} epochs, loss {loss:.3g}, {seconds:.0f} s")

    def measure(self, trial: int, regime: str) -> None:
        """Measures the trained weights, as far as that was not done."""
        title, shown = self.title(trial, regime), []
        weights = self.folder.path(self.network, trial, regime, "weights.h5")
        for quantity, file in self.unmeasured(trial, regime).items():
            self.display.show(title, f"measuring {quantity}")
            began = time.perf_counter()
            try:
                text, value = self.measured(quantity, self.objectives(weights), trial)
            except FAILURES as error:
                self.fail(f"{title}, {quantity}", error)
                self.plan.left[self.network, quantity] -= 1
                continue
            write(file, text)
            self.plan.done((self.network, quantity), time.perf_counter() - began)
            shown.append(f"{quantity} {value}")
        if shown:
            console.print(f"{title}: {', '.join(shown)}")

    def measured(
        self, quantity: str, objectives: dict[str, Objective], trial: int
    ) -> tuple[str, str]:
        """Returns one measurement as JSON, and in a few words."""
        if quantity == "accuracy":
            return self.accuracy(objectives)
        dimension, epsilon = SHARPNESS[quantity]
        result = sharpness(
            objectives["train"],
            epsilon=epsilon,
            subspace_dim=dimension,
            seed=trial_seed(self.settings.seed, trial),
            verbose=0,
        )
        return result.to_json(indent=1), f"{result.value:.4g}"

    def objectives(self, weights: pathlib.Path) -> dict[str, Objective]:
        """Returns the loss on training and test data at these weights; traced once for all."""
        if self._objectives is None:
            self._model, self._loaded, data = self.build(), None, self.data
            parts = {"train": (data.x_train, data.y_train), "test": (data.x_test, data.y_test)}
            self._objectives = {
                part: Objective(
                    self._model,
                    examples,
                    LOSS,
                    batch_norm=self.settings.batch_norm,
                    batch_size=self.settings.evaluation_batch,
                )
                for part, examples in parts.items()
            }
        if self._loaded != weights:
            self._model.load_weights(weights)
            self._loaded = weights
        return self._objectives

    def accuracy(self, objectives: dict[str, Objective]) -> tuple[str, str]:
        """Returns a record of accuracies in percent and losses, and a few words."""
        labels = {"train": self.data.y_train, "test": self.data.y_test}
        percent = {
            part: 100 * float(np.mean(np.argmax(objective.predict(), axis=-1) == labels[part]))
            for part, objective in objectives.items()
        }
        record = {
            **percent,
            "train_loss": objectives["train"].value(),
            "test_loss": objectives["test"].value(),
            "objective": {part: objective.settings for part, objective in objectives.items()},
            "versions": versions(),
            "hardware": hardware(),
        }
        return json.dumps(record, indent=1), f"{percent['train']:.2f}/{percent['test']:.2f} %"


def attempt(
    network: str, settings: argparse.Namespace, folder: RunFolder, display: Display
) -> list[str]:
    """Does all that is left of a network; returns why something of it could not be done, if so."""
    display.show(network, "loading data")
    try:
        experiment = Experiment(network, settings, folder, display)
    except (FileNotFoundError, *FAILURES) as error:  # no data, or none of use
        reason = str(error) or type(error).__name__
        console.print(f"{network}: {reason}", markup=False)
        return [reason]
    experiment.run()
    return experiment.failures


def load(network: str, settings: argparse.Namespace) -> datasets.Data:
    """Returns the data a network is trained on, cut to the limit if there is one."""
    name = "digits" if settings.data == "digits" else NETWORKS[network].data
    data = datasets.load(name, data_dir=settings.data_dir)
    first = slice(settings.limit)
    return datasets.Data(
        name=name,
        x_train=data.x_train[first],
        y_train=data.y_train[first],
        x_test=data.x_test[first],
        y_test=data.y_test[first],
        classes=data.classes,
    )


# --------------------------------------------------------------------------------------------------
# Results
# --------------------------------------------------------------------------------------------------


def report(
    settings: argparse.Namespace, folder: RunFolder, reasons: dict[str, list[str]]
) -> tuple[list[Measured], list[Table], list[str]]:
    """Writes tables of everything in the folder; returns values, tables and the notes below."""
    measured = []
    for network, (_, paper_data, _) in NETWORKS.items():
        trials = values_of_trials(network, settings, folder)
        if trials or network in reasons:
            data = "digits" if settings.data == "digits" else paper_data
            reason = None if trials else "; ".join(reasons[network])
            measured.append(Measured(network, data, paper_data, trials, reason))
    tables = keskar_tables.tables(measured, settings.batch_norm)
    records = keskar_tables.records(measured, settings.batch_norm)
    notes = list(footnotes(settings, folder, reasons))
    made = {"settings": vars(settings), "made_with": provenance(settings, folder)}
    made |= {"notes": notes, "records": records}
    other = settings.evaluation_batch != EVALUATION_BATCH
    batch = f"-{settings.evaluation_batch}" if other else ""
    stem = folder.root / f"tables-{settings.batch_norm}{batch}"
    write(stem.with_suffix(".md"), keskar_tables.markdown(tables, notes))
    write(stem.with_suffix(".csv"), keskar_tables.as_csv(records))
    write(stem.with_suffix(".json"), json.dumps(made, indent=1, default=str))
    return measured, tables, [*notes, f"These tables are in {stem}.md, .csv and .json"]


def measurements(
    settings: argparse.Namespace, folder: RunFolder
) -> Iterator[tuple[str, int, str, str, pathlib.Path]]:
    """Yields what the tables are made of: network, trial, regime, quantity and file."""
    for network in NETWORKS:
        for trial in range(1, settings.trials + 1):
            for regime in REGIMES:
                for quantity in QUANTITIES:
                    file = measurement(folder, settings, network, trial, regime, quantity)
                    if file.exists():
                        yield network, trial, regime, quantity, file


def provenance(settings: argparse.Namespace, folder: RunFolder) -> list[dict[str, Any]]:
    """Returns each set of versions and hardware that the tables' numbers were made with."""
    found: list[dict[str, Any]] = []
    for network, trial, regime, _, file in measurements(settings, folder):
        training = folder.path(network, trial, regime, "training.json")
        for record in [read(each) for each in (training, file) if each.exists()]:
            names = record["versions"]
            machine = record.get("hardware")  # a sharpness keeps none
            for one in found:
                same = machine is None or one["hardware"] == machine
                if same and names.items() <= one["versions"].items():
                    break
            else:
                found.append({"versions": names, "hardware": machine or folder.hardware})
    return found


def values_of_trials(
    network: str, settings: argparse.Namespace, folder: RunFolder
) -> list[dict[tuple[str, str], float]]:
    """Returns what was measured in each trial, from (quantity, regime) to value."""
    trials: dict[int, dict[tuple[str, str], float]] = {}
    for name, trial, regime, quantity, file in measurements(settings, folder):
        if name != network:
            continue
        values = trials.setdefault(trial, {})
        if quantity == "accuracy":
            for part in ("train", "test"):
                values[keskar_tables.accuracy(part), regime] = read(file)[part]
        else:
            values[quantity, regime] = float(read_sharpness(file))
    return list(trials.values())


def footnotes(
    settings: argparse.Namespace, folder: RunFolder, reasons: dict[str, list[str]]
) -> Iterator[str]:
    """Yields what a reader of the tables must know."""
    large = settings.large_batch or "10 % of the training data, rounded up"
    limit = f" limited to {settings.limit} examples;" if settings.limit else ""
    yield (
        f"SB is batch {settings.small_batch}, LB is {large};{limit} {settings.epochs} epochs of "
        f"ADAM with the defaults of Keras 1; seed {settings.seed}. Mean ± standard deviation over "
        "trials. LB/SB is the ratio of the means."
    )
    yield (
        f"Measured on batches of {settings.evaluation_batch} examples. Sharpness is that of the "
        "loss on the whole training set, by ten iterations of L-BFGS-B; one subspace a trial."
    )
    results = [
        read_sharpness(file)
        for *_, quantity, file in measurements(settings, folder)
        if quantity in SHARPNESS
    ]
    beaten = [each for each in results if each.corner > each.value]
    if beaten:
        most = max(each.corner / each.value if each.value > 0 else np.inf for each in beaten)
        yield (
            f"In {len(beaten)} of {len(results)} measurements the corner that the gradient's signs "
            f"point to is higher than what the ten iterations found, up to {most:.3g} times: those "
            "values are lower bounds."
        )
    if settings.data == "digits":
        yield "The paper's numbers are F1's on MNIST: there are none for digits."
    for network, why in reasons.items():
        for reason in why:
            yield f"{network} was not finished: {reason}"
    for made_with in provenance(settings, folder):
        machine = made_with["hardware"]
        devices = ", ".join([f"{machine['cores']} cores of {machine['cpu']}", *machine["gpus"]])
        names = ", ".join(f"{name} {version}" for name, version in made_with["versions"].items())
        yield f"Made with: {devices}; {names}"


def show(tables: list[Table], notes: list[str]) -> None:
    """Prints the tables and the notes below them."""
    for table in tables:
        drawn = rich.table.Table(title=table.title, title_justify="left", box=rich.box.SIMPLE_HEAD)
        for column, head in enumerate(table.heads):
            drawn.add_column(head, justify="left" if column < 2 else "right", max_width=40)
        for row in table.rows:
            cells = [rich.markup.escape(cell) for cell in row]
            drawn.add_row(*cells, style="dim" if row[1] == "paper" else None)
        console.print(drawn)
    for note in notes:
        console.print(f"- {note}", markup=False)


def main(arguments: list[str] | None = None) -> int:
    """Does all that is left; returns the exit status, 1 if no measured value exists at all."""
    settings = parse(arguments)
    training = {name: getattr(settings, name) for name in TRAINING_SETTINGS}
    optimizer = keras.optimizers.serialize(make_optimizer())["config"]
    folder = RunFolder(settings.output, training, {"optimizer": optimizer})
    plan = make_plan(settings, folder)
    reasons: dict[str, list[str]] = {}
    try:
        with Display(plan, console) as display:
            for network in settings.networks:
                if plan.is_done(network):
                    continue
                why = attempt(network, settings, folder, display)
                if why:
                    reasons[network] = why
                    plan.drop(network)
                report(settings, folder, reasons)
    except KeyboardInterrupt:
        console.print("\nStopped. What is finished is saved, and the same command goes on:")
        console.print(shlex.join(["python", *sys.argv]), markup=False, soft_wrap=True)
        return 130
    measured, tables, notes = report(settings, folder, reasons)
    show(tables, notes)
    return 0 if any(each.trials for each in measured) else 1


if __name__ == "__main__":
    sys.exit(main())
