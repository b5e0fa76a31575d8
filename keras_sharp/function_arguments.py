"""The arguments by which every measure is told its function."""

from typing import Any, TypedDict, Unpack

import keras

from keras_sharp.objective import Objective


class FunctionArguments(TypedDict, total=False):
    """The keyword arguments of `Objective`, which every measure passes on."""

    loss: Any
    batch_norm: str
    batch_size: int | None
    penalties: bool
    check_data: bool


def objective_of(
    model: keras.Model | Objective, ds: Any = None, **function: Unpack[FunctionArguments]
) -> Objective:
    """Returns the function that a measure is asked about.

    Args:
        model: A model, or an `Objective`, which is returned.
        ds: The data, with a model.
        **function: Keyword arguments of `Objective`, with a model.

    Raises:
        TypeError: If there are no data, or there are arguments beside an `Objective`.
        ValueError: As `Objective`.
    """
    unknown = set(function) - set(FunctionArguments.__annotations__)
    if unknown:
        raise TypeError(
            f"Unknown arguments. A measure takes those that `help` shows of it, and "
            f"{sorted(FunctionArguments.__annotations__)}; `measure` takes a measure's own beside "
            f'its name, as in `("sharpness", {{"epsilon": 1e-3}})`. Received: {sorted(unknown)}'
        )
    if isinstance(model, Objective):
        if ds is not None or function:
            given = sorted(function) if ds is None else ["ds", *sorted(function)]
            raise TypeError(
                "An `Objective` has its data and settings already: leave them out, or pass the "
                f"model. Received: {given}"
            )
        return model
    if not isinstance(model, keras.Model) or ds is None:
        raise TypeError(
            "A measure takes a Keras model and its data, or an `Objective` alone. Received: "
            f"model={type(model).__name__}, ds={type(ds).__name__}"
        )
    return Objective(model, ds, **function)
