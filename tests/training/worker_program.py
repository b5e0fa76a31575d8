"""Trains, evaluates and measures a small net: alone, or as one of the workers in TF_CONFIG.

    python worker_program.py FOLDER [ACTION]

An ACTION befalls worker 1 within an epoch: "terminate", "kill" or "stop". Or it is "disagree": the
workers try what they must not.
"""

import json
import os
import pathlib
import signal
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_sharp
from keras_sharp.training import Trainer, checkpoint

EPOCHS = 5
SIGNALS = {"terminate": signal.SIGTERM, "kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class Befall(keras.callbacks.Callback):
    """Sends this process a signal before the first step of its second epoch."""

    every_batch = False

    def __init__(self, number):
        super().__init__()
        self.number, self.epochs = number, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs += 1

    def on_train_batch_begin(self, batch, logs=None):
        if self.epochs == 2 and batch == 0:
            os.kill(os.getpid(), self.number)


class Writes(keras.callbacks.Callback):
    """Says that an epoch has ended, where `chief_only` lets it."""

    chief_only = True

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_epoch_end(self, epoch, logs=None):
        with open(self.folder / "epochs.txt", "a") as file:
            file.write(f"{epoch} ")


def prepare(strategy, seed=0):
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
    return Trainer(model, optimizer, loss, metrics=["accuracy"]), data


def train(folder, strategy, callbacks=(), **options):
    """Returns the History, and figures that all workers must agree on."""
    trainer, data = prepare(strategy)
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
        **options,
    ).history
    pipeline = tf.data.Dataset.from_tensor_slices(data).batch(50)
    evaluated = trainer.evaluate(pipeline)
    # Three batches, the last of them smaller.
    objective = keras_sharp.Objective(model, data, batch_size=50)
    value, gradient = objective.value_and_gradient()
    sharpness = keras_sharp.sharpness(model, data, batch_size=50)
    cache = folder / f"cache of {who}"
    surface = keras_sharp.landscape.surface(model, data, dimensions=1, points=3, cache=cache)
    figures = {
        "variables": np.concatenate([v.numpy().ravel() for v in model.weights]),
        "evaluated": [evaluated["loss"], evaluated["accuracy"]],
        "value": value,
        "gradient": gradient,
        "outputs": objective.predict(),
        "sharpness": float(sharpness),
        "surface": surface.loss,
    }
    return {**{f"history {name}": each for name, each in history.items()}, **figures}


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
    return {"raised": raised, "epochs": epochs, "value": objective.value()}


def main():
    folder, *action = sys.argv[1:]
    folder = pathlib.Path(folder)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    index = strategy.cluster_resolver.task_id
    if action == ["disagree"]:
        result = disagree(folder, strategy, index == 1)
        (folder / f"worker {index}.json").write_text(json.dumps(result))
        return
    befall = [Befall(SIGNALS[action[0]])] if action and index == 1 else []
    np.savez(folder / f"worker {index}.npz", **train(folder, strategy, befall))


if __name__ == "__main__":
    main()
