"""The finished rows of a surface in a file."""

import os
import pathlib

import numpy as np


class RowCache:
    """Rows of numbers kept in `<folder>/surface-<key>.npz`, which is whole at any moment.

    Args:
        folder: Made if it does not exist.
        key: Hash of everything that decides the numbers. Other keys have other files.
        shape: Shape of the whole table; rows are along the first axis.

    Attributes:
        file: The file.

    Raises:
        ValueError: If the folder is a file, or the file no such table.
    """

    def __init__(self, folder: str | os.PathLike, key: str, shape: tuple[int, ...]):
        folder = pathlib.Path(folder)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"`cache` must be a folder. Received: cache={str(folder)!r}")
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / f"surface-{key}.npz"
        self._shape = shape

    def read(self) -> np.ndarray:
        """Returns the finished rows, `(rows, ...)`; none if there is no file."""
        if not self.file.exists():
            return np.empty((0, *self._shape[1:]))
        try:
            with np.load(self.file) as content:
                rows = content["rows"]
        except Exception as error:
            raise ValueError(
                f"{str(self.file)!r} must be a file that this library wrote. Delete it to compute "
                "the surface anew."
            ) from error
        if rows.shape[1:] != self._shape[1:] or len(rows) > self._shape[0]:
            raise ValueError(
                f"{str(self.file)!r} must hold rows of a table of shape {self._shape}. Delete it "
                f"to compute the surface anew. Received: rows of shape {rows.shape}"
            )
        return rows

    def write(self, rows: np.ndarray) -> None:
        """Replaces the file by one with these rows."""
        beside = self.file.with_suffix(f".{os.getpid()}.tmp")
        try:
            with beside.open("wb") as stream:
                np.savez(stream, rows=rows)
            os.replace(beside, self.file)
        finally:
            beside.unlink(missing_ok=True)
