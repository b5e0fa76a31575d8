"""What a training of an agent goes on from: its variables and its history, in one file."""

import pathlib
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from run_folder import read_arrays, write_arrays

Variable = keras.Variable | tf.Variable


def restore(
    file: pathlib.Path, variables: Sequence[Variable], columns: Sequence[str]
) -> list[dict[str, float]]:
    """Gives variables the values that were saved, and returns the history; none without a file.

    Args:
        file: What `save` wrote.
        variables: Those that were saved, or the first of them.
        columns: Names of the figures in the history.

    Raises:
        SystemExit: If the file cannot be read, or is of other variables.
    """
    if not file.exists():
        return []
    *values, history = read_arrays(file)
    values = values[: len(variables)]
    if [each.shape for each in values] != [tuple(each.shape) for each in variables]:
        raise SystemExit(f"{file} is of other networks. Delete it, and its training is done again.")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return [dict(zip(columns, map(float, row), strict=True)) for row in history]


def save(
    file: pathlib.Path,
    variables: Sequence[Variable],
    history: Sequence[dict[str, float]],
    world: Sequence[Variable | tf.Tensor] = (),
) -> None:
    """Writes variables, the world's after them, and history, whole or not at all.

    Args:
        file: Its name must end in `.npz`.
        variables: Of the agent.
        history: What `restore` returns.
        world: Of what the agent plays in.

    Raises:
        FloatingPointError: If a variable of the agent is not finite; the file remains as it was.
    """
    values = [keras.ops.convert_to_numpy(each) for each in variables]
    if not all(np.isfinite(each).all() for each in values):
        raise FloatingPointError("The agent's variables are not finite, and are not saved.")
    values += [keras.ops.convert_to_numpy(each) for each in world]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(file, [*values, np.array([list(each.values()) for each in history])])
