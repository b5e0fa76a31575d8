"""The training loop."""

import functools
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_sharp.arguments import integer, optional_integer, positive
from keras_sharp.fingerprint import describe, describe_model
from keras_sharp.hashing import ArrayHash
from keras_sharp.training import preemption
from keras_sharp.training.callbacks import (
    needs_every_batch,
    needs_noise,
    of_worker,
)
from keras_sharp.training.communication import AllReduce
from keras_sharp.training.data import Batches, Examples
from keras_sharp.training.engine import Engine
from keras_sharp.training.epochs import Epochs
from keras_sharp.training.gradient import Plain
from keras_sharp.training.loop import StepsPerCall
from keras_sharp.training.own_weights import OwnWeights
from keras_sharp.training.record import Record
from keras_sharp.training.strategy import chain_of, choose_strategy
from keras_sharp.workers import Workers

History = keras.callbacks.History
Data = Any  # a tuple of arrays, a tf.data.Dataset or a keras.utils.PyDataset


def _watched(method: Callable) -> Callable:
    """Makes a method say what to do when another worker is gone."""

    @functools.wraps(method)
    def run(self: "Trainer", *args: Any, **kwargs: Any) -> Any:
        with self._workers.watched():
            return method(self, *args, **kwargs)

    return run


class Trainer:
    """Trains a Keras model on one device or many, with batches of any size.

    A step takes the gradient of the mean loss over the *global* batch, whatever it is split into:
    replicas, micro-batches or an uneven last batch. Clipping and everything else in the optimizer
    sees that gradient, so any number of replicas takes the same step up to rounding (without
    dropout, and with `BatchNormalization(synchronized=True)`). Moving statistics are averaged over
    replicas and micro-batches, and written once a step; each of these draws its own dropout masks.

    The model is compiled with optimizer, loss and metrics, so Keras callbacks find them there.

    Under `tf.distribute.MultiWorkerMirroredStrategy` every worker runs the same program on the same
    data, all of which it reads: the workers take their parts of each batch, so the batches are
    those of one process. If a worker dies or hangs, the others raise an error.

    Args:
        model: A Keras model. On several replicas it must be created inside `strategy.scope()`.
        optimizer: A Keras optimizer or its name.
        loss: Any form `compile(loss=...)` takes.
        metrics: Any form `compile(metrics=...)` takes.
        loss_weights: Any form `compile(loss_weights=...)` takes.
        weighted_metrics: Any form `compile(weighted_metrics=...)` takes.
        gradient: The gradient rule. Defaults to `Plain()`.
        communication: How replicas agree on a gradient. Defaults to `AllReduce()`.
        strategy: Defaults to the one whose scope is open, else to the model's own. Where there are
            several GPUs there must be one: Keras fixes a model's devices when it is created.
        micro_batch: Largest number of examples a replica processes at once: the memory a step needs
            does not grow with the batch beyond it. BatchNormalization then normalizes each
            micro-batch by itself. Defaults to no limit.
        jit_compile: Whether XLA compiles the step. `"auto"`: on one replica, where it pays.
        patience: Seconds to wait for another worker before it counts as hanging: more than one may
            need alone, as for a callback. None: wait for ever.

    Attributes:
        batch_losses: `(steps,)` float32, the losses of the batches of the last epoch, each at the
            weights before its step.
        is_chief: Whether this process is the first of the workers, or the only one.

    Raises:
        ValueError: If model, optimizer and strategy don't fit, or the model overrides what this
            loop does itself.

    Example:
    ```python
    trainer = keras_sharp.training.Trainer(model, "adam", "sparse_categorical_crossentropy")
    history = trainer.fit((x, y), batch_size=8192, epochs=10, checkpoint="training.npz")
    ```
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: Any,
        loss: Any,
        *,
        metrics: Any = None,
        loss_weights: Any = None,
        weighted_metrics: Any = None,
        gradient: Callable | None = None,
        communication: Callable | None = None,
        strategy: tf.distribute.Strategy | None = None,
        micro_batch: int | None = None,
        jit_compile: bool | str = "auto",
        patience: float | None = 45.0,
    ):
        if type(model).train_step is not keras.Model.train_step:
            raise ValueError(
                "`model` must not override `train_step`: this loop takes its own steps. Received: "
                f"{type(model).__name__}"
            )
        if type(model).compute_loss is not keras.Model.compute_loss:
            raise ValueError(
                "`model` must not override `compute_loss`: the loss given would not be used, and a "
                "loss of its own can't be split exactly over replicas and micro-batches. Write it "
                f"as `loss` and `add_loss`. Received: {type(model).__name__}"
            )
        self.strategy = choose_strategy(strategy, model)
        if jit_compile not in (True, False, "auto"):
            raise ValueError(
                '`jit_compile` must be True, False or "auto". '
                f"Received: jit_compile={jit_compile!r}"
            )
        if jit_compile is True and self.strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "`jit_compile` must not be True on several replicas. Received: strategy with "
                f"{self.strategy.num_replicas_in_sync} replicas"
            )
        patience = None if patience is None else positive("patience", patience)
        self._workers = Workers(self.strategy, patience)
        self.is_chief = self._workers.is_chief
        self.model = model
        self.batch_losses = np.zeros(0, np.float32)
        self._metrics = metrics, weighted_metrics
        self._gradient = Plain() if gradient is None else _part("gradient", gradient)
        self._communication = (
            AllReduce() if communication is None else _part("communication", communication)
        )
        self._micro_batch = optional_integer("micro_batch", micro_batch)
        compile_arguments = {
            "optimizer": optimizer,
            "loss": loss,
            "metrics": metrics,
            "loss_weights": loss_weights,
            "weighted_metrics": weighted_metrics,
        }
        self._engine = Engine(
            model,
            self.strategy,
            compile_arguments,
            self._gradient,
            self._communication,
            self._micro_batch,
            jit_compile,
        )
        self._epochs = Epochs(model, self._engine, self._communication, self._workers)
        self._settings = {
            "optimizer": describe(model.optimizer),
            "loss": describe(loss),
            "loss_weights": describe(loss_weights),
            "gradient": describe(self._gradient),
            "communication": describe(self._communication),
            "micro_batch": self._micro_batch,
        }

    @_watched
    def fit(
        self,
        data: Data,
        *,
        batch_size: int | Mapping[int, int] | None = None,
        epochs: int = 1,
        validation_data: Data | None = None,
        callbacks: list[keras.callbacks.Callback] | None = None,
        seed: int = 0,
        shuffle: bool = True,
        checkpoint: str | os.PathLike | None = None,
        verbose: int | str = "auto",
        steps_per_call: int | None = None,
    ) -> History:
        """Trains, or goes on with a training that was stopped.

        Steps run in the graph, about a second's worth in a call. A callback that overrides
        `on_train_batch_begin` or `on_train_batch_end` makes it one step in a call, which is slower.
        One with a method `on_train_steps_end(figures)` is told of every step and does not: it gets
        arrays `(steps,)` by name, `loss`, `size` and `learning_rate` among them.

        With `checkpoint`, the same call repeated after a stop, even a `kill -9`, goes on from the
        last finished epoch, and on one device ends with the same bits as if it had not stopped.
        Stored are the variables of model and optimizer (dropout seeds among them), the History, and
        the state of EarlyStopping, ReduceLROnPlateau, ModelCheckpoint, SwapEMAWeights and of
        callbacks, gradient rules, communications and schedules with methods `get_state()` and
        `set_state(state)`. Not stored is the state of other callbacks and of a pipeline: a
        `tf.data.Dataset` that shuffles starts again with its first epoch.

        Also with `checkpoint`, after a SIGTERM the running epoch is finished and saved before the
        process ends, by `SystemExit`. A second one ends it at once, if the call of the graph in
        which the first one came has returned; a worker that waits for another is ended by SIGKILL
        alone. A program that handles SIGTERM itself goes on doing so.

        Of several workers the chief alone reads and writes `checkpoint`, shows progress, and runs
        the callbacks of Keras that only write (ModelCheckpoint, TensorBoard, CSVLogger,
        RemoteMonitor) and those with an attribute `chief_only = True`. Others run on all workers,
        with the same logs. All workers stop where a callback of one of them, or a SIGTERM to one,
        says so.

        Args:
            data: `(x, y)` or `(x, y, sample_weight)` of arrays, or structures of arrays for several
                inputs or outputs; they are kept on every device. Or a `tf.data.Dataset` or
                `keras.utils.PyDataset` of global batches.
            batch_size: Examples in a global batch. `{0: 128, 60: 640}`: 128 at first, and 640 from
                epoch 60 on, counted from 0. None for a data set.
            epochs: Number of epochs, those before a stop included.
            validation_data: Evaluated after each epoch, in the same forms.
            callbacks: Keras callbacks.
            seed: Decides the order of the examples in every epoch.
            shuffle: Whether that order is random.
            checkpoint: File to write after each epoch, and to go on from if it exists.
            verbose: As in `keras.Model.fit`: 0, 1, 2 or `"auto"`.
            steps_per_call: Number of steps in a call of the graph. Changes no result.

        Returns:
            The History, of all epochs.

        Raises:
            ValueError: If data or settings are of no use, or the checkpoint is of another training.
            FloatingPointError: If the loss or, after an epoch, the weights are not finite; the
                checkpoint stays that of the epoch before.
            RuntimeError: If another worker has died, hangs or does something else.
            SystemExit: After a SIGTERM, once the epoch is saved.
        """
        epochs = integer("epochs", epochs)
        seed = integer("seed", seed, least=0)
        steps_per_call = optional_integer("steps_per_call", steps_per_call)
        source = self._source(data, batch_size)
        validation = None
        if validation_data is not None:
            largest = max(batch_size.values()) if isinstance(batch_size, Mapping) else batch_size
            validation = self._source(validation_data, largest, evaluation=True)
        arguments = [epochs, seed, bool(shuffle), steps_per_call, checkpoint is None]
        self._check_workers([source] if validation is None else [source, validation], arguments)
        callbacks = of_worker(callbacks, self._workers)
        noise = needs_noise(keras.tree.flatten(callbacks))
        self._engine.noise = self._workers.any("noise", noise)
        self._engine.build(source.example)
        chain = keras.callbacks.CallbackList(
            callbacks,
            add_history=True,
            add_progbar=verbose != 0 and self.is_chief,
            model=self.model,
            verbose=verbose,
            epochs=epochs,
            steps=source.steps,
        )
        if isinstance(self._communication, OwnWeights):
            self._communication.check_callbacks(chain.callbacks)
        settings = {}
        if checkpoint is not None:  # hashing the data takes its time
            settings = self._settings | source.describe() | {"seed": seed, "shuffle": shuffle}
            settings["validation"] = None if validation is None else validation.describe()
            settings["model"] = describe_model(self.model)
            settings["logs"] = sorted(self.model.get_metrics_result())
            if isinstance(self._communication, OwnWeights):
                settings["replicas"] = self.strategy.num_replicas_in_sync
        schedules = [getattr(o, "_learning_rate", None) for o in chain_of(self.model.optimizer)]
        parts = [self._gradient, self._communication, *schedules, *chain.callbacks]
        # Without patience: reading and writing a large file takes its time.
        record = Record(checkpoint, self.model, settings, parts, Workers(self.strategy))
        complete = record.is_complete(epochs)
        record.restore_variables(returned=complete)
        self.batch_losses = record.batch_losses
        if complete:
            record.restore_history()
            return self.model.history

        self.model.stop_training, self.model._initial_epoch = False, 0
        chain.on_train_begin()
        record.restore_history()
        record.restore_parts()
        every_batch = any(needs_every_batch(callback) for callback in chain.callbacks)
        every_batch = self._workers.any("every batch", every_batch)
        calls = StepsPerCall(1 if every_batch else steps_per_call)
        logs, last = record.last_logs(), epochs
        if record.stopped:  # killed before the callbacks were told of the end
            self.model.stop_training, last = True, record.epoch
        with self._engine.settled(), preemption.noticed(checkpoint is not None) as terminated:
            for epoch in range(record.epoch or self.model._initial_epoch or 0, last):
                self.model.reset_metrics()
                if (steps := source.steps_in(epoch)) != chain.params["steps"]:
                    chain.set_params(chain.params | {"steps": steps})
                chain.on_epoch_begin(epoch)
                source.begin(seed if shuffle else None, epoch)
                self.batch_losses, logs = self._epochs.train(source, epoch, calls, chain)
                of_nodes = self._epochs.evaluate_nodes(validation)
                with self._engine.consensus() as figures:
                    logs |= figures | of_nodes
                    if validation is not None:
                        results = self._epochs.evaluate(validation, chain)
                        logs |= {f"val_{name}": value for name, value in results.items()}
                    chain.on_epoch_end(epoch, logs)
                    stop = self._workers.any(f"epoch {epoch}", self.model.stop_training)
                    self.model.stop_training = stop
                    record.save(epoch + 1, self.batch_losses)
                if self._workers.any("termination", terminated()):
                    raise SystemExit(preemption.STATUS)
                if self.model.stop_training:
                    break
        # As in `fit`: an optimizer that averages the weights leaves the average in the model.
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
        chain.on_train_end(logs)
        self._workers.any("end", False)
        record.end()
        self._workers.any("return", False)  # nobody before the chief's callbacks have written
        return self.model.history

    @_watched
    def evaluate(
        self, data: Data, *, batch_size: int | None = None, verbose: int | str = 0
    ) -> dict[str, float]:
        """Returns the loss and the metrics, exact whatever the batch size.

        Args:
            data: As in `fit`.
            batch_size: Examples in a global batch. Defaults to 1000 for arrays.
            verbose: As in `keras.Model.evaluate`.

        Raises:
            ValueError: If data or settings are of no use, or the model overrides `test_step`.
        """
        source = self._source(data, batch_size, evaluation=True)
        self._check_workers([source], [])
        self._engine.build(source.example)
        chain = keras.callbacks.CallbackList(
            add_progbar=verbose != 0 and self.is_chief,
            model=self.model,
            verbose=verbose,
            epochs=1,
            steps=source.steps,
        )
        return self._epochs.evaluate(source, chain)

    def _check_workers(self, sources: list[Examples | Batches], arguments: list[Any]) -> None:
        def described():
            leaves = [keras.tree.flatten(source.example) for source in sources]
            first = [[ArrayHash(np.asarray(leaf)).hexdigest() for leaf in each] for each in leaves]
            given = [*arguments, self._settings, describe(self._metrics), first]
            given += [source.describe() for source in sources]
            given.append(describe_model(self.model))
            return json.dumps(given, default=lambda thing: type(thing).__name__)

        # Without patience: before they meet here the program may do what it likes on each.
        Workers(self.strategy).check_same(
            "Model, `data` and the other arguments",
            described,
            "Each worker reads all the data, and takes its own part of a batch. Give pipelines "
            "that shuffle a seed.",
        )

    def _source(
        self, data: Data, batch_size: int | None, evaluation: bool = False
    ) -> Examples | Batches:
        if evaluation and type(self.model).test_step is not keras.Model.test_step:
            raise ValueError(
                "`model` must not override `test_step` to be evaluated here: its own steps would "
                "not be taken. Leave out `validation_data`, or use `model.evaluate`. Received: "
                f"{type(self.model).__name__}"
            )
        if isinstance(data, tf.data.Dataset | keras.utils.PyDataset):
            if batch_size is not None and not evaluation:
                raise ValueError(
                    "`batch_size` must be left out for a data set, which makes its own batches. "
                    f"Received: batch_size={batch_size}"
                )
            return Batches(data)
        if evaluation:
            # The size of the batches is nothing but a matter of memory here.
            batch_size = optional_integer("batch_size", batch_size) or 1000
            if self._micro_batch is not None:
                capacity = self._micro_batch * self.strategy.num_replicas_in_sync
                batch_size = min(batch_size, capacity)
        return Examples(data, batch_size, self.strategy, at_most=evaluation)


def _part(name: str, part: Any) -> Callable:
    if isinstance(part, type) or not callable(part):
        raise ValueError(
            f"`{name}` must be an object that a step can call, as `SAM(rho=0.05)` or `DSGD(ring)` "
            f"make it: neither a class nor a name. Received: {name}={part!r}"
        )
    return part
