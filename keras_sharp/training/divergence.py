"""A training that diverges stops with an error that says where."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import NoReturn

import keras
import numpy as np
import tensorflow as tf

from keras_sharp.training.step import LEARNING_RATE, LOSS
from keras_sharp.training.strategy import chain_of


@contextlib.contextmanager
def skipped_steps_reported(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Warns afterwards if an optimizer left out steps, as `SNGM` does and counts."""
    before = _skipped(optimizer)
    yield
    skipped = _skipped(optimizer) - before
    if skipped:
        warnings.warn(
            f"{type(chain_of(optimizer)[-1]).__name__} left out {skipped} of its steps, whose "
            "gradients were not finite. Lower the learning rate if that goes on.",
            stacklevel=3,
        )


def _skipped(optimizer: keras.optimizers.Optimizer) -> int:
    counts = [getattr(each, "skipped_steps", None) for each in chain_of(optimizer)]
    return sum(int(tf.convert_to_tensor(count)) for count in counts if count is not None)


def check_losses(rows: np.ndarray, epoch: int, first: int) -> None:
    """Checks that the losses of some steps are finite.

    Args:
        rows: `(steps, columns)`, the figures of the steps.
        epoch: Number of the epoch, from 0.
        first: Number of the first of the steps, from 0.

    Raises:
        FloatingPointError: If one is not.
    """
    bad = ~np.isfinite(rows[:, LOSS])
    if bad.any():
        index = int(np.argmax(bad))
        _diverged(f"The loss is {rows[index, LOSS]}", rows[index], epoch, first + index + 1)


def check_weights(all_finite: bool, row: np.ndarray, epoch: int, step: int) -> None:
    """Checks what the last step of an epoch has made of the weights.

    Args:
        all_finite: Whether they are finite.
        row: `(columns,)`, the figures of the step.
        epoch: Number of the epoch, from 0.
        step: Number of the step, from 1.

    Raises:
        FloatingPointError: If they are not.
    """
    if not all_finite:
        _diverged("The weights are not finite", row, epoch, step)


def _diverged(found: str, row: np.ndarray, epoch: int, step: int) -> NoReturn:
    if (epoch, step) == (0, 1) and not np.isfinite(row[LOSS]):  # no step was taken before
        raise FloatingPointError(
            f"{found} in epoch 1, step 1, before anything was learned, whatever the learning rate "
            f"of {row[LEARNING_RATE]:g}: look for NaN, infinity or huge numbers in the data and "
            "the initial weights."
        )
    raise FloatingPointError(
        f"{found} in epoch {epoch + 1}, step {step}, at learning rate {row[LEARNING_RATE]:g}. "
        "Lower the learning rate (with AutoWU: `maximal_learning_rate` or `warmup_share`) or clip "
        "the gradient. The weights are of no use any more; a checkpoint holds those of the epoch "
        "before."
    )
