"""What keras-sharp costs, as ratios to its floor, each measured side by side in one run.

    python scripts/benchmark.py                      everything
    python scripts/benchmark.py --only sharpness     one of training, sharpness, curvature, memory
    python scripts/benchmark.py --smoke              tiny sizes, to see that it runs

Machines are noisy: every figure is the median of several rounds in which the contenders take turns.
The images are random numbers in the shape of the data named; how long a step takes does not depend
on what they show. What does not fit into the memory that is free is left out, and says so.
"""

import argparse
import functools
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import rich.console
import rich.table
import tensorflow as tf
from keras import layers

import keras_sharp
from keras_sharp.networks import NETWORKS
from keras_sharp.training import Trainer

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SHAPES = {"digits": (64,), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}

console = rich.console.Console()


# --------------------------------------------------------------------------------------------------
# How much is measured
# --------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A training that is timed; `gigabytes` is what it takes, roughly."""

    network: str
    data: str
    batch_size: int
    batches: int
    gigabytes: float = 0


class Sizes(NamedTuple):
    """How much is measured.

    Attributes:
        rounds: Rounds of training; of sharpness and memory a round or two less.
        training: What is trained.
        examples: Training examples whose sharpness is measured.
        iterations: Of the solver.
        memory: What is trained to see its peak memory: one epoch of one batch.
        micro_batch: The bound of that memory.
        batch_sizes: Sizes of the batches that memory must not grow with.
        curvature: Whose products are timed: as many batches are one pass over the data.
        steps: Of Lanczos, for the density.
        eigenpairs: Numbers of images that memory must not grow with, in batches of `micro_batch`.
    """

    rounds: int
    training: tuple[Case, ...]
    examples: int
    iterations: int
    memory: Case
    micro_batch: int
    batch_sizes: tuple[int, ...]
    curvature: tuple[Case, ...]
    steps: int
    eigenpairs: tuple[int, ...]


FULL = Sizes(
    rounds=5,
    training=(
        Case("F1", "digits", 32, 45),
        Case("F1", "mnist", 256, 40),
        Case("C1", "cifar10", 256, 8, 2),
        Case("C1", "cifar10", 5000, 1, 12),
    ),
    examples=60_000,
    iterations=10,
    memory=Case("C1", "cifar10", 8000, 1, 18),
    micro_batch=250,
    batch_sizes=(500, 2000, 8000),
    curvature=(Case("F1", "mnist", 1000, 5, 1), Case("C1", "cifar10", 1000, 1, 5)),
    steps=80,
    eigenpairs=(2000, 10_000),
)
SMOKE = Sizes(
    rounds=1,
    training=(Case("F1", "digits", 32, 2), Case("C1", "cifar10", 5000, 1, 1e6)),
    examples=200,
    iterations=1,
    memory=Case("F1", "digits", 64, 1),
    micro_batch=16,
    batch_sizes=(64,),
    curvature=(Case("F1", "digits", 16, 2),),
    steps=3,
    eigenpairs=(16,),
)


def short_of_memory(gigabytes: float) -> str | None:
    """Returns why something cannot be measured here, or None if memory seems to be enough."""
    meminfo = pathlib.Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) / 2**20
    if free >= gigabytes:
        return None
    return f"left out: needs about {gigabytes:,.0f} GiB, {free:.1f} GiB are free"


def images(data: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.random((count, *SHAPES[data]), "float32")
    return x, random.integers(0, 10, count).astype("int32")


def seconds_of(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


# --------------------------------------------------------------------------------------------------
# Training: images per second of the Trainer over those of a bare loop
# --------------------------------------------------------------------------------------------------


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


def second_epoch(fit: Callable[..., object], *data, batch_size: int) -> Callable[[], float]:
    """An action that trains two epochs and returns the seconds of the second, which is traced."""
    watch = Stopwatch()

    def run() -> float:
        fit(*data, batch_size=batch_size, epochs=2, callbacks=[watch], verbose=0)
        return watch.seconds[-1]

    return run


def training(sizes: Sizes) -> rich.table.Table:
    table = rich.table.Table(
        title="Training, images/s (ratio to the faster bare loop; goal for Trainer: >= 1)"
    )
    for head in ("network", "data", "batch", "bare loop", "bare, jitted", "Trainer", "Model.fit"):
        table.add_column(head, justify="right")
    for network, data, batch_size, batches, gigabytes in sizes.training:
        reason = short_of_memory(gigabytes)
        if reason:
            table.add_row(network, data, str(batch_size), reason, *["-"] * 3)
            console.print(f"{network}, {data}, batch {batch_size}: {reason}")
            continue
        x, y = images(data, batch_size * batches)
        bare = bare_epoch(compiled(network, x.shape[1:]), x, y, batch_size, False)
        jitted = bare_epoch(compiled(network, x.shape[1:]), x, y, batch_size, True)
        fitted = compiled(network, x.shape[1:])
        trainer = Trainer(NETWORKS[network].build(x.shape[1:], 10), keras.optimizers.Adam(), LOSS)
        contenders = {
            "bare": lambda bare=bare: seconds_of(bare),
            "jitted": lambda jitted=jitted: seconds_of(jitted),
            "trainer": second_epoch(trainer.fit, (x, y), batch_size=batch_size),
            "fit": second_epoch(fitted.fit, x, y, batch_size=batch_size),
        }
        for warm_up in contenders.values():
            warm_up()
        rounds = [{name: run() for name, run in contenders.items()} for _ in range(sizes.rounds)]
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


def sharpness(sizes: Sizes) -> rich.table.Table:
    table = rich.table.Table(title="Sharpness, seconds over its gradient passes (goal: <= 1.35)")
    for head in ("measure", "network, data", "passes", "seconds", "one pass", "ratio"):
        table.add_column(head, justify="right")
    x, y = images("mnist", sizes.examples)
    model = compiled("F1", x.shape[1:])
    model.fit(x, y, batch_size=256, epochs=1, verbose=0)
    one_pass = plain_gradient_pass(model, x, y, 1000)
    objective = keras_sharp.Objective(model, (x, y))
    objective.value_and_gradient()  # traced
    one_pass()
    search = {"max_iterations": sizes.iterations, "verbose": 0}
    traced = functools.partial(keras_sharp.sharpness, objective, **search)
    contenders = {
        "sharpness(model, data), tracing and all": lambda: keras_sharp.sharpness(
            model, (x, y), **search
        ),
        "full space, traced": traced,
        "full space, sign ascent, traced": functools.partial(traced, solver="sign-ascent"),
        "subspace of 100, traced": functools.partial(traced, subspace_dim=100),
    }
    rounds: dict[str, list[tuple[float, float, int]]] = {name: [] for name in contenders}
    for _ in range(max(1, sizes.rounds - 2)):
        for name, measure in contenders.items():
            before = seconds_of(one_pass)
            began = time.perf_counter()
            passes = measure().evaluations
            seconds = time.perf_counter() - began
            floor = (before + seconds_of(one_pass)) / 2
            rounds[name].append((seconds, floor, passes))
            console.print(f"{name}: {passes} passes, {seconds:.2f} s; one pass {floor:.3f} s")
    for name, runs in rounds.items():
        seconds, floor, passes = np.median(runs, axis=0)
        ratio = np.median([run[0] / (run[1] * run[2]) for run in runs])
        cells = [f"{passes:.0f}", f"{seconds:.1f}", f"{floor:.2f}", f"{ratio:.2f}"]
        table.add_row(name, f"F1, mnist ({len(x):,})", *cells)
    return table


# --------------------------------------------------------------------------------------------------
# Curvature: seconds of a Hessian-vector product, and of Lanczos beyond its products
# --------------------------------------------------------------------------------------------------


class Timed(keras_sharp.Objective):
    """An objective that adds up the seconds of its Hessian-vector products."""

    seconds = 0.0

    def hessian_vector_product(self, vector, weights=None):
        began = time.perf_counter()
        product = super().hessian_vector_product(vector, weights)
        self.seconds += time.perf_counter() - began
        return product


def beyond_products(objective: Timed, measure: Callable[..., object]) -> tuple[int, float]:
    """Returns how many products a measure takes, and its other seconds as a share of theirs."""
    objective.seconds = 0.0
    began = time.perf_counter()
    products = measure(objective, verbose=0).products
    seconds = time.perf_counter() - began
    return products, seconds / objective.seconds - 1


def curvature(sizes: Sizes) -> rich.table.Table:
    table = rich.table.Table(
        title="Curvature: a Hessian-vector product over a gradient (goal: <= 3), and what Lanczos "
        "takes beyond its products (goal: <= 10 %)"
    )
    for head in ("network, data", "gradient, s", "product, s", "ratio", "eigenvalues", "density"):
        table.add_column(head, justify="right")
    largest = functools.partial(keras_sharp.hessian_eigenvalues, k=1)
    density = functools.partial(keras_sharp.hessian_density, probes=1, steps=sizes.steps)
    for network, data, batch_size, batches, gigabytes in sizes.curvature:
        x, y = images(data, batch_size * batches)
        name = f"{network}, {data} ({len(x):,})"
        reason = short_of_memory(gigabytes)
        if reason:
            table.add_row(name, reason, *["-"] * 4)
            console.print(f"{name}: {reason}")
            continue
        model = compiled(network, x.shape[1:])
        one_pass = plain_gradient_pass(model, x, y, batch_size)
        objective = Timed(model, (x, y), batch_size=batch_size)
        vector = np.random.default_rng(0).standard_normal(objective.size)
        product = functools.partial(objective.hessian_vector_product, vector)
        one_pass()
        product()  # traced
        rounds = [(seconds_of(one_pass), seconds_of(product)) for _ in range(sizes.rounds)]
        gradient, once = np.median(rounds, axis=0)
        ratio = np.median([each[1] / each[0] for each in rounds])
        cells = [f"{gradient:.2f}", f"{once:.2f}", f"{ratio:.2f}"]
        for measure in (largest, density):
            products, share = beyond_products(objective, measure)
            cells.append(f"{share:+.1%} of {products}")
        table.add_row(name, *cells)
        console.print(f"{name}: {cells}")
    return table


# --------------------------------------------------------------------------------------------------
# Memory: the peak of a training process by batch size, and of a search for eigenpairs by images
# --------------------------------------------------------------------------------------------------


def train_and_print_peak(case: Case, batch_size: int, micro_batch: int | None) -> None:
    x, y = images(case.data, case.batch_size)
    model = NETWORKS[case.network].build(x.shape[1:], 10)
    trainer = Trainer(model, keras.optimizers.Adam(), LOSS, micro_batch=micro_batch)
    trainer.fit((x, y), batch_size=batch_size, epochs=1, verbose=0)
    print(peak_memory())


def peak_memory() -> int:
    """Returns the largest resident memory of this process so far, in KiB."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # `getrusage` would count the memory of the process that started this one
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1])
    unit = 1024 if sys.platform == "darwin" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def peak_of_process(sizes: Sizes, *arguments: str) -> float:
    """Runs this script in a process of its own; returns the peak memory it prints, in GiB."""
    command = [sys.executable, __file__, *arguments, *(["--smoke"] if sizes is SMOKE else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[-1]) / 2**20


def memory(sizes: Sizes) -> rich.table.Table:
    case = sizes.memory
    table = rich.table.Table(
        title=f"Peak memory of training {case.network} on {case.batch_size:,} images, {case.data}"
    )
    for head in ("batch", f"micro_batch={sizes.micro_batch}", "whole batches"):
        table.add_column(head, justify="right")
    peaks: dict[tuple[int, int], list[float]] = {}
    reasons: dict[tuple[int, int], str] = {}
    for _ in range(max(1, sizes.rounds - 2)):
        for batch_size in sizes.batch_sizes:
            for micro_batch in (sizes.micro_batch, 0):
                key = batch_size, micro_batch
                share = (micro_batch or batch_size) / case.batch_size
                reason = short_of_memory(1 + case.gigabytes * share)
                if reason:
                    reasons[key] = reason
                    console.print(f"memory, batch {batch_size}: {reason}")
                    continue
                peak = peak_of_process(sizes, "--peak", str(batch_size), str(micro_batch))
                peaks.setdefault(key, []).append(peak)
                console.print(f"memory, batch {batch_size}, {micro_batch}: {peaks[key][-1]:.2f}")
    for batch_size in sizes.batch_sizes:
        cells = []
        for key in ((batch_size, sizes.micro_batch), (batch_size, 0)):
            cells.append(f"{np.median(peaks[key]):.2f} GiB" if key in peaks else reasons[key])
        table.add_row(f"{batch_size:,}", *cells)
    return table


def resnet20() -> keras.Model:
    """ResNet-20 for CIFAR-10 with projections where an image shrinks: 270,000 weights."""

    def normalised(x, filters: int, strides: int = 1, kernel: int = 3):
        x = layers.Conv2D(filters, kernel, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input(SHAPES["cifar10"])
    x = layers.ReLU()(normalised(inputs, 16))
    blocks = [(filters, shrinks) for filters in (16, 32, 64) for shrinks in (filters > 16, 0, 0)]
    for filters, shrinks in blocks:
        strides = 2 if shrinks else 1
        shortcut = normalised(x, filters, strides, kernel=1) if shrinks else x
        x = layers.ReLU()(normalised(x, filters, strides))
        x = layers.ReLU()(layers.Add()([normalised(x, filters), shortcut]))
    return keras.Model(
        inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)), name="ResNet-20"
    )


class FewProducts(keras_sharp.Objective):
    """An objective of which only the first Hessian-vector products are real.

    All take the same memory, and a whole search of real ones hours. The others are those of a
    diagonal matrix, so that the solver goes through all that it keeps.
    """

    left = 2

    def hessian_vector_product(self, vector, weights=None):
        if not self.left:
            return vector * np.linspace(0.0, 1.0, self.size) ** 20
        self.left -= 1
        return super().hessian_vector_product(vector, weights)


def find_eigenpairs_and_print_peak(count: int, batch_size: int) -> None:
    objective = FewProducts(resnet20(), images("cifar10", count), LOSS, batch_size=batch_size)
    keras_sharp.hessian_eigenvalues(objective, k=5, verbose=0)
    print(peak_memory())


def eigenpair_memory(sizes: Sizes) -> rich.table.Table:
    table = rich.table.Table(
        title="Peak memory of a ResNet-20's top 5 eigenpairs, cifar10 in batches of "
        f"{sizes.micro_batch} (goal: < 3 GiB, however many images)"
    )
    for head in ("images", "peak"):
        table.add_column(head, justify="right")
    for count in sizes.eigenpairs:
        cell = short_of_memory(3)
        if cell is None:
            cell = f"{peak_of_process(sizes, '--eigenpairs', str(count)):.2f} GiB"
        console.print(f"eigenpairs, {count} images: {cell}")
        table.add_row(f"{count:,}", cell)
    return table


TABLES = {
    "training": [training],
    "sharpness": [sharpness],
    "curvature": [curvature],
    "memory": [memory, eigenpair_memory],
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--output", type=pathlib.Path, help="also write the tables to this file")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: no figure means anything")
    parser.add_argument("--peak", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--eigenpairs", type=int, help=argparse.SUPPRESS)
    settings = parser.parse_args(arguments)
    sizes = SMOKE if settings.smoke else FULL
    if settings.peak:
        batch_size, micro_batch = settings.peak
        train_and_print_peak(sizes.memory, batch_size, micro_batch or None)
        return
    if settings.eigenpairs:
        find_eigenpairs_and_print_peak(settings.eigenpairs, sizes.micro_batch)
        return
    tables = [table(sizes) for name in settings.only for table in TABLES[name]]
    recorder = rich.console.Console(record=True, width=120)
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
