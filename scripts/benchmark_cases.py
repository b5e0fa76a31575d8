"""What is measured by benchmark.py, how much of it, and on what images."""

import os
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import rich.console

from keras_sharp.networks import NETWORKS

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SHAPES = {"digits": (64,), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}

console = rich.console.Console()


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
        methods: What is trained by each gradient rule, and whose weights each optimizer moves.
        subspace: Network, data and dimension of a subspace whose matrix is large.
        subspace_megabytes: What it may take.
        eigenpairs: Numbers of images that memory must not grow with, in batches of `micro_batch`.
        environments: Numbers of environments that are stepped together.
        image: Rows and columns of what they show.
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
    methods: tuple[Case, ...]
    eigenpairs: tuple[int, ...]
    subspace: tuple[str, str, int]
    subspace_megabytes: tuple[int, ...]
    environments: tuple[int, ...]
    image: int


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
    # A third of MNIST: the solver's own work does not grow with the data, its products do.
    curvature=(Case("F1", "mnist", 1000, 20, 3), Case("C1", "cifar10", 1000, 1, 5)),
    steps=80,
    methods=(Case("F1", "mnist", 256, 40), Case("C1", "cifar10", 256, 4, 2)),
    eigenpairs=(2000, 10_000),
    subspace=("C2", "cifar10", 100),
    subspace_megabytes=(0, 1024),
    environments=(1, 64, 1024),
    image=64,
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
    methods=(Case("F1", "digits", 16, 2),),
    eigenpairs=(16,),
    subspace=("F1", "digits", 2),
    subspace_megabytes=(0,),
    environments=(2,),
    image=4,
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


def compiled(network: str, shape: tuple[int, ...]) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = NETWORKS[network].build(shape, 10)
    model.compile(keras.optimizers.Adam(), LOSS)
    return model
