"""Hashes of arrays, the same however the rows are cut into pieces."""

import hashlib

import numpy as np


class ArrayHash:
    """A running hash of rows of one data type and shape.

    Args:
        *pieces: Arrays, first axis the rows.
    """

    def __init__(self, *pieces: np.ndarray):
        self._hash = None
        for piece in pieces:
            self.update(piece)

    def update(self, piece: np.ndarray) -> None:
        """Takes more rows."""
        if self._hash is None:
            form = f"{piece.dtype}{piece.shape[1:]}"
            self._hash = hashlib.blake2b(form.encode(), digest_size=8)
        self._hash.update(_content(piece))

    def hexdigest(self) -> str:
        """Returns the hash of all rows so far."""
        return self._hash.hexdigest()


def joint_hash(hashes: list[ArrayHash]) -> str:
    """Returns one hexadecimal hash for several arrays, in their order."""
    text = " ".join(each.hexdigest() for each in hashes)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _content(piece: np.ndarray) -> bytes | np.ndarray:
    if piece.dtype == object:  # strings, of which an array holds addresses
        return b"".join(len(each).to_bytes(8, "little") + each for each in piece.ravel())
    return np.ascontiguousarray(piece).reshape(-1).view(np.uint8)
