"""The trainings that compare methods on one data set, each kept as soon as it is measured."""

import argparse
import gc
import json
import pathlib
import signal
import time
import warnings
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keskar_experiment import EVALUATION_BATCH, FAILURES
from keskar_training import LOSS, load, trial_seed
from methods_settings import DATASETS, GRID, RATES, VALIDATION_SHARE
from run_folder import RunFolder, hardware, read, versions, write
from run_progress import Display

from keras_sharp import Objective, sharpness
from keras_sharp.large_batch import METHODS
from keras_sharp.normalization import moving_statistics
from keras_sharp.weights import FlatVariables

MODES = {"moving": "inference", "batch": "batch"}
SPACES = {"full": None, "subspace": 100}
EPSILON = 1e-3
_SELECTION = 0  # the trial that chooses the rate


class Case(NamedTuple):
    """A method at a batch size."""

    method: str
    batch_size: int


class Outcome(NamedTuple):
    """What came of a case.

    Attributes:
        case: The case.
        rate: The learning rate that was chosen; None if no candidate could be trained.
        at_the_end: Whether it is the lowest or highest of the candidates.
        trials: The records of the trainings at this rate.
        reasons: Why something could not be done.
    """

    case: Case
    rate: float | None
    at_the_end: bool
    trials: list[dict[str, Any]]
    reasons: list[str]


class Study:
    """All trainings on one data set.

    Args:
        dataset: Its name.
        settings: What the command asks for.
        folder: Where finished trainings are kept.
        display: Says what is done.

    Attributes:
        cases: All cases, first the small batch, then the plain large ones.
        reference: The case with the small batch.

    Raises:
        FileNotFoundError: If there are no data.
        ValueError: If a batch does not fit the data.
    """

    def __init__(
        self, dataset: str, settings: argparse.Namespace, folder: RunFolder, display: Display
    ):
        default = DATASETS[dataset]
        self.dataset, self.default, self.settings = dataset, default, settings
        self.folder, self.display = folder, display
        self.epochs = settings.epochs or default.epochs
        self.small_batch = settings.small_batch or default.small_batch
        self.number_of_trials = settings.trials or default.trials
        data = load(dataset, settings.data_dir, settings.limit)
        order = np.random.default_rng(settings.seed).permutation(len(data.x_train))
        held_out, rest = np.split(order, [round(VALIDATION_SHARE * len(order))])
        self.data = data
        self.parts = {
            "train": (data.x_train[rest], data.y_train[rest]),
            "validation": (data.x_train[held_out], data.y_train[held_out]),
            "test": (data.x_test, data.y_test),
        }
        sizes = sorted(set(settings.batch_sizes or default.batch_sizes))
        if not self.small_batch < sizes[0] <= sizes[-1] <= len(rest):
            raise ValueError(
                f"Large batches must be larger than the small one, {self.small_batch}, and at most "
                f"the {len(rest)} examples that are trained on. Received: {sizes}"
            )
        asked = settings.methods or default.methods
        methods = ["plain", *(name for name in METHODS if name in asked and name != "plain")]
        self.reference = Case("plain", self.small_batch)
        self.cases = [self.reference, *(Case(name, size) for size in sizes for name in methods)]
        self._failures: dict[Case, list[str]] = {case: [] for case in self.cases}
        self._measuring: tuple[keras.Model, dict[tuple[str, str], Objective]] | None = None

    def candidates(self, case: Case) -> list[float]:
        """Returns the learning rates of which one is chosen."""
        return [RATES[case.method] * factor for factor in GRID]

    def plan(self) -> None:
        """Takes note of what is not done yet, for the time left."""
        for case in self.cases:
            left = [file for file in self._files(case) if not file.exists()]
            self.display.plan.left[self.dataset, str(case.batch_size)] += len(left)

    def run(self, case: Case) -> None:
        """Chooses the rate and trains at it, as far as that was not done; goes on after failures.

        What is kept of a training that diverged is that it did.
        """
        selection = self._files(case)[: len(GRID)]
        for rate, file in zip(self.candidates(case), selection, strict=True):
            self._piece(case, rate, _SELECTION, file)
        rate = self.outcome(case).rate
        for trial, file in enumerate(self._files(case)[len(GRID) :], start=1):
            self._piece(case, rate, trial, file)
        made = self.outcome(case)
        tests = [trial["test"] for trial in made.trials]
        said = f"test {np.mean(tests):.2f} %" if tests else "; ".join(made.reasons)
        self.display.say(f"{self.dataset}, batch {case.batch_size}, {case.method}: {said}")

    def outcome(self, case: Case) -> Outcome:
        """Returns what the folder holds of a case."""
        kept = [read(file) for file in self._files(case) if file.exists()]
        reasons = list(self._failures[case])
        reasons += [f"rate {each['rate']:g}: {each['failed']}" for each in kept if "failed" in each]
        done = [each for each in kept if "failed" not in each]
        selection = [each for each in done if each["trial"] == _SELECTION]
        trials = [each for each in done if each["trial"] != _SELECTION]
        if not selection:
            return Outcome(case, None, False, trials, reasons)
        # Not the highest accuracy, which on a few hundred examples is a matter of luck.
        best = min(selection, key=lambda each: each["validation_loss"])
        chosen, candidates = best["rate"], self.candidates(case)
        at_the_end = chosen in (min(candidates), max(candidates))
        return Outcome(case, chosen, at_the_end, trials, reasons)

    def outcomes(self) -> list[Outcome]:
        """Returns what the folder holds of all cases."""
        return [self.outcome(case) for case in self.cases]

    def _files(self, case: Case) -> list[pathlib.Path]:
        """Returns the files of a case: one for each candidate, then one for each trial."""
        name = f"{case.method}-{case.batch_size}"
        numbers = range(1, self.number_of_trials + 1)
        selection = [(_SELECTION, f"rate-{number}.json") for number in range(1, len(GRID) + 1)]
        pieces = [*selection, *((number, "json") for number in numbers)]
        return [self.folder.path(self.dataset, trial, name, kind) for trial, kind in pieces]

    def _piece(self, case: Case, rate: float | None, trial: int, file: pathlib.Path) -> None:
        """Trains and measures once, unless it was done."""
        if file.exists():
            return
        kind = self.dataset, str(case.batch_size)
        if rate is None:  # no candidate could be trained
            self.display.plan.left[kind] -= 1
            return
        what = f"{self.dataset}, batch {case.batch_size}, {case.method}"
        which = f"trial {trial}" if trial else "choosing the rate"
        self.display.show(what, f"{which}, rate {rate:g}")
        began = time.perf_counter()
        record = {"trial": trial, "rate": rate}
        try:
            record |= self._trained(case, rate, trial)
        except FloatingPointError as error:
            record["failed"] = str(error)
        except FAILURES as error:  # may be the machine's, and is tried again next time
            self._failures[case].append(str(error) or type(error).__name__)
            self.display.plan.left[kind] -= 1
            return
        record |= {"versions": versions(), "hardware": hardware()}
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, json.dumps(record))
        self.display.plan.done(kind, time.perf_counter() - began)

    def _trained(self, case: Case, rate: float, trial: int) -> dict[str, Any]:
        """Trains a network, and returns what is measured of it."""
        collect_garbage()  # the last trainer, with data and all it has traced, is a cycle
        seed = trial_seed(self.settings.seed, trial)
        keras.utils.set_random_seed(seed)
        model = self.default.build(self.data.input_shape, self.data.classes)
        recipe = METHODS[case.method](
            case.batch_size,
            base_batch_size=self.small_batch,
            learning_rate=rate,
            examples=len(self.parts["train"][0]),
            epochs=self.epochs,
            **self.default.own.get(case.method, {}),
        )
        began = time.perf_counter()
        with warnings.catch_warnings(record=True) as said:
            history = recipe.fit(
                model,
                LOSS,
                self.parts["train"],
                seed=seed,
                jit_compile=self.default.jit_compile,
                verbose=0,
            )
        seconds = time.perf_counter() - began
        record = {"seconds": seconds, "steps": int(recipe.optimizer.iterations)}
        record["warnings"] = sorted({str(each.message) for each in said})
        take_over(history.model, model)
        return record | self._measured(model.get_weights(), trial, seed)

    def _measured(self, weights: list[np.ndarray], trial: int, seed: int) -> dict[str, Any]:
        """Returns accuracies in percent and, of trials, losses and sharpness."""
        model, objectives = self._objectives()
        model.set_weights(weights)
        # Moving statistics lag, the more the fewer steps an epoch has, and SWA makes its own.
        statistics = FlatVariables(moving_statistics(model))
        estimate = objectives["train", "moving"].estimate_statistics()
        for variable, value in statistics.pairs(tf.constant(estimate, statistics.dtype)):
            variable.assign(value)
        record = {}
        for part in ("train", "test") if trial else ("validation",):
            loss, accuracy = objectives[part, "moving"].evaluate()
            record |= {part: 100 * accuracy, f"{part}_loss": loss}
        if trial == _SELECTION:
            return record
        for space, dimension in SPACES.items():
            for mode in MODES:
                result = sharpness(
                    objectives["train", mode],
                    epsilon=EPSILON,
                    subspace_dim=dimension,
                    seed=seed,
                    verbose=0,
                )
                record[f"{space}, {mode}"] = result.value
        return record

    def _objectives(self) -> tuple[keras.Model, dict[tuple[str, str], Objective]]:
        """Returns a network to put weights into, and its loss on all data; traced once for all."""
        if self._measuring is None:
            model = self.default.build(self.data.input_shape, self.data.classes)
            wanted = [("train", mode) for mode in MODES]
            wanted += [("validation", "moving"), ("test", "moving")]
            self._measuring = (
                model,
                {
                    (part, mode): Objective(
                        model,
                        self.parts[part],
                        LOSS,
                        batch_norm=MODES[mode],
                        batch_size=EVALUATION_BATCH,
                    )
                    for part, mode in wanted
                },
            )
        return self._measuring


def collect_garbage() -> None:
    """Collects garbage; what stops the program meanwhile stops it afterwards.

    In a destructor an interrupt would be printed, and then ignored.
    """
    stops: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {each: signal.signal(each, lambda number, _: stops.append(number)) for each in numbers}
    try:
        gc.collect()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stops:
        raise KeyboardInterrupt(stops[0])


def take_over(trained: keras.Model, model: keras.Model) -> None:
    """Gives a model the weights of the one that a recipe made of it and trained.

    Of two branches of normalisation it takes the main one, which is evaluated.
    """
    if trained is model or model in trained.layers:
        return
    for layer in model.layers:
        source = trained.get_layer(layer.name)
        layer.set_weights(getattr(source, "main", source).get_weights())
