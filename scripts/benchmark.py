"""What keras-sharp costs, as ratios to its floor, each measured side by side in one run.

    python scripts/benchmark.py                      everything, about 15 minutes on two cores
    python scripts/benchmark.py --only sharpness     one table

Machines are noisy: every figure is the median of several rounds in which the contenders take turns.
The images are random numbers in the shape of the data named; how long a step takes does not depend
on what they show.
"""

import argparse
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import rich.console
import rich.table
import tensorflow as tf

import keras_sharp
from keras_sharp.networks import NETWORKS
from keras_sharp.training import Trainer

ROUNDS = 5
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SHAPES = {"digits": (64,), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}

console = rich.console.Console()


def images(shape: tuple[int, ...], count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.random((count, *shape), "float32"), random.integers(0, 10, count).astype("int32")


# --------------------------------------------------------------------------------------------------
# Training: images per second of the Trainer over those of a bare loop
# --------------------------------------------------------------------------------------------------

# network, data, batch size, batches an epoch
TRAINING = [
    ("F1", "digits", 32, 45),
    ("F1", "mnist", 256, 40),
    ("C1", "cifar10", 256, 8),
    ("C1", "cifar10", 5000, 1),
]


def compiled(network: str, shape: tuple[int, ...]) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = NETWORKS[network].build(shape, 10)
    model.compile(keras.optimizers.Adam(), LOSS)
    return model


def bare_epoch(model: keras.Model, x, y, batch_size: int, jit_compile: bool) -> Callable[[], None]:
    """The loop one writes by hand: a compiled step, called from Python on tensors in memory."""
    variables = [variable.value for variable in model.trainable_variables]
    model.optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=jit_compile)
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x, training=True))
        model.optimizer.apply(tape.gradient(loss, variables), model.trainable_variables)
        return loss

    x, y = tf.constant(x), tf.constant(y)

    def epoch():
        order = np.random.permutation(len(x))
        for start in range(0, len(x), batch_size):
            chosen = order[start : start + batch_size]
            loss = step(tf.gather(x, chosen), tf.gather(y, chosen))
        loss.numpy()

    return epoch


class Stopwatch(keras.callbacks.Callback):
    """Seconds of every epoch."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.began)


def seconds_of(action: Callable[[], None]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def training() -> rich.table.Table:
    table = rich.table.Table(
        title="Training, images/s (ratio to the faster bare loop; goal for Trainer: >= 1)"
    )
    for head in ("network", "data", "batch", "bare loop", "bare, jitted", "Trainer", "Model.fit"):
        table.add_column(head, justify="right")
    for network, data, batch_size, batches in TRAINING:
        x, y = images(SHAPES[data], batch_size * batches)
        watch = Stopwatch()
        bare = bare_epoch(compiled(network, x.shape[1:]), x, y, batch_size, False)
        jitted = bare_epoch(compiled(network, x.shape[1:]), x, y, batch_size, True)
        fitted = compiled(network, x.shape[1:])
        trainer = Trainer(NETWORKS[network].build(x.shape[1:], 10), keras.optimizers.Adam(), LOSS)

        def trainer_epoch(trainer=trainer, x=x, y=y, batch_size=batch_size, watch=watch):
            trainer.fit((x, y), batch_size=batch_size, epochs=2, callbacks=[watch], verbose=0)
            return watch.seconds[-1]

        def fit_epoch(fitted=fitted, x=x, y=y, batch_size=batch_size, watch=watch):
            fitted.fit(x, y, batch_size=batch_size, epochs=2, callbacks=[watch], verbose=0)
            return watch.seconds[-1]

        contenders = {
            "bare": lambda bare=bare: seconds_of(bare),
            "jitted": lambda jitted=jitted: seconds_of(jitted),
            "trainer": trainer_epoch,
            "fit": fit_epoch,
        }
        for warm_up in contenders.values():
            warm_up()
        rounds = [{name: run() for name, run in contenders.items()} for _ in range(ROUNDS)]
        cells = []
        for name in contenders:
            rate = np.median([len(x) / each[name] for each in rounds])
            ratio = np.median([min(each["bare"], each["jitted"]) / each[name] for each in rounds])
            cells.append(f"{rate:,.0f} ({ratio:.2f})")
        table.add_row(network, data, str(batch_size), *cells)
        console.print(f"{network}, {data}, batch {batch_size}: {cells}")
    return table


# --------------------------------------------------------------------------------------------------
# Sharpness: seconds over those of its gradient passes
# --------------------------------------------------------------------------------------------------


def plain_gradient_pass(model: keras.Model, x, y, batch_size: int) -> Callable[[], None]:
    """One pass over the data that computes a gradient and nothing else."""
    variables = [variable.value for variable in model.trainable_variables]

    @tf.function
    def gradient(x, y):
        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x, training=False))
        return tape.gradient(loss, variables)

    parts = [
        (tf.constant(x[start : start + batch_size]), tf.constant(y[start : start + batch_size]))
        for start in range(0, len(x), batch_size)
    ]

    def run():
        for part in parts:
            result = gradient(*part)
        result[-1].numpy()

    return run


def sharpness() -> rich.table.Table:
    table = rich.table.Table(title="Sharpness, seconds over its gradient passes (goal: <= 1.35)")
    for head in ("measure", "network, data", "passes", "seconds", "one pass", "ratio"):
        table.add_column(head, justify="right")
    x, y = images(SHAPES["mnist"], 60_000)
    model = compiled("F1", x.shape[1:])
    model.fit(x, y, batch_size=256, epochs=1, verbose=0)
    one_pass = plain_gradient_pass(model, x, y, 1000)
    objective = keras_sharp.Objective(model, (x, y))
    objective.value_and_gradient()  # traced
    one_pass()
    cases = {
        "full space": {},
        "full space, sign ascent": {"solver": "sign-ascent"},
        "subspace of 100": {"subspace_dim": 100},
    }
    for name, arguments in cases.items():
        ratios, seconds, passes = [], [], []
        for _ in range(3):
            before = seconds_of(one_pass)
            result = keras_sharp.epsilon_sharpness(objective, verbose=0, **arguments)
            floor = (before + seconds_of(one_pass)) / 2
            ratios.append(result.seconds / (floor * result.evaluations))
            seconds.append(result.seconds)
            passes.append(floor)
        table.add_row(
            name,
            "F1, mnist (60,000)",
            str(result.evaluations),
            f"{np.median(seconds):.1f}",
            f"{np.median(passes):.2f}",
            f"{np.median(ratios):.2f}",
        )
    return table


# --------------------------------------------------------------------------------------------------
# Memory: the peak of a training process with micro-batches, by batch size
# --------------------------------------------------------------------------------------------------

MEMORY_EXAMPLES, MICRO_BATCH = 8000, 250


def train_and_print_peak(batch_size: int, micro_batch: int | None) -> None:
    x, y = images(SHAPES["cifar10"], MEMORY_EXAMPLES)
    model = NETWORKS["C1"].build(x.shape[1:], 10)
    trainer = Trainer(model, keras.optimizers.Adam(), LOSS, micro_batch=micro_batch)
    trainer.fit((x, y), batch_size=batch_size, epochs=1, verbose=0)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def memory() -> rich.table.Table:
    table = rich.table.Table(
        title=f"Peak memory of training C1 on {MEMORY_EXAMPLES:,} CIFAR-10-sized images"
    )
    for head in ("batch", f"micro_batch={MICRO_BATCH}", "whole batches"):
        table.add_column(head, justify="right")
    for batch_size in (500, 2000, 8000):
        peaks = []
        for micro_batch in (MICRO_BATCH, 0):
            command = [sys.executable, __file__, "--peak", str(batch_size), str(micro_batch)]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            peaks.append(f"{int(output.split()[-1]) / 2**20:.2f} GiB")
        table.add_row(f"{batch_size:,}", *peaks)
        console.print(f"memory, batch {batch_size}: {peaks}")
    return table


TABLES = {"training": training, "sharpness": sharpness, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--output", type=pathlib.Path, help="also write the tables to this file")
    parser.add_argument("--peak", nargs=2, type=int, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.peak:
        batch_size, micro_batch = settings.peak
        train_and_print_peak(batch_size, micro_batch or None)
        return
    tables = [TABLES[name]() for name in settings.only]
    recorder = rich.console.Console(record=True, width=110)
    for table in tables:
        recorder.print(table)
    recorder.print(
        f"Medians of rounds; {os.cpu_count()} cores, {platform.machine()}; TensorFlow "
        f"{tf.__version__}, Keras {keras.__version__}, keras-sharp {keras_sharp.__version__}"
    )
    if settings.output:
        settings.output.write_text(recorder.export_text())


if __name__ == "__main__":
    main()
