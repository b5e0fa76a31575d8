"""The trainings that compare decentralized methods, each kept as soon as it is measured."""

import argparse
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from decentralized_settings import (
    ALPHA,
    DATASETS,
    DROP_AFTER,
    LARS,
    LARS_RATE,
    METHODS,
    MOMENTUM,
    RATE,
    TOPOLOGIES,
    WARM_UP,
    network,
)
from keskar_experiment import EVALUATION_BATCH
from keskar_training import LOSS, load, tenth, trial_seed
from methods_settings import GRID, VALIDATION_SHARE
from methods_study import Case, Study, collect_garbage
from run_folder import RunFolder
from run_progress import Display

from keras_sharp import Objective, optimizers
from keras_sharp.training import Simulation, Trainer, splits, topology
from keras_sharp.training.mixing import vectors_sent
from keras_sharp.training.neighbours import Neighbours


class WarmUpAndDrop(keras.optimizers.schedules.LearningRateSchedule):
    """Rises to `peak`, a variable so that one trace serves all rates, and drops to a tenth."""

    def __init__(self, steps: int):
        self.peak = keras.Variable(0.0, trainable=False)
        self._rise, self._drop = max(1, round(WARM_UP * steps)), round(DROP_AFTER * steps)

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        rising = keras.ops.minimum(1.0, (step + 1.0) / self._rise)
        return self.peak.value * keras.ops.where(step < self._drop, rising, 0.1)


class Restarted(Simulation):
    """A simulation that may begin anew: tracing takes longer than a training on few examples.

    Args:
        model: Its network.
        steps: Of each training.
        method: A method and its topology.
    """

    def __init__(self, model: keras.Model, steps: int, method: Neighbours):
        self._rate = WarmUpAndDrop(steps)
        super().__init__(model, keras.optimizers.SGD(self._rate, momentum=MOMENTUM), LOSS, method)

    def restart(self, weights: np.ndarray, rate: float) -> None:
        """Puts all nodes at some weights `(n,)`, with no momentum."""
        self.weights.assign(np.tile(weights, (self.weights.shape[0], 1)))
        self._momenta.assign(np.zeros(self._momenta.shape, "float32"))
        self._rate_before.assign(0.0)
        self._optimizer.iterations.assign(0)
        self._rate.peak.assign(rate)


class DecentralizedStudy(Study):
    """All trainings on one data set, dealt to nodes in one way.

    Rates are chosen, and trainings kept, as by `Study`; what is trained is another thing.

    Args:
        dataset: Its name.
        split: "even" or "dirichlet".
        settings: What the command asks for.
        folder: Where finished trainings are kept.
        display: Says what is done.

    Attributes:
        nodes: Number of nodes.
        graph: Their topology.

    Raises:
        FileNotFoundError: If there are no data.
        ValueError: If a batch does not fit the data, or the number of nodes the topology.
    """

    def __init__(
        self,
        dataset: str,
        split: str,
        settings: argparse.Namespace,
        folder: RunFolder,
        display: Display,
    ):
        default = DATASETS[dataset]
        self.dataset, self.split = f"{dataset}-{split}", split
        self.settings, self.folder, self.display = settings, folder, display
        self.epochs = settings.epochs or default.epochs
        self.number_of_trials = settings.trials or default.trials
        self.nodes, self.graph = settings.nodes, TOPOLOGIES[settings.topology](settings.nodes)
        data = load(dataset, settings.data_dir, settings.limit)
        order = np.random.default_rng(settings.seed).permutation(len(data.x_train))
        held_out, rest = np.split(order, [round(VALIDATION_SHARE * len(order))])
        self.data, self.default = data, default
        self.parts = {
            "train": (data.x_train[rest], data.y_train[rest]),
            "validation": (data.x_train[held_out], data.y_train[held_out]),
            "test": (data.x_test, data.y_test),
        }
        sizes = (*default.batch_sizes, tenth(len(rest)))
        self.batch_sizes = sorted(set(settings.batch_sizes or sizes))
        if self.batch_sizes[-1] * self.nodes > len(rest):
            raise ValueError(
                f"{self.nodes} nodes must have their batches from the {len(rest)} examples that "
                f"are trained on. Received: batches of {self.batch_sizes[-1]}"
            )
        asked = settings.methods or METHODS
        methods = [name for name in METHODS if name in asked]
        if split != "even":  # pooled data know of no split
            methods = [name for name in methods if name != LARS]
        self.cases = [Case(name, size) for size in self.batch_sizes for name in methods]
        self._failures = {case: [] for case in self.cases}
        self._simulation: tuple[Case, Restarted] | None = None
        self._measures: dict[str, Objective] = {}

    def candidates(self, case: Case) -> list[float]:
        """Returns the learning rates of which one is chosen."""
        rate = LARS_RATE if case.method == LARS else RATE
        rate *= (case.batch_size / self.default.batch_sizes[0]) ** 0.5
        return [rate * factor for factor in GRID]

    def steps(self, case: Case) -> int:
        """Returns the steps of a training."""
        examples = len(self.parts["train"][0])
        return max(1, round(self.epochs * examples / (self.nodes * case.batch_size)))

    def bytes_per_step(self, case: Case) -> float:
        """Returns how many bytes a node would send in a step, on average, through a `Trainer`."""
        graph = topology.full(self.nodes) if case.method in ("PmSGD", LARS) else self.graph
        vectors = getattr(METHODS[case.method], "vectors", 1) * float(vectors_sent(graph).mean())
        return 4 * self.network().count_params() * vectors

    def network(self) -> keras.Model:
        """Returns a new network."""
        return network(self.data.input_shape, self.data.classes, self.default.units)

    def _trained(self, case: Case, rate: float, trial: int) -> dict[str, Any]:
        """Trains once, and returns what is measured, or that it diverged."""
        seed = trial_seed(self.settings.seed, trial)
        keras.utils.set_random_seed(seed)
        model = self.network()
        train = self._together if case.method == LARS else self._apart
        began = time.perf_counter()
        try:
            weights, consensus = train(case, rate, seed, model)
        except FloatingPointError as error:
            return {"failed": str(error)}
        record = {"seconds": time.perf_counter() - began, "consensus": consensus, "warnings": []}
        mean = weights.mean(0, dtype=np.float64)
        if not trial:
            loss, accuracy = self._objective("validation").evaluate(mean)
            return record | {"validation": 100 * accuracy, "validation_loss": loss}
        each = [self._objective("test").evaluate(node)[1] for node in weights]
        record["mean_of_nodes"] = 100 * float(np.mean(each))
        for part in ("train", "test"):
            loss, accuracy = self._objective(part).evaluate(mean)
            record |= {part: 100 * accuracy, f"{part}_loss": loss}
        return record

    def _apart(
        self, case: Case, rate: float, seed: int, model: keras.Model
    ) -> tuple[np.ndarray, float]:
        """Trains nodes; returns their weights and their mean consensus distance."""
        if self._simulation is None or self._simulation[0] != case:
            collect_garbage()
            own = keras.models.clone_model(model)
            method = METHODS[case.method](self.graph)
            self._simulation = case, Restarted(own, self.steps(case), method)
        simulation = self._simulation[1]
        simulation.restart(flat(model), rate)
        x, y = self.parts["train"]
        dealt = (
            splits.even(len(y), self.nodes, seed=seed)
            if self.split == "even"
            else splits.dirichlet(y, self.nodes, alpha=ALPHA, seed=seed)
        )
        figures = simulation.fit(
            (x, y), dealt, batch_size=case.batch_size, steps=self.steps(case), seed=seed
        )
        return simulation.weights.numpy(), float(figures["consensus_distance"].mean())

    def _together(
        self, case: Case, rate: float, seed: int, model: keras.Model
    ) -> tuple[np.ndarray, float]:
        """Trains with LARS on all data, in batches of all nodes."""
        collect_garbage()
        x, y = self.parts["train"]
        steps, batch = self.steps(case), self.nodes * case.batch_size
        # As in a simulation a round of the data goes on where the last one ended.
        rounds_of_data = -(-steps * batch // len(y))
        random = np.random.default_rng(seed)
        order = np.concatenate([random.permutation(len(y)) for _ in range(rounds_of_data)])
        order = order[: steps * batch]
        schedule = WarmUpAndDrop(steps)
        schedule.peak.assign(rate)
        trainer = Trainer(model, optimizers.LARS(schedule, MOMENTUM), LOSS)
        batches = tf.data.Dataset.from_tensor_slices(order).batch(batch)
        trainer.fit(batches.map(lambda each: (tf.gather(x, each), tf.gather(y, each))), verbose=0)
        return flat(model)[None], 0.0

    def _objective(self, part: str) -> Objective:
        """Returns the loss on a part of the data, traced once for all."""
        if part not in self._measures:
            model = self.network()
            self._measures[part] = Objective(
                model, self.parts[part], LOSS, batch_size=EVALUATION_BATCH
            )
        return self._measures[part]


def flat(model: keras.Model) -> np.ndarray:
    """Returns all weights as one vector, `(n,)`, in the order of `trainable_variables`."""
    return np.concatenate([v.numpy().ravel() for v in model.trainable_variables])
