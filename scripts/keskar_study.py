"""Trainings of one network, followed by the epoch: what the paper's figures are drawn from."""

import argparse
import functools
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from benchmark_cases import short_of_memory
from keskar_experiment import EVALUATION_BATCH
from keskar_training import LOSS, Training, batch_sizes, load, trial_seed
from run_folder import RunFolder, read, read_arrays, write, write_arrays
from run_progress import Display

from keras_sharp import Objective, landscape, sharpness
from keras_sharp.results import PathResult

TRIAL = 1  # the paper's figures are of one training each
EPSILON = 1e-3
# BatchNormalization as in the authors' code.
MEASURING = {"epsilon": EPSILON, "batch_norm": "batch", "batch_size": EVALUATION_BATCH}
_SNAPSHOTS = 10
# A step takes the outputs of all layers about twice, forwards and backwards: C1 2.2 MiB an example.
_PASSES = 2.2


class Run(NamedTuple):
    """One training.

    Attributes:
        name: Its name among the files, and in the plan.
        batch_size: Global batch size.
        start: Name of the run, and the epoch, whose weights it starts from; None for the initial
            weights that all runs share.
    """

    name: str
    batch_size: int
    start: tuple[str, int] | None = None


class Point(NamedTuple):
    """What was measured at the weights of a run after some epoch, on all training or test data.

    Attributes:
        train_loss: Mean cross-entropy.
        train_accuracy: 0 to 1.
        test_loss: Mean cross-entropy.
        test_accuracy: 0 to 1.
        sharpness: Metric 2.1 in the full space.
    """

    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    sharpness: float


class Study:
    """Runs of one network and measurements along them, each kept as soon as it is done.

    BatchNormalization uses the statistics of the evaluation batch, as in the authors' code.

    Args:
        network: "F1" to "C4".
        data: Name of the data it is trained on.
        settings: What the command asks for.
        folder: Where finished work is kept.
        display: Says what is done.

    Attributes:
        small: The run with the small batch.
        large: The run with the large batch.
        snapshots: Epochs after which the weights of these two are kept, 0 and the last among them.

    Raises:
        FileNotFoundError: If there are no data.
        ValueError: If the batch sizes don't fit the data.
    """

    def __init__(
        self,
        network: str,
        data: str,
        settings: argparse.Namespace,
        folder: RunFolder,
        display: Display,
    ):
        self.network, self.settings, self.folder, self.display = network, settings, folder, display
        self.data = load(data, settings.data_dir, settings.limit)
        sizes = batch_sizes(settings.small_batch, settings.large_batch, len(self.data.x_train))
        self.small, self.large = (Run(name, sizes[name]) for name in ("small", "large"))
        epochs = settings.epochs
        largest = max(settings.batch_sizes or [1])
        if largest > len(self.data.x_train):
            raise ValueError(
                f"--batch-sizes must not exceed the {len(self.data.x_train)} training examples. "
                f"Received: {largest}"
            )
        spaced = np.geomspace(1, epochs, min(epochs, _SNAPSHOTS)).round().astype(int)
        self.snapshots = sorted({0, *spaced.tolist()})
        self._training = Training(
            network,
            self.data,
            epochs=epochs,
            seed=settings.seed,
            folder=folder,
            display=display,
        )
        self._measured: tuple[keras.Model, Objective, Objective] | None = None

    @functools.cached_property
    def batch_sizes(self) -> list[int]:
        """The sizes asked for, those left out that there is no memory for, unless they are done."""
        epochs, kept = self.settings.epochs, []
        for size in self.settings.batch_sizes or self._doublings():
            run, reason = self.run_of(size), short_of_memory(self._gigabytes(size))
            if reason is None or self._path(run, f"epoch-{epochs}.json").exists():
                kept.append(size)
            else:
                self.display.say(f"{self.network} batch {size}: {reason}")
        return sorted(set(kept))

    def _doublings(self) -> list[int]:
        """Doublings of a quarter of the small batch up to the number of examples, and the two."""
        examples = len(self.data.x_train)
        least = max(1, self.small.batch_size // 4)
        doublings = [least * 2**k for k in range(examples.bit_length()) if least * 2**k <= examples]
        return sorted({*doublings, self.small.batch_size, self.large.batch_size})

    def _gigabytes(self, batch_size: int) -> float:
        """Returns what a training takes, roughly."""
        model = self._training.build()
        outputs = sum(int(np.prod(layer.output.shape[1:])) for layer in model.layers)
        return 1 + _PASSES * 4 * outputs * batch_size / 2**30

    def run_of(self, batch_size: int) -> Run:
        """Returns the run from the initial weights with this batch size."""
        known = {run.batch_size: run for run in (self.small, self.large)}
        return known.get(batch_size, Run(f"batch-{batch_size}", batch_size))

    def piggyback(self, epoch: int) -> Run:
        """Returns the large-batch run that starts after some epochs of the small-batch one."""
        if epoch == 0:  # both start from the initial weights
            return self.large
        return Run(f"piggyback-{epoch}", self.large.batch_size, (self.small.name, epoch))

    def plan(self, runs: Iterable[Run], points: Iterable[tuple[Run, int]]) -> None:
        """Takes note of what is not done yet, for the time left."""
        left = self.display.plan.left
        for run in runs:
            if not self._is_trained(run):
                left[self.network, run.name] += self.settings.epochs
        for run, epoch in points:
            if not self._path(run, f"epoch-{epoch}.json").exists():
                left[self.network, "sharpness"] += 1

    def train(self, run: Run) -> None:
        """Trains, unless it was done."""
        if self._is_trained(run):
            return
        start = None if run.start is None else read_arrays(self._weights(*run.start))
        title = f"{self.network} {run.name} (batch {run.batch_size})"
        follow = _Follow(self, run)
        self._training.train(
            TRIAL, run.name, run.batch_size, title, start=start, callbacks=[follow]
        )

    def history(self, run: Run) -> dict[str, list[float]]:
        """Returns what a run recorded after each epoch.

        That is the `loss` along the epoch, `val_loss` and `val_accuracy` on the test data, and
        `distance`, how far the trainable weights are from where they were before the first epoch.
        """
        return read(self._path(run, "training.json"))["history"]

    def point(self, run: Run, epoch: int) -> Point:
        """Returns what is measured after an epoch of a run."""
        file = self._path(run, f"epoch-{epoch}.json")
        if not file.exists():
            self.display.show(f"{self.network} {run.name}", f"measuring after epoch {epoch}")
            began = time.perf_counter()
            model, train, test = self._measuring()
            model.set_weights(read_arrays(self._weights(run.name, epoch)))
            seed = trial_seed(self.settings.seed, TRIAL)
            result = sharpness(train, epsilon=EPSILON, seed=seed, verbose=0)
            record = Point(*train.evaluate(), *test.evaluate(), result.value)._asdict()
            write(file, json.dumps(record | {"result": json.loads(result.to_json())}))
            self.display.plan.done((self.network, "sharpness"), time.perf_counter() - began)
        record = read(file)
        return Point(*(record[name] for name in Point._fields))

    def path(self, kind: str) -> PathResult:
        """Returns loss and accuracy on a path from the small-batch to the large-batch solution."""
        file = self._path(self.large, f"{kind}-path.json")
        if not file.exists():
            self.display.show(self.network, f"{kind} path")
            models = [self._training.build() for _ in range(2)]
            for model, run in zip(models, (self.small, self.large), strict=True):
                model.set_weights(read_arrays(self._weights(run.name, self.settings.epochs)))
            data = self.data
            result = landscape.path(
                *models,
                (data.x_train, data.y_train),
                test=(data.x_test, data.y_test),
                kind=kind,
                loss=LOSS,
                batch_size=EVALUATION_BATCH,
                verbose=0,
            )
            write(file, result.to_json())
        return PathResult.from_json(file.read_text())

    def test(self, weights: list[np.ndarray]) -> tuple[float, float]:
        """Returns loss and accuracy on the test data."""
        model, _, test = self._measuring()
        model.set_weights(weights)
        return test.evaluate()

    def keep(self, run: Run, epoch: int, weights: list[np.ndarray]) -> None:
        """Keeps the weights of a run after an epoch, if anything is drawn from them."""
        if epoch in self._kept(run):
            write_arrays(self._weights(run.name, epoch), weights)

    def start(self, run: Run) -> list[np.ndarray] | None:
        """Returns the weights before the first epoch of a run, if it was begun."""
        file = self._weights(run.name, 0)
        return read_arrays(file) if file.exists() else None

    def _kept(self, run: Run) -> Sequence[int]:
        """Returns the epochs of a run after which its weights are kept."""
        return self.snapshots if run in (self.small, self.large) else (0, self.settings.epochs)

    def _is_trained(self, run: Run) -> bool:
        """Returns whether a run is finished, and all weights that are kept of it are there."""
        return self.folder.is_trained(self.network, TRIAL, run.name) and all(
            self._weights(run.name, epoch).exists() for epoch in self._kept(run)
        )

    def _measuring(self) -> tuple[keras.Model, Objective, Objective]:
        """Returns a model for measuring, and its loss on training and test data; traced once."""
        if self._measured is None:
            model, data = self._training.build(), self.data
            parts = (data.x_train, data.y_train), (data.x_test, data.y_test)
            options = {name: MEASURING[name] for name in ("batch_norm", "batch_size")}
            self._measured = model, *(Objective(model, part, LOSS, **options) for part in parts)
        return self._measured

    def _path(self, run: Run, kind: str) -> Path:
        return self.folder.path(self.network, TRIAL, run.name, kind)

    def _weights(self, name: str, epoch: int) -> Path:
        return self.folder.path(self.network, TRIAL, name, f"epoch-{epoch}.npz")


class _Follow(keras.callbacks.Callback):
    """Adds test loss, test accuracy and the way gone to the logs, and keeps weights."""

    def __init__(self, study: Study, run: Run):
        super().__init__()
        self._study, self._run = study, run

    def on_train_begin(self, logs=None):
        start = self._study.start(self._run)
        if start is None:
            start = self.model.get_weights()
            self._study.keep(self._run, 0, start)
        self._start = start

    def on_epoch_end(self, epoch, logs=None):
        weights = self.model.get_weights()
        pairs = zip(self.model.weights, weights, self._start, strict=True)
        steps = [np.sum((new - old) ** 2) for v, new, old in pairs if v.trainable]
        test_loss, test_accuracy = self._study.test(weights)
        way = {"val_loss": test_loss, "val_accuracy": test_accuracy}
        logs.update(way, distance=float(np.sqrt(np.sum(steps))))
        self._study.keep(self._run, epoch + 1, weights)
