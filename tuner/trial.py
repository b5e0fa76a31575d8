"""What the processes of a search do: look at model and data first, then train one point each."""

import dataclasses
import math
import platform
import tempfile
import time
from collections.abc import Callable
from typing import Any

import keras
import keras_tuner
import numpy as np
import tensorflow as tf

from keras_sharp.callbacks import MeasureDuringTraining
from keras_sharp.measures import sharpness
from keras_sharp.networks import NETWORKS
from keras_sharp.normalization import moving_statistics
from keras_sharp.objective import Objective
from keras_sharp.tuner.records import Records, write_json
from keras_sharp.tuner.space import Space, point_of
from keras_sharp.tuner.splits import Splits, load_splits
from keras_sharp.version import versions
from keras_sharp.weights import FlatVariables

NAMES = ("small", *NETWORKS)


@dataclasses.dataclass(frozen=True)
class Task:
    """What all trainings of a search have in common. See `search` for the arguments."""

    root: str
    build: str | Callable
    data: Any
    space: Space
    epochs: int | None
    steps: int | None
    seeds: tuple[int, ...]
    sharpness: bool
    strategy: Callable | None
    data_dir: str | None = None
    limit: int | None = None

    def splits(self) -> Splits:
        """Returns the data."""
        return load_splits(self.data, data_dir=self.data_dir, limit=self.limit)

    def whole(self, batch_size: int, examples: int) -> int:
        """Returns the number of epochs of a whole training."""
        if self.epochs is not None:
            return self.epochs
        return math.ceil(self.steps / math.ceil(examples / batch_size))

    def make_strategy(self) -> tf.distribute.Strategy:
        """Returns the strategy: the one asked for, else all GPUs, if there are several."""
        if self.strategy is not None:
            return self.strategy()
        if len(tf.config.list_physical_devices("GPU")) > 1:
            return tf.distribute.MirroredStrategy()
        return tf.distribute.get_strategy()

    def make_model(self, hp: keras_tuner.HyperParameters, splits: Splits) -> keras.Model:
        """Returns a compiled model.

        Raises:
            ValueError: If `build` returned none with a loss.
        """
        model = named_model(self.build, splits) if isinstance(self.build, str) else self.build(hp)
        if not isinstance(model, keras.Model) or getattr(model, "loss", None) is None:
            raise ValueError(
                "`build` must return a Keras model that is compiled with a loss; optimizer and "
                f"learning rate are the search's. Received: {model!r}"
            )
        return model


def named_model(name: str, splits: Splits) -> keras.Model:
    """Returns a model by name, under the strategy that is open.

    `"small"` has one hidden layer of 128 units with BatchNormalization.
    """
    shape, classes = splits.train[0].shape[1:], splits.classes
    if classes is None:
        classes = int(splits.train[1].max()) + 1
    synchronized = tf.distribute.get_strategy().num_replicas_in_sync > 1
    if name == "small":
        model = keras.Sequential(
            [
                keras.Input(shape),
                keras.layers.Flatten(),
                keras.layers.Dense(128),
                keras.layers.BatchNormalization(synchronized=synchronized),
                keras.layers.ReLU(),
                keras.layers.Dense(classes),
            ],
            name="small",
        )
    else:
        model = NETWORKS[name].build(shape, classes, synchronized=synchronized)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def prepare(task: Task) -> dict[str, Any]:
    """Looks at model and data, and returns what the search needs to know of them.

    Raises:
        ValueError: For data, model or space that are of no use.
    """
    splits = task.splits()
    strategy = task.make_strategy()
    space = task.space.for_examples(splits.examples)
    hp = space.hyperparameters()
    model = None

    def build(hp):
        nonlocal model
        with strategy.scope():
            model = task.make_model(hp, splits)
        return model

    with tempfile.TemporaryDirectory() as folder:
        # It builds as often as it takes to see every conditional hyperparameter.
        oracle = keras_tuner.oracles.RandomSearchOracle("loss", 1, hyperparameters=hp)
        tuner = keras_tuner.engine.base_tuner.BaseTuner(oracle, build, folder)
    if not model.built:
        model(splits.train[0][:1])
    _, accuracy = Objective(model, tuple(array[:2] for array in splits.train)).evaluate()
    if accuracy is None:
        raise ValueError(
            "`build` must return a model of one output with one of Keras's cross-entropies for "
            f"its loss: the search compares accuracies. Received: loss={model.loss!r}"
        )
    return {
        "data": splits.describe(),
        "examples": splits.examples,
        "space": space,
        "hyperparameters": tuner.oracle.get_space().get_config(),
        "model": model.name,
        "weights": int(sum(np.prod(v.shape) for v in model.trainable_variables)),
        "replicas": strategy.num_replicas_in_sync,
        "devices": [each.device_type for each in tf.config.list_logical_devices()],
    }


def train_point(
    task: Task, config: dict[str, Any], epochs: int, micro_batch: int | None, is_reference: bool
) -> None:
    """Trains one point with all its seeds, except those already recorded, and records each.

    Args:
        task: The search.
        config: Configuration of the hyperparameters, their values among it.
        epochs: Epochs of this training; a Hyperband trial may train for less than the whole.
        micro_batch: Examples a replica processes at once, or None.
        is_reference: Whether the noise scale is measured, too.
    """
    splits, records = task.splits(), Records(task.root)
    hp = keras_tuner.HyperParameters.from_config(config)
    for seed in task.seeds:
        file = records.file(hp.values, epochs, seed)
        if file.exists():
            continue
        record = _train(task, splits, hp, epochs, micro_batch, seed, is_reference)
        write_json(file, record)


def _train(
    task: Task,
    splits: Splits,
    hp: keras_tuner.HyperParameters,
    epochs: int,
    micro_batch: int | None,
    seed: int,
    is_reference: bool,
) -> dict[str, Any]:
    """Trains and measures once. Returns the record."""
    keras.utils.set_random_seed(seed)
    values, began = point_of(hp.values), time.perf_counter()
    batch_size, whole = values["batch_size"], task.whole(values["batch_size"], splits.examples)
    strategy = task.make_strategy()
    with strategy.scope():
        model = task.make_model(hp, splits)
        recipe = task.space.recipe(values, splits.examples, whole)
    # The same for all epochs of Hyperband, which goes on with a point it has stopped; another one
    # for every `micro_batch`, which makes it another training.
    name = f"seed-{seed}.part-{micro_batch or batch_size}.checkpoint.npz"
    checkpoint = Records(task.root).folder(values) / name
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    clock = Clock()
    callbacks = [clock]
    if is_reference:
        callbacks.append(noise_half_way(splits, whole, batch_size, seed))
    history = recipe.fit(
        model,
        model.loss,
        splits.train,
        micro_batch=micro_batch,
        epochs=epochs,
        callbacks=callbacks,
        seed=seed,
        checkpoint=checkpoint,
        verbose=0,
    )
    model = history.model  # another one, where the method converts layers
    record = {
        "values": values,
        "seed": seed,
        "epochs": epochs,
        "whole_epochs": whole,
        "batch_size": batch_size,
        "micro_batch": micro_batch,
        "replicas": strategy.num_replicas_in_sync,
        "peak_learning_rate": peak_rate(recipe.optimizer),
        "steps": int(model.optimizer.iterations.numpy()),
        "seconds": clock.seconds(epochs),
        **measure(task, model, splits, micro_batch, seed),
        "noise_scale": history.history.get("noise_scale", [None])[0],
        "loss": [float(each) for each in history.history["loss"]],
        "total_seconds": time.perf_counter() - began,
        "versions": versions() | {"python": platform.python_version()},
    }
    if epochs == whole:
        for file in checkpoint.parent.glob(f"seed-{seed}.*.checkpoint.npz"):
            file.unlink(missing_ok=True)
    return record


def peak_rate(optimizer: keras.optimizers.Optimizer) -> float | None:
    """Returns the highest learning rate of a training; None where it is decided meanwhile."""
    rate = optimizer._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return getattr(rate, "peak", None)
    return float(rate.numpy())


def noise_half_way(
    splits: Splits, epochs: int, batch_size: int, seed: int
) -> MeasureDuringTraining:
    """Returns a callback that measures the noise scale in the middle of a training.

    At the end, near a minimum, there is no gradient left to compare the noise with.
    """
    size = max(1, min(batch_size, splits.examples // 4))
    return MeasureDuringTraining(
        splits.train,
        "noise_scale",
        every=(epochs + 1) // 2,
        seed=seed,
        batch_norm="batch",
        batch_size=size,
    )


def measure(
    task: Task, model: keras.Model, splits: Splits, micro_batch: int | None, seed: int
) -> dict[str, Any]:
    """Returns accuracies and sharpness of a trained model, on equal terms.

    Dropout is off, and BatchNormalization uses the statistics of the training set at the final
    weights: moving averages lag behind by a number of steps, of which large batches take few.
    """
    options = {"batch_size": micro_batch} if micro_batch else {}
    train = Objective(model, splits.train, **options)
    statistics = moving_statistics(model)
    if statistics:
        pieces = FlatVariables(statistics).pairs(train.estimate_statistics())
        for variable, value in pieces:
            variable.assign(value)
    losses = {}
    for name in ("train", "validation", "test"):
        pair = getattr(splits, name)
        objective = train if name == "train" else pair and Objective(model, pair, **options)
        loss, accuracy = objective.evaluate() if objective else (None, None)
        losses |= {f"{name}_loss": loss, f"{name}_accuracy": accuracy}
    measured = {
        **losses,
        "generalization_gap": losses["train_accuracy"] - losses["validation_accuracy"],
        "sharpness": None,
        "sharpness_status": None,
    }
    if task.sharpness:
        result = sharpness(train, seed=seed, verbose=0)
        measured |= {"sharpness": result.value, "sharpness_status": result.status}
    return measured


class Clock(keras.callbacks.Callback):
    """Times the epochs."""

    def __init__(self):
        super().__init__()
        self.took: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Stops it."""
        self.took.append(time.perf_counter() - self._began)

    def seconds(self, epochs: int) -> float | None:
        """Returns the time of so many epochs, without the tracing of the first; None: unknown."""
        later = self.took[1:] or self.took
        return float(np.median(later)) * epochs if later else None
