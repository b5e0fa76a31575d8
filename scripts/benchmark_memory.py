"""Peak memory of a process of its own: of training, eigenpairs, a search in a subspace."""

import concurrent.futures
import multiprocessing
import pathlib
import resource
import sys
import time
from collections.abc import Callable

import keras
import numpy as np
import rich.table
from benchmark_cases import (
    LOSS,
    SHAPES,
    Case,
    Sizes,
    compiled,
    console,
    images,
    short_of_memory,
)
from keras import layers

import keras_sharp
from keras_sharp.networks import NETWORKS
from keras_sharp.training import Trainer


def peak_of(work: Callable[..., None], *arguments: object) -> float:
    """Returns the peak memory of a new process that does some work, in GiB."""
    new = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=new) as pool:
        return pool.submit(peak_after, work, *arguments).result() / 2**20


def peak_after(work: Callable[..., None], *arguments: object) -> int:
    """Does some work; returns the largest resident memory of this process so far, in KiB."""
    work(*arguments)
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # `getrusage` would count the memory of the process that started this one
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1])
    unit = 1024 if sys.platform == "darwin" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


# --------------------------------------------------------------------------------------------------
# Training: must not grow with the batch, given micro-batches
# --------------------------------------------------------------------------------------------------


def train(case: Case, batch_size: int, micro_batch: int | None) -> None:
    x, y = images(case.data, case.batch_size)
    model = NETWORKS[case.network].build(x.shape[1:], 10)
    trainer = Trainer(model, keras.optimizers.Adam(), LOSS, micro_batch=micro_batch)
    trainer.fit((x, y), batch_size=batch_size, epochs=1, verbose=0)


def memory(sizes: Sizes) -> rich.table.Table:
    case = sizes.memory
    table = rich.table.Table(
        title=f"Peak memory of training {case.network} on {case.batch_size:,} images, {case.data}"
    )
    for head in ("batch", f"micro_batch={sizes.micro_batch}", "whole batches"):
        table.add_column(head, justify="right")
    peaks: dict[tuple[int, int | None], list[float]] = {}
    reasons: dict[tuple[int, int | None], str] = {}
    for _ in range(max(1, sizes.rounds - 2)):
        for batch_size in sizes.batch_sizes:
            for micro_batch in (sizes.micro_batch, None):
                key = batch_size, micro_batch
                share = (micro_batch or batch_size) / case.batch_size
                reason = short_of_memory(1 + case.gigabytes * share)
                if reason:
                    reasons[key] = reason
                    console.print(f"memory, batch {batch_size}: {reason}")
                    continue
                peaks.setdefault(key, []).append(peak_of(train, case, batch_size, micro_batch))
                console.print(f"memory, batch {batch_size}, {micro_batch}: {peaks[key][-1]:.2f}")
    for batch_size in sizes.batch_sizes:
        cells = []
        for key in ((batch_size, sizes.micro_batch), (batch_size, None)):
            cells.append(f"{np.median(peaks[key]):.2f} GiB" if key in peaks else reasons[key])
        table.add_row(f"{batch_size:,}", *cells)
    return table


# --------------------------------------------------------------------------------------------------
# Eigenpairs: must not grow with the number of images
# --------------------------------------------------------------------------------------------------


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


PRODUCTS = 20_000


class FewProducts(keras_sharp.Objective):
    """An objective of which only the first Hessian-vector products are real.

    A whole search of real ones takes hours: there are as many as make `PRODUCTS` over single
    images, ten over 2,000 of them and two over 10,000. The others are those of a diagonal matrix,
    so that the solver goes through all that it keeps.
    """

    left: int

    def hessian_vector_product(self, vector, *arguments):
        if not self.left:
            return vector * np.linspace(0.0, 1.0, self.size) ** 20
        self.left -= 1
        return super().hessian_vector_product(vector, *arguments)


def find_eigenpairs(count: int, batch_size: int) -> None:
    objective = FewProducts(resnet20(), images("cifar10", count), LOSS, batch_size=batch_size)
    objective.left = min(10, PRODUCTS // count)
    keras_sharp.hessian_eigenvalues(objective, k=5, verbose=0)


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
            cell = f"{peak_of(find_eigenpairs, count, sizes.micro_batch):.2f} GiB"
        console.print(f"eigenpairs, {count} images: {cell}")
        table.add_row(f"{count:,}", cell)
    return table


# --------------------------------------------------------------------------------------------------
# Subspaces: a matrix A that does not fit is drawn again at every use
# --------------------------------------------------------------------------------------------------


def search_subspace(network: str, data: str, dimension: int, megabytes: int) -> None:
    x, y = images(data, 500)
    model = compiled(network, x.shape[1:])
    search = {"subspace_dim": dimension, "subspace_memory": megabytes * 2**20}
    keras_sharp.sharpness(model, (x, y), batch_size=250, max_iterations=1, verbose=0, **search)


def subspace_memory(sizes: Sizes) -> rich.table.Table:
    network, data, dimension = sizes.subspace
    weights = NETWORKS[network].build(SHAPES[data], 10).count_params()
    size = f"{weights:,} x {dimension}, {4 * weights * dimension / 2**30:.2f} GiB"
    table = rich.table.Table(title=f"Peak memory of sharpness in a subspace of {network}, A {size}")
    for head in ("subspace_memory", "peak", "seconds"):
        table.add_column(head, justify="right")
    for megabytes in sizes.subspace_megabytes:
        reason = short_of_memory(3 + megabytes / 2**10)
        cells = [reason, "-"]
        if reason is None:
            began = time.perf_counter()
            peak = peak_of(search_subspace, network, data, dimension, megabytes)
            cells = [f"{peak:.2f} GiB", f"{time.perf_counter() - began:.0f}"]
        console.print(f"subspace, {megabytes} MiB: {cells}")
        table.add_row(f"{megabytes:,} MiB", *cells)
    return table
