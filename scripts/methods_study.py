"""The trainings that compare methods on one data set, each kept as soon as it is measured."""

import argparse
import contextlib
import gc
import json
import pathlib
import signal
import time
import warnings
from collections.abc import Iterator
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
        rate: The learning rate that was chosen; None while a candidate is not tried, or if none
            could be trained.
        at_the_end: Whether it is the lowest or highest of the candidates.
        trials: The records of the trainings at this rate.
        reasons: Why something could not be done.
        diverged: How many trainings at this rate diverged, and are not among the trials.
    """

    case: Case
    rate: float | None
    at_the_end: bool
    trials: list[dict[str, Any]]
    reasons: list[str]
    diverged: int = 0


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
        several = len(tf.config.list_physical_devices("GPU")) > 1
        mirrored = tf.distribute.MirroredStrategy
        self.strategy = mirrored() if several else tf.distribute.get_strategy()
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
            left = [file for files in self._files(case) for file in files if not file.exists()]
            self.display.plan.left[self.dataset, str(case.batch_size)] += len(left)

    def build(self) -> keras.Model:
        """Returns the network, untrained, under the strategy."""
        with self.strategy.scope():
            return self.default.build(
                self.data.input_shape,
                self.data.classes,
                synchronized=self.strategy.num_replicas_in_sync > 1,
            )

    def run(self, case: Case) -> None:
        """Chooses the rate and trains at it, as far as that was not done; goes on after failures.

        What is kept of a training that diverged is that it did.
        """
        selection, trials = self._files(case)
        for rate, file in zip(self.candidates(case), selection, strict=True):
            self._piece(case, rate, _SELECTION, file)
        rate = self.outcome(case).rate
        for trial, file in enumerate(trials, start=1):
            self._piece(case, rate, trial, file)
        made = self.outcome(case)
        tests = [trial["test"] for trial in made.trials]
        said = f"test {np.mean(tests):.2f} %" if tests else "; ".join(made.reasons)
        self.display.say(f"{self.dataset}, batch {case.batch_size}, {case.method}: {said}")

    def outcome(self, case: Case) -> Outcome:
        """Returns what the folder holds of a case."""
        tried, kept = (
            [read(file) for file in files if file.exists()] for files in self._files(case)
        )
        reasons = list(self._failures[case])
        reasons += [_reason(each) for each in tried if "failed" in each]
        trained = [each for each in tried if "failed" not in each]
        if len(tried) < len(GRID) or not trained:
            return Outcome(case, None, False, [], reasons)
        # Not the highest accuracy, which on a few hundred examples is a matter of luck.
        best = min(trained, key=lambda each: np.nan_to_num(each["validation_loss"], nan=np.inf))
        chosen = best["rate"]
        candidates = self.candidates(case)
        at_the_end = chosen in (min(candidates), max(candidates))
        # Of another rate are those from before a candidate was tried again.
        kept = [each for each in kept if each["rate"] == chosen]
        diverged = [each for each in kept if "failed" in each]
        trials = [each for each in kept if "failed" not in each]
        reasons += [_reason(each) for each in diverged]
        return Outcome(case, chosen, at_the_end, trials, reasons, len(diverged))

    def outcomes(self) -> list[Outcome]:
        """Returns what the folder holds of all cases."""
        return [self.outcome(case) for case in self.cases]

    def _files(self, case: Case) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
        """Returns the files of a case: one for each candidate, and one for each trial."""
        place = self.dataset, f"{case.method}-{case.batch_size}"

        def file(trial: int, kind: str) -> pathlib.Path:
            return self.folder.path(place[0], trial, place[1], kind)

        selection = [file(_SELECTION, f"rate-{number}.json") for number in range(1, len(GRID) + 1)]
        return selection, [file(trial, "json") for trial in range(1, self.number_of_trials + 1)]

    def _piece(self, case: Case, rate: float | None, trial: int, file: pathlib.Path) -> None:
        """Trains and measures once, unless it was done at this rate."""
        kind = self.dataset, str(case.batch_size)
        if rate is None:  # no candidate could be trained, or not every one was tried
            self.display.plan.left[kind] -= not file.exists()
            return
        if file.exists():
            if read(file)["rate"] == rate:
                return
            self.display.plan.left[kind] += 1
        what = f"{self.dataset}, batch {case.batch_size}, {case.method}"
        which = f"trial {trial}" if trial else "choosing the rate"
        self.display.show(what, f"{which}, rate {rate:g}")
        began = time.perf_counter()
        record = {"trial": trial, "rate": rate}
        try:
            record |= self._trained(case, rate, trial)
        except FAILURES as error:  # may be the machine's, and is tried again next time
            self._failures[case].append(str(error) or type(error).__name__)
            self.display.plan.left[kind] -= 1
            return
        record |= {"versions": versions(), "hardware": hardware()}
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, json.dumps(record))
        self.display.plan.done(kind, time.perf_counter() - began)

    def _trained(self, case: Case, rate: float, trial: int) -> dict[str, Any]:
        """Trains a network, and returns what is measured of it, or that it diverged."""
        collect_garbage()  # the last trainer, with data and all it has traced, is a cycle
        seed = trial_seed(self.settings.seed, trial)
        keras.utils.set_random_seed(seed)
        model = self.build()
        with self.strategy.scope():
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
            try:
                history = recipe.fit(
                    model,
                    LOSS,
                    self.parts["train"],
                    seed=seed,
                    jit_compile=self.default.jit_compile,
                    verbose=0,
                )
            except FloatingPointError as error:
                return {"failed": str(error)}
        seconds = time.perf_counter() - began
        record = {"seconds": seconds, "steps": int(recipe.optimizer.iterations.numpy())}
        take_over(history.model, model)
        measured, failures = self._measured(model.get_weights(), trial, seed)
        record["warnings"] = sorted({*(str(each.message) for each in said), *failures})
        return record | measured

    def _measured(
        self, weights: list[np.ndarray], trial: int, seed: int
    ) -> tuple[dict[str, Any], list[str]]:
        """Returns losses, accuracies in percent and, of trials, sharpness; and what failed of it.

        A sharpness that could not be measured is None, and does not cost what else was.
        """
        model, objectives = self._objectives()
        model.set_weights(weights)
        # Moving statistics lag, the more the fewer steps an epoch has, and SWA makes its own.
        estimate = objectives["train", "moving"].estimate_statistics()
        FlatVariables(moving_statistics(model)).write(estimate)
        record, failures = {}, []
        for part in ("train", "test") if trial else ("validation",):
            loss, accuracy = objectives[part, "moving"].evaluate()
            record |= {part: 100 * accuracy, f"{part}_loss": loss}
        if trial == _SELECTION:
            return record, failures
        for space, dimension in SPACES.items():
            for mode in MODES:
                quantity = f"{space}, {mode}"
                try:
                    record[quantity] = sharpness(
                        objectives["train", mode],
                        epsilon=EPSILON,
                        subspace_dim=dimension,
                        seed=seed,
                        verbose=0,
                    ).value
                except FAILURES as error:
                    record[quantity] = None
                    failures.append(f"no sharpness ({quantity}) of trial {trial}: {error}")
        return record, failures

    def _objectives(self) -> tuple[keras.Model, dict[tuple[str, str], Objective]]:
        """Returns a network to put weights into, and its loss on all data; traced once for all."""
        if self._measuring is None:
            model = self.build()
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


def _reason(record: dict[str, Any]) -> str:
    which = f"trial {record['trial']} at " if record["trial"] else ""
    return f"{which}rate {record['rate']:g}: {record['failed']}"


@contextlib.contextmanager
def collections_between_trainings() -> Iterator[None]:
    """Leaves garbage to `collect_garbage` meanwhile, which skips what there is by now.

    Tracing makes so many objects that Python's own collections take a tenth of all time.
    """
    collect_garbage()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


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
    # The copy's inputs may have other names.
    for layer in filter(lambda each: each.weights, model.layers):
        source = trained.get_layer(layer.name)
        layer.set_weights(getattr(source, "main", source).get_weights())
