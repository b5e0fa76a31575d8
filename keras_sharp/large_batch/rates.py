"""Methods that choose the learning rate for a larger batch."""

import math

import keras

from keras_sharp.arguments import integer, one_of
from keras_sharp.large_batch.recipe import Recipe
from keras_sharp.optimizers import CorrectedSGD
from keras_sharp.optimizers.selective import BIAS_AND_NORM
from keras_sharp.schedules import WarmUp, linear_scaling, square_root_scaling
from keras_sharp.schedules.scaling import batch_ratio

Rate = float | keras.optimizers.schedules.LearningRateSchedule

# A weight has the name of a bias or of a part of normalisation, whatever its layer is called.
_SPARED = rf"(^|/)({'|'.join(BIAS_AND_NORM)})(/replica_\d+)?(:\d+)?$"


def plain(
    batch_size: int,
    *,
    base_batch_size: int,
    learning_rate: Rate,
    examples: int,
    epochs: int,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float | None = None,
) -> Recipe:
    """Takes a larger batch and changes nothing else; what the others are compared with.

    Args:
        batch_size: Examples of a step, over all replicas.
        base_batch_size: Of the training that `learning_rate` was tuned for.
        learning_rate: The rate at the base batch size: a number for a constant rate, or a Keras
            schedule whose steps are epochs, as `keras_sharp.schedules.WarmUp` describes it.
        examples: Number of training examples.
        epochs: Length of the training.
        optimizer: `"sgd"`, with momentum and momentum correction, or `"adam"`.
        momentum: Momentum, ADAM's `beta_1`.
        weight_decay: As for Keras optimizers. Biases and the parameters of normalisation have none,
            whatever the method; Keras does not save that with a model. Defaults to None, no decay.

    Raises:
        ValueError: If an argument is of no use.

    References:
        - [Keskar et al., 2017](https://arxiv.org/abs/1609.04836), where ADAM's rate stays the same
    """
    batch_ratio(batch_size, base_batch_size)  # neither counts, but both are checked
    rate = in_steps(learning_rate, batch_size, examples, epochs)
    made = make_optimizer(optimizer, rate, momentum, weight_decay)
    return Recipe("plain", made, batch_size, epochs, examples=examples)


def square_root(
    batch_size: int,
    *,
    base_batch_size: int,
    learning_rate: Rate,
    examples: int,
    epochs: int,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float | None = None,
) -> Recipe:
    """Multiplies the rate by the square root of how many times larger the batch is.

    Args: Those of `plain`.

    References:
        - [Hoffer et al., 2017](https://arxiv.org/abs/1705.08741)
    """
    rate = square_root_rate(learning_rate, batch_size, base_batch_size, examples, epochs)
    made = make_optimizer(optimizer, rate, momentum, weight_decay)
    return Recipe("square_root", made, batch_size, epochs, examples=examples)


def linear_warm_up(
    batch_size: int,
    *,
    base_batch_size: int,
    learning_rate: Rate,
    examples: int,
    epochs: int,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float | None = None,
    warmup_epochs: float | None = None,
) -> Recipe:
    """Multiplies the rate by how many times larger the batch is, and gets there gradually.

    The warm-up begins at the rate of the base batch size.

    Args: Those of `plain`, and `warmup_epochs`, the length of the warm-up: 5 epochs by default, or
        a quarter of the training if that is less.

    References:
        - [Goyal et al., 2017](https://arxiv.org/abs/1706.02677), section 2.2
    """
    if warmup_epochs is None:
        warmup_epochs = min(5, epochs / 4)
    scaled = linear_scaling(learning_rate, batch_size, base_batch_size)
    rate = in_steps(
        scaled, batch_size, examples, epochs, warmup_epochs, first=first_rate(learning_rate)
    )
    made = make_optimizer(optimizer, rate, momentum, weight_decay)
    return Recipe("linear_warm_up", made, batch_size, epochs, examples=examples)


def square_root_rate(
    learning_rate: Rate, batch_size: int, base_batch_size: int, examples: int, epochs: int
) -> Rate:
    """Returns the rate of the base batch times the root of the ratio of the batches, in steps."""
    scaled = square_root_scaling(learning_rate, batch_size, base_batch_size)
    return in_steps(scaled, batch_size, examples, epochs)


def make_optimizer(
    name: str, rate: Rate, momentum: float, weight_decay: float | None
) -> keras.optimizers.Optimizer:
    """Returns momentum SGD, whose steps follow its rate at once, or ADAM.

    Neither decays biases and normalisation, as LARS, LAMB, SNGM and AdamP don't.
    """
    if one_of("optimizer", name, ("sgd", "adam")) == "sgd":
        made = CorrectedSGD(rate, momentum=momentum, weight_decay=weight_decay)
    else:
        made = keras.optimizers.Adam(rate, beta_1=momentum, weight_decay=weight_decay)
    made.exclude_from_weight_decay(var_names=[_SPARED])
    return made


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Returns the number of steps in an epoch, a short last batch included."""
    return math.ceil(integer("examples", examples) / integer("batch_size", batch_size))


def first_rate(learning_rate: Rate) -> float:
    """Returns the rate a number or a schedule in epochs begins with."""
    return float(learning_rate(0.0)) if _is_schedule(learning_rate) else learning_rate


def in_steps(
    learning_rate: Rate,
    batch_size: int,
    examples: int,
    epochs: int,
    warmup_epochs: float = 0.0,
    first: float = 0.0,
) -> Rate:
    """Returns a rate in epochs as one in steps, after a warm-up from `first` if there is to be."""
    epochs, steps = integer("epochs", epochs), steps_per_epoch(examples, batch_size)
    if _is_schedule(learning_rate) or warmup_epochs:
        return WarmUp(learning_rate, warmup_epochs, epochs, steps, first)
    return learning_rate


def _is_schedule(learning_rate: Rate) -> bool:
    return isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule)
