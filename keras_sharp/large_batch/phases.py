"""Methods of several phases, one after the other."""

import dataclasses
from collections.abc import Sequence

from keras_sharp.arguments import integer, positive
from keras_sharp.large_batch.rates import Rate, linear_warm_up, make_optimizer, steps_per_epoch
from keras_sharp.large_batch.recipe import Recipe
from keras_sharp.schedules import increased_batches
from keras_sharp.training import LocalSGD


def growing_batch(
    batch_size: int,
    *,
    base_batch_size: int,
    learning_rate: float,
    examples: int,
    epochs: int,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float | None = None,
    shares: Sequence[float] = (0.3, 0.6, 0.8),
    factor: float = 5.0,
) -> Recipe:
    """Begins with the base batch, and lets the batch grow where the rate would drop.

    After each of `shares` of the training the batch grows by `factor`, up to `batch_size`; from
    there on it is the rate that drops. `learning_rate` is the first rate, a number.

    Args: Those of `rates.plain`, `shares` (60, 120 and 160 epochs of 200) and `factor`.

    Raises:
        ValueError: If an argument is of no use, or the batch never grows to `batch_size`.

    References:
        - [Smith et al., 2018](https://arxiv.org/abs/1711.00489)
    """
    learning_rate = positive("learning_rate", learning_rate)
    epochs = integer("epochs", epochs)
    ends = sorted({round(share * epochs) for share in shares})
    boundaries = [end for end in ends if 0 < end < epochs]
    rates = [learning_rate / factor**drops for drops in range(len(boundaries) + 1)]
    plan = increased_batches(boundaries, rates, base_batch_size, batch_size)
    largest = max(plan.batch_size.values())
    if largest < batch_size:
        raise ValueError(
            f"The batch must grow to `batch_size`, {batch_size}. Train for more epochs, or raise "
            f"`factor`, or give more `shares`. Received: batches of up to {largest}, {factor:g} "
            f"times as large after each of the epochs {boundaries} of {epochs}"
        )
    made = make_optimizer(optimizer, plan.learning_rate(examples), momentum, weight_decay)
    return Recipe("growing_batch", made, plan.batch_size, epochs, examples=examples)


def warm_start(
    batch_size: int,
    *,
    base_batch_size: int,
    learning_rate: float,
    examples: int,
    epochs: int,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float | None = None,
    share: float = 0.2,
) -> Recipe:
    """Trains the first epochs with the base batch, and all others with the large one.

    `learning_rate` is a number, and stays the same throughout.

    Args: Those of `rates.plain`, and `share`, how much of the training has the base batch: a whole
        number of epochs, at least one.

    Raises:
        ValueError: If an argument is of no use, or leaves no epoch to the large batch.

    Note:
        The paper starts a new training, with a new optimizer, from the weights of the first. Here
        the optimizer goes on with its momentum.

    References:
        - [Keskar et al., 2017](https://arxiv.org/abs/1609.04836), figure 5
    """
    rate = positive("learning_rate", learning_rate)
    first = max(1, round(_share(share) * integer("epochs", epochs)))
    if first >= epochs:
        raise ValueError(
            "An epoch must be left to the large batch: train for more, or lower `share`. Received: "
            f"epochs={epochs}, share={share:g}, so {first} with the base batch"
        )
    made = make_optimizer(optimizer, rate, momentum, weight_decay)
    sizes = {0: base_batch_size, first: batch_size}
    return Recipe("warm_start", made, sizes, epochs, examples=examples)


def post_local_sgd(
    batch_size: int,
    *,
    base_batch_size: int,
    learning_rate: Rate,
    examples: int,
    epochs: int,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float | None = None,
    share: float = 0.5,
    every: int = 16,
) -> Recipe:
    """Trains with linear scaling at first, then lets replicas step alone and averages them rarely.

    For several replicas: on one there is nothing to average, and it is `linear_warm_up`.

    Args: Those of `rates.plain`, `share`, how much of the training replicas step together, and
        `every`, the number of steps between averages after that.

    Raises:
        ValueError: If an argument is of no use.

    References:
        - [Lin et al., 2020](https://arxiv.org/abs/1808.07217)
    """
    together = linear_warm_up(
        batch_size,
        base_batch_size=base_batch_size,
        learning_rate=learning_rate,
        examples=examples,
        epochs=epochs,
        optimizer=optimizer,
        momentum=momentum,
        weight_decay=weight_decay,
    )
    first = round(_share(share) * epochs)
    if not 0 < first < epochs:
        raise ValueError(
            "Replicas must step together for at least an epoch, and alone for one. Received: "
            f"share={share} of epochs={epochs}, {first} together"
        )
    communication = LocalSGD(every, after=first * steps_per_epoch(examples, batch_size))
    return dataclasses.replace(together, name="post_local_sgd", communication=communication)


def _share(share: float) -> float:
    if not 0 < share < 1:
        raise ValueError(f"`share` must be in (0, 1). Received: share={share}")
    return share
