"""The Hessian of an objective as a SciPy linear operator."""

from collections.abc import Sequence

import numpy as np
import scipy.sparse.linalg
import tensorflow as tf

from keras_sharp.objective import Objective
from keras_sharp.progress import Progress

# How exact products are beside the largest eigenvalue, in roundings: in float32, to about 1e-6.
_ROUNDINGS = 10


class HessianOperator(scipy.sparse.linalg.LinearOperator):
    """The Hessian of `f` at a model's weights, or the block of it that some layers own.

    A symmetric float64 operator that every routine of `scipy.sparse.linalg` takes. A product is one
    pass over the data and costs two to three gradients. It is as exact as the coarsest floating
    type that the model computes in, see `precision`.

    Args:
        objective: `f`.
        layers: Whose weights: names of layers, or any whole part of a variable's path
            (`"dense_1"`, `"encoder/dense"`, `"kernel"`). Defaults to all trainable weights.
        weights: `(n,)`, where. Defaults to the weights the model has now. It may go on training:
            weights and moving statistics of BatchNormalization stay what they are now.

    Attributes:
        products: Products so far.
        norm: Largest `|H v| / |v|` so far: a lower bound of the spectral norm.
        precision: How exact products are, relative to the largest eigenvalue: about 1e-6 in
            float32, 0.01 where a layer computes in float16, 0.08 in bfloat16.
        progress: Is told the products, if it is not None.

    Raises:
        ValueError: For a name that no trainable weight has.
        FloatingPointError: From a product that is not finite.
        NotImplementedError: From a product, if an operation of the model has no second derivative.

    Example:
    ```python
    objective = keras_sharp.Objective(model, (x, y))
    _, gradient = objective.value_and_gradient()
    damping = 0.1 * scipy.sparse.linalg.aslinearoperator(scipy.sparse.eye_array(objective.size))
    step, _ = scipy.sparse.linalg.minres(HessianOperator(objective) + damping, -gradient)
    ```
    """

    def __init__(
        self,
        objective: Objective,
        layers: str | Sequence[str] | None = None,
        weights: np.ndarray | None = None,
    ):
        self._rows = _rows(objective, named(layers))
        self.products, self.norm = 0, 0.0
        self.precision = _ROUNDINGS * objective.rounding
        self.progress: Progress | None = None
        self._objective = objective
        self._at = tf.constant(objective.weights if weights is None else weights)
        self._statistics = objective.statistics
        size = self.indices.size
        super().__init__(np.dtype(np.float64), (size, size))

    @property
    def indices(self) -> np.ndarray:
        """`(m,)` int, which of the `n` weights the operator's rows and columns stand for."""
        return np.arange(self._objective.size)[self._rows]

    def embed(self, vectors: np.ndarray) -> np.ndarray:
        """Returns `(m,)` or `(m, k)` as `(n,)` or `(n, k)`: zero for all other weights."""
        if len(vectors) == self._objective.size:
            return vectors
        whole = np.zeros((self._objective.size, *vectors.shape[1:]))
        whole[self._rows] = vectors
        return whole

    def _matvec(self, vector: np.ndarray) -> np.ndarray:
        vector = np.asarray(vector, np.float64).ravel()
        product = self._objective.hessian_vector_product(
            self.embed(vector), self._at, self._statistics
        )[self._rows]
        if not np.all(np.isfinite(product)):
            raise FloatingPointError(
                "A Hessian-vector product is not finite. Look for operations whose second "
                "derivative is infinite (the square root at 0), or use a model in float32 or "
                "float64."
            )
        self.products += 1
        if length := np.linalg.norm(vector):
            self.norm = max(self.norm, float(np.linalg.norm(product) / length))
        if self.progress is not None:
            self.progress.update(self.products)
        return product

    def _adjoint(self) -> "HessianOperator":
        return self


def named(layers: str | Sequence[str] | None) -> list[str] | None:
    """Returns names of layers as a list, as JSON holds them, or None for all."""
    if layers is None:
        return None
    names = [layers] if isinstance(layers, str) else layers
    valid = isinstance(names, Sequence) and len(names) > 0
    if not valid or not all(isinstance(name, str) and name.strip("/") for name in names):
        raise ValueError(f"`layers` must be names, or None for all. Received: layers={layers!r}")
    return list(names)


def rademacher(size: int, seed: int, number: int) -> np.ndarray:
    """Returns random probe `number` of a seed: `(size,)` float64, each entry 1 or -1."""
    random = np.random.default_rng([seed, number])
    return 2.0 * random.integers(0, 2, size, dtype=np.int8) - 1.0


def _rows(objective: Objective, names: list[str] | None) -> slice | np.ndarray:
    """Returns a slice if there is one: indices would cost a copy at every product."""
    if names is None:
        return slice(objective.size)
    chosen = np.zeros(objective.size, bool)
    for name in names:
        part = f"/{name.strip('/')}/"
        owned = [rows for path, rows in objective.segments.items() if part in f"/{path}/"]
        if not owned:
            raise ValueError(
                "`layers` must name layers with trainable weights, or whole parts of the paths "
                f"{list(objective.segments)}. Received: {name!r}"
            )
        for rows in owned:
            chosen[rows] = True
    rows = np.flatnonzero(chosen)
    if rows.size and rows[-1] - rows[0] + 1 == rows.size:
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows
