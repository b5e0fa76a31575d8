"""Trains, evaluates and measures a small net: alone, or as one of the workers in TF_CONFIG.

    python worker_program.py FOLDER [ACTION [INDEX]]

An ACTION befalls the worker with that index within an epoch: "terminate", "kill" or "hang". Or it
is "disagree": the workers try what they must not.
"""

import json
import os
import pathlib
import signal
import sys
import time

import keras
import numpy as np
import tensorflow as tf

import keras_sharp
from keras_sharp.training import Trainer, checkpoint

EPOCHS = 5
PATIENCE = 8.0
ACTIONS = {
    "terminate": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda: time.sleep(600),
}
MEASURES = [
    ("sharpness", {"max_iterations": 2}),
    "noise_scale",
    ("hessian_eigenvalues", {"k": 1}),
    ("hessian_trace", {"probes": 10}),
    ("hessian_density", {"probes": 1, "steps": 3}),
    ("worst_case_sharpness", {"iterations": 2, "m": None}),
    ("average_case_sharpness", {"samples": 2, "m": None}),
]


class Befall(keras.callbacks.Callback):
    """Does something before the first step of the second epoch."""

    every_batch = False

    def __init__(self, action):
        super().__init__()
        self.action, self.epochs = action, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs += 1

    def on_train_batch_begin(self, batch, logs=None):
        if self.epochs == 2 and batch == 0:
            self.action()


class FailsOnOne(keras.callbacks.Callback):
    """Raises an error on one worker alone."""

    every_batch = False

    def __init__(self, odd):
        super().__init__()
        self.odd = odd

    def on_epoch_end(self, epoch, logs=None):
        if self.odd:
            raise KeyError("a mistake on one worker")


class Writes(keras.callbacks.Callback):
    """Says that an epoch has ended, where `chief_only` lets it."""

    chief_only = True

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_epoch_end(self, epoch, logs=None):
        with open(self.folder / "epochs.txt", "a") as file:
            file.write(f"{epoch} ")


def prepare(strategy, seed=0, **options):
    """Returns a trainer and data."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(130, 10)).astype("float32")  # four batches of 32 and one of 2
    data = x, np.argmax(x[:, :3], axis=1)
    with strategy.scope():
        hidden = [
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(synchronized=True, epsilon=0.1),
            keras.layers.Activation("tanh"),
        ]
        model = keras.Sequential([keras.Input((10,)), *hidden, keras.layers.Dense(3)])
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return Trainer(model, optimizer, loss, metrics=["accuracy"], **options), data


def train(folder, strategy, callbacks=(), **options):
    """Returns the History, and figures that all workers must agree on."""
    trainer, data = prepare(strategy, **options)
    model = trainer.model
    who = "chief" if trainer.is_chief else "other"
    saves = keras.callbacks.ModelCheckpoint(folder / f"{who}.keras")
    history = trainer.fit(
        data,
        batch_size=32,
        epochs=EPOCHS,
        validation_data=data,
        checkpoint=folder / "training.npz",
        callbacks=[Writes(folder), saves, *callbacks],
        verbose=0,
    ).history
    trained = {f"history {name}": each for name, each in history.items()}
    trained["variables"] = np.concatenate([v.numpy().ravel() for v in model.weights])
    examples = tf.data.Dataset.from_tensor_slices(data)
    shuffled = examples.shuffle(130, seed=1).batch(32)
    options = {"epochs": 2, "validation_data": examples.batch(50), "verbose": 0}
    history = trainer.fit(shuffled, **options).history
    trained |= {f"pipeline history {name}": each for name, each in history.items()}
    trained["pipeline variables"] = np.concatenate([v.numpy().ravel() for v in model.weights])

    # At the same weights everywhere, whatever rounding did to the trained ones.
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(0.1, 1, w.shape) for w in model.get_weights()])
    # Three batches, the last of them smaller.
    objective = keras_sharp.Objective(model, data, batch_size=50)
    value, gradient = objective.value_and_gradient()
    cache = folder / f"cache of {who}"
    surface = keras_sharp.landscape.surface(objective, dimensions=1, points=3, cache=cache)
    measured = {
        "value": value,
        "gradient": gradient,
        "outputs": objective.predict(),
        "statistics": objective.estimate_statistics(),
        "surface": surface.loss,
    }
    report = keras_sharp.measure(objective, measures=MEASURES, verbose=0)
    assert not report.failures, report.failures
    for label, result in report.results.items():
        for name in ("value", "rises", "samples", "eigenvalues", "nodes"):
            if hasattr(result, name):
                measured[f"{label} {name}"] = getattr(result, name)
    return trained | {f"measured {name}": each for name, each in measured.items()}


def disagree(folder, strategy, odd):
    """Returns what is raised where the odd worker differs, and how the others end after it."""
    # Whatever the seed, all begin with the weights of the chief.
    trainer, (x, y) = prepare(strategy, seed=int(odd))
    model, raised = trainer.model, []

    def attempt(function, *args, **options):
        try:
            function(*args, **options)
        except Exception as error:
            raised.append(f"{type(error).__name__}: {error}")
        else:
            raised.append("nothing")

    def fit(data=(x, y), **options):
        return trainer.fit(data, batch_size=65, verbose=0, **options)

    def stop(epoch, logs=None):
        model.stop_training = odd

    def fail(*_):
        raise OSError("disk full")

    other = x.copy()
    other[-1, -1] += odd
    attempt(fit, (other, y))
    bias = model.layers[0].bias
    bias.assign(bias + float(odd))
    attempt(fit)
    bias.assign(bias - float(odd))
    callback = keras.callbacks.LambdaCallback(on_epoch_end=stop)
    epochs = fit(epochs=3, callbacks=[callback]).epoch
    if not odd:
        checkpoint.save = fail
    attempt(fit, checkpoint=folder / "training.npz")
    attempt(keras_sharp.Objective, model, (x, y), batch_size=50 + odd)
    objective = keras_sharp.Objective(model, (x, y), batch_size=50)
    attempt(objective.value, objective.weights + odd)
    measures = "hessian_eigenvalues" if odd else "sharpness"
    attempt(keras_sharp.measure, objective, measures=measures, verbose=0)
    cache = folder / "never" if odd else __file__
    surface = keras_sharp.landscape.surface
    attempt(surface, objective, dimensions=1, points=3, cache=cache, verbose=0)
    return {"raised": raised, "epochs": epochs, "value": objective.value()}, fit


def main():
    folder, *action = sys.argv[1:]
    folder = pathlib.Path(folder)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    index = strategy.cluster_resolver.task_id
    if action == ["disagree"]:
        result, fit = disagree(folder, strategy, index == 1)
        (folder / f"worker {index}.json").write_text(json.dumps(result))
        fit(callbacks=[FailsOnOne(index == 1)])
        return
    befall = [Befall(ACTIONS[action[0]])] if action and index == int(action[1]) else []
    options = {"patience": PATIENCE} if action == ["hang", "1"] else {}
    np.savez(folder / f"worker {index}.npz", **train(folder, strategy, befall, **options))


if __name__ == "__main__":
    main()
