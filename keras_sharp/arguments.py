"""Checks of arguments that several parts of the library take."""

import operator
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
