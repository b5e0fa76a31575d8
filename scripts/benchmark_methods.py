"""What the methods cost: a step by each gradient rule, an update by each optimizer."""

from collections.abc import Callable

import keras
import numpy as np
import rich.table
import tensorflow as tf
from benchmark_cases import LOSS, Sizes, console, images, seconds_of, short_of_memory
from benchmark_training import second_epoch

from keras_sharp.networks import NETWORKS
from keras_sharp.optimizers import LAMB, LARS, SGDP, SNGM, AdamP, CorrectedSGD
from keras_sharp.training import (
    ASAM,
    FGSM,
    PGD,
    SAM,
    Adversarial,
    ConAdv,
    Conservative,
    DisAdv,
    Plain,
    Trainer,
)

UPDATES = 4  # in a row, so that starting a graph does not count

# Rules with their arithmetic cost: passes forwards and backwards in a step.
RULES: dict[str, tuple[Callable[[], Callable], float]] = {
    "plain": (Plain, 1),
    "SAM": (SAM, 2),
    "SAM, every 2nd step": (lambda: SAM(every=2), 1.5),
    "ASAM": (ASAM, 2),
    "FGSM": (lambda: Adversarial(FGSM(0.1)), 3),
    "PGD, 3 iterations": (lambda: Adversarial(PGD(0.1, iterations=3)), 5),
    "DisAdv": (lambda: DisAdv(FGSM(0.1)), 3),
    "ConAdv": (lambda: ConAdv(FGSM(0.1)), 3),
    "conservative, 3 steps": (lambda: Conservative(steps=3), 3),
}

# They move little, so that what they compute stays what it is.
OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "Adam (Keras)": lambda: keras.optimizers.Adam(1e-6),
    "SGD (Keras)": lambda: keras.optimizers.SGD(1e-6, momentum=0.9),
    "LARS": lambda: LARS(1e-6, weight_decay=1e-4),
    "LAMB": lambda: LAMB(1e-6, weight_decay=1e-2),
    "SNGM": lambda: SNGM(1e-6, weight_decay=1e-4),
    "AdamP": lambda: AdamP(1e-6, weight_decay=1e-2),
    "SGDP": lambda: SGDP(1e-6, weight_decay=1e-4),
    "CorrectedSGD": lambda: CorrectedSGD(1e-6, momentum=0.9),
}


def rules(sizes: Sizes) -> rich.table.Table:
    table = rich.table.Table(title="Gradient rules: a step of Trainer over a plain one")
    table.add_column("rule")
    for head in ("network, data, batch", "arithmetic cost", "measured", "measured / cost"):
        table.add_column(head, justify="right")
    for network, data, batch_size, batches, gigabytes in sizes.methods:
        case = f"{network}, {data}, {batch_size}"
        reason = short_of_memory(gigabytes)
        if reason:
            table.add_row("all", case, reason, "-", "-")
            continue
        x, y = images(data, batch_size * batches)
        contenders = {}
        for name, (rule, _) in RULES.items():
            model = NETWORKS[network].build(x.shape[1:], 10)
            trainer = Trainer(model, keras.optimizers.SGD(), LOSS, gradient=rule())
            contenders[name] = second_epoch(trainer.fit, (x, y), batch_size=batch_size)
        for name, ratio in over_the_first(contenders, sizes.rounds).items():
            cost = RULES[name][1]
            table.add_row(name, case, f"{cost:g}", f"{ratio:.2f}", f"{ratio / cost:.2f}")
            console.print(f"{case}: {name} {ratio:.2f}")
    return table


def optimizers(sizes: Sizes) -> rich.table.Table:
    table = rich.table.Table(title="Optimizers: an update over one of Keras's Adam (goal: <= 1.5)")
    table.add_column("optimizer")
    for head in ("weights of", "in a graph", "jitted"):
        table.add_column(head, justify="right")
    for network, data, *_ in sizes.methods:
        columns = [
            over_the_first(updates(network, data, jit_compile), sizes.rounds)
            for jit_compile in (False, True)
        ]
        for name in OPTIMIZERS:
            cells = [f"{column[name]:.2f}" for column in columns]
            table.add_row(name, f"{network}, {data}", *cells)
            console.print(f"{network}, {data}: {name} {cells}")
    return table


def updates(network: str, data: str, jit_compile: bool) -> dict[str, Callable[[], float]]:
    """Returns, for each optimizer, an action that returns the seconds of a few updates."""
    x, _ = images(data, 1)
    shape = x.shape[1:]

    def action(optimizer: keras.optimizers.Optimizer) -> Callable[[], float]:
        variables = NETWORKS[network].build(shape, 10).trainable_variables
        gradients = [tf.random.normal(each.shape) for each in variables]
        optimizer.build(variables)

        @tf.function(autograph=False, jit_compile=jit_compile)
        def update():
            optimizer.apply(gradients, variables)

        return lambda: seconds_of(lambda: [update() for _ in range(UPDATES)])

    return {name: action(make()) for name, make in OPTIMIZERS.items()}


def over_the_first(contenders: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Returns by name the median ratio of an action's seconds to those of the first, in turns."""
    for warm_up in contenders.values():
        warm_up()
    times = [[run() for run in contenders.values()] for _ in range(rounds)]
    ratios = np.median([[each / row[0] for each in row] for row in times], axis=0)
    return dict(zip(contenders, ratios, strict=True))
