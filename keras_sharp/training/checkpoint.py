"""The exact checkpoint of a training: one file, replaced at once."""

import io
import json
import os
import zipfile
from typing import Any

import numpy as np

_FORMAT = "keras-sharp training 1"


def save(path: str, values: list[np.ndarray], state: dict[str, Any]) -> None:
    """Writes one file, in such a way that a kill leaves either the old file or the new one.

    Args:
        path: The file, replaced if it exists.
        values: Of all variables, saved bit by bit.
        state: Dicts and lists of numbers, strings, None and numpy arrays.
    """
    arrays = {f"variable {i}": value for i, value in enumerate(values)}
    text = json.dumps({"format": _FORMAT, **_take_out_arrays(state, arrays)})
    arrays["state"] = np.frombuffer(text.encode(), np.uint8)
    temporary = f"{path}.tmp"
    with open(temporary, "wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load(
    path: str, shapes: list[tuple[int, ...]], content: bytes | None = None
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Returns the values of the variables and the state.

    Args:
        path: A file that `save` wrote.
        shapes: Those of the variables.
        content: What is in it, if that was read already.

    Raises:
        ValueError: If the file is damaged, something else, or of variables of other shapes.
    """
    try:
        # `np.load` leaves a file it opened itself open if it turns out to be damaged.
        opened = open(path, "rb") if content is None else io.BytesIO(content)
        with opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        state = json.loads(arrays["state"].tobytes())
        if state.pop("format") != _FORMAT:
            raise ValueError("it has another format")
    except (
        ValueError,
        LookupError,
        AttributeError,
        EOFError,
        OSError,
        RuntimeError,
        zipfile.BadZipFile,
    ) as error:
        raise ValueError(
            f"`checkpoint` must be a file that `Trainer.fit` wrote. Received: {path!r}, which is "
            f"damaged or something else ({error}). Move it away to train from the beginning."
        ) from error
    values = [array for name, array in arrays.items() if name.startswith("variable ")]
    found = [value.shape for value in values]
    if found != shapes:
        # Of other numbers of variables the first that differ say nothing.
        pairs = zip(found, shapes, strict=False) if len(found) == len(shapes) else ()
        theirs, ours = next(
            ((f"one of shape {a}", f"{b}") for a, b in pairs if a != b),
            (f"{len(found)} variables", f"{len(shapes)}"),
        )
        raise ValueError(
            "`checkpoint` must be of the same model and optimizer. Received: "
            f"{path!r}, which has {theirs} where there is {ours} here. Move it away to train from "
            "the beginning."
        )
    return values, _put_arrays(state, arrays)


def _take_out_arrays(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Returns what JSON can hold, and adds the arrays in it to `arrays`."""
    if isinstance(value, np.ndarray):
        name = f"array {len(arrays)}"
        arrays[name] = value
        return {"array": name}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {key: _take_out_arrays(item, arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_take_out_arrays(item, arrays) for item in value]
    return value


def _put_arrays(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"array"}:
            return arrays[value["array"]]
        return {key: _put_arrays(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_put_arrays(item, arrays) for item in value]
    return value
