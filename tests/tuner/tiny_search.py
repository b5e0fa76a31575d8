"""A search small enough to be run for real, by processes that import this module or run it.

python tiny_search.py FOLDER     # TINY_SECONDS: how long each model takes to be built
"""

import multiprocessing
import os
import pathlib
import sys
import time

import keras
import numpy as np
import tensorflow as tf

from keras_sharp import tuner


def build(hp):
    if "TINY_PIDS" in os.environ and "batch_size" in hp and hp.get("batch_size") == 16:
        worker = multiprocessing.parent_process()
        (pathlib.Path(os.environ["TINY_PIDS"]) / "trains 16").write_text(str(worker.pid))
    time.sleep(float(os.environ.get("TINY_SECONDS", 0)))
    model = keras.Sequential(
        [
            keras.Input((4,)),
            # Not of the type of the others: a chief that hands out the space sorts it by type.
            keras.layers.Dense(hp.Int("width", 6, 6), "relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3),
        ]
    )
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def two_cpus():
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def data():
    random = np.random.default_rng(0)
    pairs = []
    for examples in (50, 30):
        x = random.normal(size=(examples, 4)).astype("float32")
        pairs.append((x, np.argmax(x[:, :3], axis=1).astype("int32")))
    return tuple(pairs)


ARGUMENTS = {
    "build": build,
    "data": data,
    "epochs": 3,
    "seeds": 2,
    "base_batch_size": 8,
    "batch_sizes": [16],
    "learning_rates": [0.1],
    "sharpness": False,
    "max_gap": 1.0,
}

if __name__ == "__main__":
    if "TINY_PIDS" in os.environ:
        file = pathlib.Path(os.environ["TINY_PIDS"]) / os.environ["KERASTUNER_TUNER_ID"]
        file.write_text(str(os.getpid()))
    found = tuner.search(folder=sys.argv[1], strategy=two_cpus, **ARGUMENTS)
    if found is not None:
        assert found.batch_size == 16
    two_cpus()  # an error if a device was in use before: those who train need them
