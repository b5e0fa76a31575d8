"""Checks of arguments that several parts of the library take."""

import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any


def integer(name: str, value: Any, *, least: int = 1) -> int:
    """Returns a whole number as an `int`, which JSON can hold, whatever integer type it was.

    Raises:
        ValueError: If it is no integer, a bool, or less than `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise ValueError(
            f"`{name}` must be an integer of at least {least}. Received: {name}={value!r}"
        )
    return number


def optional_integer(name: str, value: Any) -> int | None:
    """Returns None for None, else what `integer` does."""
    return None if value is None else integer(name, value)


def verbosity(verbose: Any) -> None:
    """Checks what `keras_sharp.progress.Progress` takes.

    Raises:
        ValueError: If it is neither `"auto"` nor 0 or 1.
    """
    if verbose not in ("auto", 0, 1):
        raise ValueError(f'`verbose` must be "auto", 0 or 1. Received: verbose={verbose!r}')


def positive(name: str, value: Any) -> float:
    """Returns a positive and finite number as a `float`.

    Raises:
        ValueError: If it is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be positive and finite. Received: {name}={value!r}")
    return float(value)


def not_negative(name: str, value: Any) -> float:
    """Returns a finite number of at least 0 as a `float`.

    Raises:
        ValueError: If it is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value < math.inf:
        raise ValueError(f"`{name}` must be at least 0 and finite. Received: {name}={value!r}")
    return float(value)


def share(name: str, value: Any) -> float:
    """Returns a number from 0 to 1 as a `float`.

    Raises:
        ValueError: If it is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be from 0 to 1. Received: {name}={value!r}")
    return float(value)


def one_of(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    """Returns a value that is one of those allowed.

    Raises:
        ValueError: If it is none of them.
    """
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {list(allowed)}. Received: {name}={value!r}")
    return value
