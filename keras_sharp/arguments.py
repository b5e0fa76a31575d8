"""Checks of arguments that several parts of the library take."""

import operator
from typing import Any


def integer(name: str, value: Any, *, at_least: int = 1) -> int:
    """Returns a whole number as an `int`, which JSON can hold, whatever integer type it was.

    Raises:
        ValueError: If it is no integer, a bool, or too small.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < at_least:
        rule = "a positive integer" if at_least == 1 else f"an integer of at least {at_least}"
        raise ValueError(f"`{name}` must be {rule}. Received: {name}={value!r}")
    return number
