"""Where the weights may move: every coordinate, or a random subspace."""

import concurrent.futures
import functools
import os
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

# A is drawn in blocks of rows of about this many entries (16 MB), each from a seed of its own: the
# matrix is the same whether it is kept or drawn again.
_ENTRIES = 2**22


class FullSpace:
    """`x + y` for any `y` of `(n,)`: the matrix `A` is the identity.

    Args:
        centre: `(n,)` float64, the weights `x`.

    Attributes:
        coordinates: `(n,)` float64, `A^+ x`, which is `x`.
    """

    def __init__(self, centre: np.ndarray):
        self.coordinates = centre

    @functools.cached_property
    def _on_device(self) -> tf.Tensor:
        return tf.constant(self.coordinates)

    def lift(self, y: np.ndarray | tf.Tensor) -> np.ndarray | tf.Tensor:
        """Returns the weights at `y`, `(n,)` float64, of its kind."""
        return (self._on_device if isinstance(y, tf.Tensor) else self.coordinates) + y

    def pull(self, gradient: np.ndarray | tf.Tensor) -> np.ndarray | tf.Tensor:
        """Returns a gradient over the weights as one over `y`, `(n,)` float64."""
        return gradient


class GaussianSubspace:
    """`x + A y` for `y` of `(p,)`, with independent N(0, 1) entries in the `(n, p)` matrix `A`.

    `A` is kept in float32 if it fits into `memory` bytes, and drawn again block by block at every
    use if not: the same matrix either way. Up to `memory` bytes of blocks are drawn at once, a core
    each, and one block (16 MB) at least.

    Args:
        centre: `(n,)` float64, the weights `x`.
        dim: `p`, at most `n`.
        seed: Non-negative integer.
        memory: Bytes that `A` may take.

    Attributes:
        coordinates: `(p,)` float64, `A^+ x`, by the normal equations.
    """

    def __init__(self, centre: np.ndarray, dim: int, *, seed: int, memory: int):
        self.centre = centre
        self._dim = dim
        self._seed = seed
        self._memory = memory
        self._rows = max(1, _ENTRIES // dim)
        self._starts = range(0, centre.size, self._rows)
        self._kept: list[np.ndarray] | None = None
        if 4 * dim * centre.size <= memory:
            self._kept = list(self._drawn())
        gram, projection = np.zeros((dim, dim)), np.zeros(dim)
        for rows, block in self._blocks():
            block = block.astype(np.float64)  # the equations square A's condition number
            gram += block.T @ block
            projection += block.T @ centre[rows]
        self.coordinates = np.linalg.solve(gram, projection)

    def lift(self, y: np.ndarray | tf.Tensor) -> np.ndarray:
        """Returns the weights at `y`, `(n,)` float64."""
        y = np.asarray(y, np.float32)
        return self.centre + np.concatenate([block @ y for _, block in self._blocks()])

    def pull(self, gradient: np.ndarray | tf.Tensor) -> np.ndarray:
        """Returns a gradient over the weights as one over `y`, `(p,)` float64."""
        gradient, total = np.asarray(gradient), np.zeros(self._dim)
        for rows, block in self._blocks():
            total += block.T @ gradient[rows].astype(np.float32)
        return total

    def _blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        blocks = self._drawn() if self._kept is None else self._kept
        for start, block in zip(self._starts, blocks, strict=True):
            yield slice(start, start + len(block)), block

    def _drawn(self) -> Iterator[np.ndarray]:
        """Draws all blocks, several at once."""
        fit = self._memory // (4 * self._rows * self._dim)
        workers = max(1, min(os.cpu_count() or 1, fit))
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            for first in range(0, len(self._starts), workers):
                yield from pool.map(self._draw, self._starts[first : first + workers])

    def _draw(self, start: int) -> np.ndarray:
        """Returns the block of rows that begins at `start`, `(<= rows, p)` float32."""
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([self._seed, start])))
        rows = min(self._rows, self.centre.size - start)
        return random.standard_normal((rows, self._dim), dtype=np.float32)
