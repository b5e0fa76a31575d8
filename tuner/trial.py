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

from keras_sharp.fingerprint import describe, describe_model
from keras_sharp.large_batch import Recipe
from keras_sharp.networks import NETWORKS
from keras_sharp.objective import Objective
from keras_sharp.training import Conservative
from keras_sharp.tuner.measuring import Clock, NoiseHalfWay, finite, measure, measure_sharpness
from keras_sharp.tuner.records import COLUMNS, Records, write_json
from keras_sharp.tuner.space import Space, point_of
from keras_sharp.tuner.splits import Splits, load_splits
from keras_sharp.version import versions

NAMES = ("small", *NETWORKS)

# More at once would gain no time.
_EVALUATION_BATCH = 1000

# What the search itself decides. A model may ask for its batch size.
_DECIDED = {"learning_rate", "optimizer", "gradient", "scaling", "method"}


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


@dataclasses.dataclass(frozen=True)
class Plan:
    """How one point is trained and measured.

    Attributes:
        epochs: Epochs of this training; a Hyperband trial may train for less than the whole.
        micro_batch: Examples a replica processes at once, or None.
        evaluation_batch: Examples measured at once. None: 1000, the same for all points, or as many
            as a replica must not exceed while it trains.
        sharpness_batch: The same for the sharpness, where memory was short. None: as many.
        is_reference: Whether the noise scale is measured, too.
    """

    epochs: int
    micro_batch: int | None = None
    evaluation_batch: int | None = None
    sharpness_batch: int | None = None
    is_reference: bool = False

    @property
    def evaluation(self) -> int:
        """Examples measured at once."""
        return self.evaluation_batch or min(
            self.micro_batch or _EVALUATION_BATCH, _EVALUATION_BATCH
        )


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
    model, declared = None, set()

    def build(hp):
        nonlocal model
        _note(hp, declared)
        with strategy.scope():
            model = task.make_model(hp, splits)
        return model

    with tempfile.TemporaryDirectory() as folder:
        # It builds as often as it takes to see every conditional hyperparameter.
        oracle = keras_tuner.oracles.RandomSearchOracle("loss", 1, hyperparameters=hp)
        keras_tuner.engine.base_tuner.BaseTuner(oracle, build, folder)
    # The oracle's own space: in a worker the tuner's is the chief's, in another order.
    found = oracle.get_space()
    _check_names(declared)
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
        "hyperparameters": found.get_config(),
        "model": model.name,
        # Those of ours differ with the number of replicas alone, which counts for nothing.
        "layers": {} if isinstance(task.build, str) else describe_model(model),
        "loss": describe(model.loss),
        "weights": int(sum(np.prod(v.shape) for v in model.trainable_variables)),
        "replicas": strategy.num_replicas_in_sync,
        "devices": [each.device_type for each in tf.config.list_logical_devices()],
    }


def _note(hp: keras_tuner.HyperParameters, names: set[str]) -> None:
    """Has all names noted that are declared: what `hp` knows already leaves no trace in it."""

    def noting(declare: Callable) -> Callable:
        def noted(name: str, *args: Any, **kwargs: Any) -> Any:
            names.add(hp._get_name(name))
            return declare(name, *args, **kwargs)

        return noted

    for kind in ("Boolean", "Choice", "Fixed", "Float", "Int"):
        setattr(hp, kind, noting(getattr(hp, kind)))


def _check_names(names: set[str]) -> None:
    taken = sorted(names & (_DECIDED | set(COLUMNS)))
    if taken:
        raise ValueError(
            "`build` must not declare hyperparameters with the names of what the search decides, "
            f"or of the table's own columns. Received: {', '.join(taken)}"
        )


def train_point(task: Task, config: dict[str, Any], plan: Plan) -> None:
    """Trains one point with all its seeds, except those already recorded, and records each.

    While it measures, the point's measuring file says with how many examples at once, and holds
    the record once only the sharpness is missing.

    Args:
        task: The search.
        config: Configuration of the hyperparameters, their values among it.
        plan: How.
    """
    splits, records = task.splits(), Records(task.root)
    # One for all seeds: in one process the collectives of two strategies would join each other.
    strategy = task.make_strategy()
    hp = keras_tuner.HyperParameters.from_config(config)
    for seed in task.seeds:
        if not records.file(hp.values, plan.epochs, seed).exists():
            records.finish(_train(task, splits, strategy, hp, plan, seed))


def _train(
    task: Task,
    splits: Splits,
    strategy: tf.distribute.Strategy,
    hp: keras_tuner.HyperParameters,
    plan: Plan,
    seed: int,
) -> dict[str, Any]:
    """Trains and measures once. Returns the record."""
    keras.utils.set_random_seed(seed)
    values, began, records = point_of(hp.values), time.perf_counter(), Records(task.root)
    batch_size, whole = values["batch_size"], task.whole(values["batch_size"], splits.examples)
    with strategy.scope():
        model = task.make_model(hp, splits)
        longest = task.whole(max(task.space.batch_sizes), splits.examples)
        recipe = task.space.recipe(values, splits.examples, whole, longest)
    # The same for all epochs of Hyperband, which goes on with a point it has stopped; another one
    # for every `micro_batch`, which makes it another training.
    checkpoint = records.checkpoint_file(values, seed, plan.micro_batch or batch_size)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    callbacks = [Clock(recipe.batch_size)]
    if plan.is_reference:
        # Within the training, so in no larger parts than its own.
        part = plan.micro_batch or -(-batch_size // strategy.num_replicas_in_sync)
        callbacks.append(NoiseHalfWay(splits.train, whole, min(part, plan.evaluation), seed))
    history = recipe.fit(
        model,
        model.loss,
        splits.train,
        micro_batch=plan.micro_batch,
        epochs=plan.epochs,
        callbacks=callbacks,
        seed=seed,
        checkpoint=checkpoint,
        verbose=0,
    )
    model, logs = history.model, history.history  # another one, where the method converts layers
    at_once = {"evaluation_batch": plan.evaluation}
    write_json(records.measuring_file(values), at_once | {"record": None})
    train = Objective(model, splits.train, batch_size=plan.evaluation)
    record = {
        "values": values,
        "seed": seed,
        "epochs": plan.epochs,
        "whole_epochs": whole,
        "batch_size": batch_size,
        "micro_batch": plan.micro_batch,
        "replicas": strategy.num_replicas_in_sync,
        "peak_learning_rate": peak_rate(recipe, values),
        "steps": Clock.steps(logs, splits.examples),
        "seconds": Clock.seconds(logs),
        **at_once,
        **measure(train, splits, plan.evaluation),
        "sharpness": None,
        "sharpness_status": None,
        **{name: logs.get(name, [None])[0] for name in NoiseHalfWay.LOGS},
        "loss": [finite(each) for each in logs["loss"]],
        "total_seconds": time.perf_counter() - began,
        "versions": versions() | {"python": platform.python_version()},
    }
    if task.sharpness:
        write_json(records.measuring_file(values), at_once | {"record": record})
        if plan.sharpness_batch not in (None, plan.evaluation):
            train = Objective(model, splits.train, batch_size=plan.sharpness_batch)
        record |= measure_sharpness(train, seed)
        record["total_seconds"] = time.perf_counter() - began
    return record


def peak_rate(recipe: Recipe, values: dict[str, Any]) -> float | None:
    """Returns the highest learning rate of a training; None where it is decided meanwhile."""
    if isinstance(recipe.gradient, Conservative):  # the optimizer outside has rate 1
        return float(values["learning_rate"])
    rate = recipe.optimizer._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return getattr(rate, "peak", None)
    return float(rate.numpy())
