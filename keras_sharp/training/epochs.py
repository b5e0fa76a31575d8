"""One pass over the data, in calls of the graph, of which callbacks are told."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_sharp.training.callbacks import tell_of_steps
from keras_sharp.training.data import Batches, Examples
from keras_sharp.training.divergence import (
    check_losses,
    check_weights,
    skipped_steps_reported,
)
from keras_sharp.training.engine import Engine
from keras_sharp.training.loop import Loop, StepsPerCall
from keras_sharp.training.own_weights import OwnWeights
from keras_sharp.training.step import LOSS, SIZE, TERMS
from keras_sharp.workers import Workers


class Epochs:
    """Takes the steps of an epoch, or evaluates.

    Args:
        model: A Keras model.
        engine: Its graphs.
        communication: How replicas agree.
        workers: The processes that do it together.
    """

    def __init__(
        self, model: keras.Model, engine: Engine, communication: Callable, workers: Workers
    ):
        self._model = model
        self._engine = engine
        self._communication = communication
        self._workers = workers

    def train(
        self,
        source: Examples | Batches,
        epoch: int,
        calls: StepsPerCall,
        chain: keras.callbacks.CallbackList,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Takes the steps of an epoch.

        Args:
            source: The data.
            epoch: Its number, from 0.
            calls: How many steps a call of the graph takes.
            chain: The callbacks.

        Returns:
            The losses of its batches, `(steps,)`, and its logs.

        Raises:
            FloatingPointError: If a loss or the weights after the last step are not finite.
        """
        loop = self._engine.training
        step = loop.step
        losses, logs, examples, sums = [], {}, 0.0, np.zeros(step.columns)
        with skipped_steps_reported(self._model.optimizer):
            for first, rows in self._calls(source, loop, calls, chain.on_train_batch_begin):
                check_losses(rows, epoch, first)
                losses.append(rows[:, LOSS])
                sizes = rows[:, SIZE].astype(np.float64)
                examples, sums = examples + sizes.sum(), sums + sizes @ rows
                means = sums / examples
                terms = dict(zip(step.names, means[TERMS:], strict=True))
                logs = self._logs(means[LOSS], terms)
                tell_of_steps(chain.callbacks, rows)
                chain.on_train_batch_end(first + len(rows) - 1, logs)
                if self._workers.any(f"epoch {epoch}, batch {first}", self._model.stop_training):
                    self._model.stop_training = True
                    break
        # The loss of a step is that before it: of the last one the weights alone tell.
        check_weights(bool(step.all_finite()), rows[-1], epoch, first + len(rows))
        return np.concatenate(losses), logs

    def evaluate(
        self, source: Examples | Batches, chain: keras.callbacks.CallbackList
    ) -> dict[str, Any]:
        """Returns the loss and the metrics of the model as it is."""
        self._model.reset_metrics()
        chain.on_test_begin()
        source.begin()
        loop, calls, seen, logs = self._engine.evaluation, StepsPerCall(None), [], {}
        for first, rows in self._calls(source, loop, calls, chain.on_test_batch_begin):
            seen.append(rows)
            logs = self._logs(*loop.step.losses(np.concatenate(seen)))
            chain.on_test_batch_end(first + len(rows) - 1, logs)
        loop.step.check(np.concatenate(seen))
        chain.on_test_end(logs)
        return logs

    def evaluate_nodes(self, validation: Examples | Batches | None) -> dict[str, Any]:
        """Returns the means of what replicas that differ have, each on all the data."""
        if validation is None or not isinstance(self._communication, OwnWeights):
            return {}
        silent = keras.callbacks.CallbackList(model=self._model)
        with contextlib.closing(self._communication.nodes()) as nodes:
            results = [self.evaluate(validation, silent) for _ in nodes]
        means = {name: np.mean([each[name] for each in results], axis=0) for name in results[0]}
        return {f"val_mean_of_nodes_{name}": _plain(value) for name, value in means.items()}

    def _calls(
        self, source: Examples | Batches, loop: Loop, calls: StepsPerCall, begin: Callable
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields, for each call of the graph, the number of batches before it and its rows."""
        done = 0
        while source.steps is None or done < source.steps:
            begin(done)
            # The workers agree on a number of steps: that of the slowest. And one that does not
            # come is missed here, before the others are in a graph, where they wait for longer.
            calls.count = count = min(self._workers.gather(f"batch {done}", calls.count))
            started = time.perf_counter()
            with self._workers.waiting(f"batch {done}", 10 * loop.longest):
                rows = source.run(loop, count)
            seconds = time.perf_counter() - started
            loop.took(seconds)
            calls.took(len(rows), seconds)
            if rows[:, loop.step.bad_labels].any():
                last = done + len(rows)
                where = f"batch {last}" if len(rows) == 1 else f"batches {done + 1} to {last}"
                shape = getattr(self._model, "output_shape", None)  # a subclass does not know
                raise ValueError(
                    "Labels must be integers between 0 and the number of classes - 1, those of a "
                    f"binary loss between 0 and 1. Received: {source.labels}, in {where}"
                    + (f"; outputs of shape {shape}" if shape else "")
                )
            if len(rows):
                yield done, rows
            done += len(rows)
            if source.steps is None and len(rows) < count:
                break
        if done == 0:
            raise ValueError("`data` must not be empty. Received: an epoch without batches")

    def _logs(self, loss: float, terms: dict[str, float]) -> dict[str, Any]:
        logs = {"loss": float(loss)}
        outputs = {name: value for name, value in terms.items() if name != "penalties"}
        if len(outputs) > 1:
            logs |= {f"{name}_loss": float(value) for name, value in outputs.items()}
        # The model's own loss trackers are not updated; the figures above take their places.
        results = {name: _plain(v) for name, v in self._model.get_metrics_result().items()}
        return logs | {name: v for name, v in results.items() if name not in logs}


def _plain(value: Any) -> float | int | np.ndarray:
    """Returns a scalar as a number of Python, and other arrays as they are."""
    value = np.asarray(value)
    return value.item() if value.ndim == 0 else value
