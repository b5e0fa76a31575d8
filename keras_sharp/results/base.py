"""What every result is: a frozen record, and JSON both ways."""

import dataclasses
import json
from typing import Any, Self, get_args

import numpy as np

# Of a field with this metadata, such as vectors over millions of weights, JSON keeps nothing.
NOT_IN_JSON = {"json": False}


@dataclasses.dataclass(frozen=True)
class Result:
    """Base of all results: plain values and NumPy only, and JSON both ways."""

    def to_json(self, indent: int | None = None) -> str:
        """Returns the result as a JSON object: arrays as lists, what is too large as null.

        Raises:
            ValueError: If a number is NaN or infinite, for which JSON has no word.
        """
        values = {
            field.name: getattr(self, field.name) if field.metadata.get("json", True) else None
            for field in dataclasses.fields(self)
        }
        return json.dumps(values, indent=indent, allow_nan=False, default=_plain)

    def __format__(self, form: str) -> str:
        return format(float(self), form) if form else str(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Returns the result that `to_json` wrote; what was too large for it is None.

        Raises:
            ValueError: If the text is no such result.
        """
        values = json.loads(text)
        fields = {field.name: field for field in dataclasses.fields(cls)}
        optional = {name for name, field in fields.items() if field.default is None}
        if not isinstance(values, dict) or not set(fields) - optional <= set(values) <= set(fields):
            found = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise ValueError(f"`text` must be the JSON of a {cls.__name__}. Received: {found}")
        for name, field in fields.items():
            array = np.ndarray in (field.type, *get_args(field.type))
            if array and values.get(name) is not None:
                values[name] = np.asarray(values[name])
        return cls(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"A result holds plain values and NumPy only. Received: {type(value).__name__}")
