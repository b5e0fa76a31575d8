"""The experiment of Tables 2, 3 and 4: in each trial a network is trained twice, and measured."""

import argparse
import itertools
import json
import pathlib
import time

import keskar_tables
import rich.console
import tensorflow as tf
from keskar_tables import EPSILONS, REGIMES, SUBSPACE_DIMS
from keskar_training import LOSS, Training, batch_sizes, load, trial_seed
from run_folder import RunFolder, hardware, versions, write
from run_progress import Display, Plan

from keras_sharp import Objective, sharpness
from keras_sharp.networks import NETWORKS

REGIME_TITLES = {"small": "SB", "large": "LB"}
SHARPNESS = {
    keskar_tables.sharpness(table, epsilon): (dimension, epsilon)
    for table, dimension in SUBSPACE_DIMS.items()
    for epsilon in EPSILONS
}
QUANTITIES = ("accuracy", *SHARPNESS)
EVALUATION_BATCH = 5000  # as the authors' code
# What keeps one training or measurement from its end, and need not keep the others: a loss that is
# not finite, an array of no use, a machine too small.
FAILURES = (ValueError, FloatingPointError, MemoryError, tf.errors.ResourceExhaustedError)


def data_name(network: str, settings: argparse.Namespace) -> str:
    """Returns the name of the data a network is trained on."""
    return "digits" if settings.data == "digits" else NETWORKS[network].data


def measurement(settings: argparse.Namespace, quantity: str) -> str:
    """Returns the kind of file that keeps a quantity, measured in the mode that is asked for."""
    return f"{settings.batch_norm}-{settings.evaluation_batch}.{quantity}.json"


def unmeasured(
    folder: RunFolder, settings: argparse.Namespace, network: str, trial: int, regime: str
) -> dict[str, pathlib.Path]:
    """Returns the measurements of a training that are left, from quantity to file."""
    files = {
        quantity: folder.path(network, trial, regime, measurement(settings, quantity))
        for quantity in QUANTITIES
    }
    return {quantity: file for quantity, file in files.items() if not file.exists()}


def make_plan(
    settings: argparse.Namespace, folder: RunFolder, console: rich.console.Console
) -> Plan:
    """Returns what is left to do; says what was found."""
    plan, trained, measured = Plan(), 0, 0
    runs = list(itertools.product(settings.networks, range(1, settings.trials + 1), REGIMES))
    for network, trial, regime in runs:
        if folder.is_trained(network, trial, regime):
            trained += 1
            left = unmeasured(folder, settings, network, trial, regime)
        else:
            plan.left[network, regime] += settings.epochs
            # What was measured of weights that are gone is measured again.
            left = QUANTITIES
        measured += len(QUANTITIES) - len(left)
        plan.left.update((network, quantity) for quantity in left)
    if trained or measured:
        found = f"{trained} of {len(runs)} trainings and {measured} of "
        found += f"{len(runs) * len(QUANTITIES)} measurements"
        rest = "Going on with the rest." if plan.left else "Nothing is left to do."
        console.print(f"Found in {folder.root}: {found}. {rest}", markup=False)
    return plan


class Experiment:
    """All trials of one network.

    Args:
        network: "F1" to "C4".
        settings: What the command asks for.
        folder: Where finished work is kept.
        display: Says what is done.

    Attributes:
        failures: A sentence about each training or measurement that could not be done.

    Raises:
        FileNotFoundError: If there are no data.
        ValueError: If the batch sizes don't fit the data.
    """

    def __init__(
        self, network: str, settings: argparse.Namespace, folder: RunFolder, display: Display
    ):
        self.network, self.settings, self.folder = network, settings, folder
        self.display, self.plan = display, display.plan
        self.failures: list[str] = []
        self.data = load(data_name(network, settings), settings.data_dir, settings.limit)
        self.batch_sizes = batch_sizes(
            settings.small_batch, settings.large_batch, len(self.data.x_train)
        )
        self.training = Training(
            network,
            self.data,
            epochs=settings.epochs,
            seed=settings.seed,
            folder=folder,
            display=display,
        )
        self._objectives: dict[str, Objective] | None = None

    def run(self) -> None:
        """Does what is left of all trials; what fails is noted, and the rest goes on."""
        for trial in range(1, self.settings.trials + 1):
            for regime in REGIMES:
                if not self.folder.is_trained(self.network, trial, regime):
                    title = self.title(trial, regime)
                    try:
                        self.training.train(trial, regime, self.batch_sizes[regime], title)
                    except FAILURES as error:
                        self.fail(title, error)
            for regime in REGIMES:
                self.measure(trial, regime)

    def title(self, trial: int, regime: str) -> str:
        """Returns a training's name for readers."""
        of = f"{self.network} trial {trial}/{self.settings.trials}"
        return f"{of} {REGIME_TITLES[regime]} (batch {self.batch_sizes[regime]})"

    def fail(self, what: str, error: Exception) -> None:
        """Notes why something could not be done, and says so."""
        self.failures.append(f"{what}: {str(error) or type(error).__name__}")
        self.display.say(f"Not done: {self.failures[-1]}")

    def measure(self, trial: int, regime: str) -> None:
        """Measures the trained weights, if there are any, as far as that was not done."""
        left = unmeasured(self.folder, self.settings, self.network, trial, regime)
        if not self.folder.is_trained(self.network, trial, regime):
            self.plan.left.subtract((self.network, quantity) for quantity in left)
            return
        title, shown = self.title(trial, regime), []
        weights = self.folder.path(self.network, trial, regime, "weights.h5")
        for quantity, file in left.items():
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
            self.display.say(f"{title}: {', '.join(shown)}")

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
            self._model, self._loaded, data = self.training.build(), None, self.data
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
        losses, percent = {}, {}
        for part, objective in objectives.items():
            losses[f"{part}_loss"], share = objective.evaluate()
            percent[part] = 100 * share
        record = {
            **percent,
            **losses,
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
        reason = str(error).replace("`data_dir`", "`--data-dir`") or type(error).__name__
        first = reason.split(". ")[0]  # a remedy can be as long as a table
        display.say(f"Not done: {network}: {first}; more below the tables")
        return [f"{network}: {reason}"]
    experiment.run()
    return experiment.failures
