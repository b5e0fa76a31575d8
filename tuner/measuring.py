"""What is measured of the trainings of a search."""

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_sharp.callbacks import MeasureDuringTraining
from keras_sharp.measures import sharpness
from keras_sharp.normalization import moving_statistics
from keras_sharp.objective import Objective
from keras_sharp.tuner.splits import Pair, Splits
from keras_sharp.weights import FlatVariables


def measure(train: Objective, splits: Splits, batch_size: int) -> dict[str, Any]:
    """Returns losses and accuracies of a trained model, on equal terms.

    Dropout is off, and BatchNormalization uses the statistics of the training set at the final
    weights: moving averages lag behind by a number of steps, of which large batches take few.

    Args:
        train: The model on the training examples; its moving statistics are set.
        splits: The data.
        batch_size: Examples of the others measured at once.
    """
    variables = moving_statistics(train.model)
    if variables:
        FlatVariables(variables).write(train.estimate_statistics())
    measured: dict[str, Any] = {}
    for name in ("train", "validation", "test"):
        pair = getattr(splits, name)
        objective = train
        if name != "train":
            objective = pair and Objective(train.model, pair, batch_size=batch_size)
        loss, accuracy = objective.evaluate() if objective else (None, None)
        measured |= {f"{name}_loss": finite(loss), f"{name}_accuracy": accuracy}
    gap = measured["train_accuracy"] - measured["validation_accuracy"]
    return measured | {"generalization_gap": gap}


def measure_sharpness(train: Objective, seed: int) -> dict[str, Any]:
    """Returns the sharpness of a model that was measured; None, and why, where there is none.

    Args:
        train: The model on the training examples.
        seed: Of the sharpness.
    """
    try:
        result = sharpness(train, seed=seed, verbose=0)
    except (FloatingPointError, ValueError) as error:
        # The training is finished and its accuracy known, whatever becomes of this.
        return {"sharpness": None, "sharpness_status": f"{type(error).__name__}: {error}"}
    return {"sharpness": finite(result.value), "sharpness_status": result.status}


def finite(number: float | None) -> float | None:
    """Returns a number that JSON can hold: None for infinity and NaN."""
    return None if number is None or not math.isfinite(number) else float(number)


def shuffled(pair: Pair, seed: int) -> Pair:
    """Returns the examples in random order, for what cuts them into batches as they come."""
    order = np.random.default_rng(seed).permutation(len(pair[0]))
    return pair[0][order], pair[1][order]


class NoiseHalfWay(MeasureDuringTraining):
    """Measures the noise scale in the middle of a training, and never again.

    At the end, near a minimum, there is no gradient left to compare the noise with.

    Args:
        train: The training data, in any order.
        epochs: Length of the whole training.
        batch_size: Largest number of examples measured at once.
        seed: Decides which examples make up a small batch.
    """

    LOGS = ("noise_scale", "noise_scale_error", "noise_scale_status")

    def __init__(self, train: Pair, epochs: int, batch_size: int, seed: int):
        super().__init__(
            shuffled(train, seed),
            "noise_scale",
            every=(epochs + 1) // 2,
            seed=seed,
            batch_norm="batch",
            batch_size=max(1, min(batch_size, len(train[0]) // 4)),
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures after one epoch, and writes error and status into the logs, too."""
        if epoch + 1 != self.every:
            return
        super().on_epoch_end(epoch, logs)
        if epoch not in self.reports:
            logs["noise_scale_status"] = "It could not be measured; the log of its point says why."
            return
        result = self.reports[epoch]["noise_scale"]
        logs["noise_scale_status"] = result.status
        if result.standard_error is not None:
            logs["noise_scale_error"] = result.standard_error


class Clock(keras.callbacks.Callback):
    """Writes into the logs how long each epoch took, and whether a graph was traced meanwhile.

    Args:
        batch_size: Batch size, or sizes by their first epoch.
    """

    def __init__(self, batch_size: int | Mapping[int, int]):
        super().__init__()
        self._sizes = dict(batch_size) if isinstance(batch_size, Mapping) else {0: batch_size}
        self._traced: set[int] = set()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Stops it."""
        size = self._sizes[max(first for first in self._sizes if first <= epoch)]
        logs["epoch_seconds"] = time.perf_counter() - self._began
        logs["epoch_batch"] = size
        logs["epoch_traced"] = float(size not in self._traced)
        self._traced.add(size)

    @staticmethod
    def steps(logs: Mapping[str, list[float]], examples: int) -> int:
        """Returns the number of steps, those included that loss scaling skips.

        Args:
            logs: The History.
            examples: Number of training examples.
        """
        return sum(math.ceil(examples / size) for size in logs["epoch_batch"])

    @staticmethod
    def seconds(logs: Mapping[str, list[float]]) -> float:
        """Returns the time of all epochs, without what the first of each batch size traced.

        Args:
            logs: The History.
        """
        epochs = list(
            zip(logs["epoch_seconds"], logs["epoch_batch"], logs["epoch_traced"], strict=True)
        )
        total = 0.0
        for took, size, traced in epochs:
            others = [t for t, s, again in epochs if s == size and not again]
            total += statistics.median(others) if traced and others else took
        return total
