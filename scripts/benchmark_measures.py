"""Seconds of the measures over those of the gradients or products they are made of."""

import functools
import time
from collections.abc import Callable

import keras
import numpy as np
import rich.table
import tensorflow as tf
from benchmark_cases import LOSS, Sizes, compiled, console, images, seconds_of, short_of_memory

import keras_sharp


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


class Timed(keras_sharp.Objective):
    """An objective that adds up the seconds of its Hessian-vector products."""

    seconds = 0.0

    def hessian_vector_product(self, *arguments):
        began = time.perf_counter()
        product = super().hessian_vector_product(*arguments)
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
