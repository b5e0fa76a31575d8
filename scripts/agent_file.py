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

    Raises:
        SystemExit: If the file cannot be read, or is of other variables.
    """
    if not file.exists():
        return []
    *values, history = read_arrays(file)
    if [each.shape for each in values] != [tuple(each.shape) for each in variables]:
        raise SystemExit(f"{file} is of other networks. Delete it, and its training is done again.")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return [dict(zip(columns, map(float, row), strict=True)) for row in history]


def save(
    file: pathlib.Path, variables: Sequence[Variable], history: Sequence[dict[str, float]]
) -> None:
    """Writes variables and history, whole or not at all; the name must end in `.npz`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    values = [keras.ops.convert_to_numpy(each) for each in variables]
    write_arrays(file, [*values, np.array([list(each.values()) for each in history])])
