"""The plane in which a training trajectory varies most."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Plane:
    """A plane through the end of a trajectory of `t` iterates.

    Attributes:
        centre: `(n,)`, the last iterate.
        directions: `(n, 2)`, orthonormal.
        path: `(t, 2)`, the iterates projected on the plane, relative to the last.
        explained: `(2,)`, share of the iterates' variance along each direction.
    """

    centre: np.ndarray
    directions: np.ndarray
    path: np.ndarray
    explained: np.ndarray


def principal_plane(iterates: Any) -> Plane:
    """Returns the two first principal components of the iterates of a training.

    Each points to the side on which the first iterate lies, seen from the last.

    Args:
        iterates: `(t, n)` array or list of flat weights, as `Objective.weights` reads them, the
            model's final weights last. At least three.

    Returns:
        A `Plane`, which `surface` takes as `directions`.

    Raises:
        ValueError: If the iterates are no such array, not finite, or all on one line.

    Example:
    ```python
    objective, iterates = keras_sharp.Objective(model, (x, y)), []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: iterates.append(objective.weights)
    )
    model.fit(x, y, epochs=30, callbacks=[keep])
    plane = keras_sharp.landscape.principal_plane(iterates)
    keras_sharp.plots.surface(keras_sharp.landscape.surface(objective, directions=plane))
    ```

    References:
        - [Li et al., 2018](https://arxiv.org/abs/1712.09913), section 7.
    """
    matrix = np.asarray(iterates, np.float64)
    if matrix.ndim != 2 or len(matrix) < 3 or not np.all(np.isfinite(matrix)):
        raise ValueError(
            "`iterates` must be an array `(t, n)` of finite flat weights with t >= 3. Received: "
            f"shape {matrix.shape}"
        )
    centre = matrix[-1].copy()
    # The spread is taken around the mean, as in every principal component analysis; the end point
    # is only where the plane is put.
    _, singular, rows = np.linalg.svd(matrix - matrix.mean(axis=0), full_matrices=False)
    if singular.size < 2 or singular[1] <= 1e-6 * singular[0]:
        raise ValueError(
            "`iterates` must span a plane. Received: iterates that are all on one line"
        )
    directions = rows[:2].T
    directions = directions * np.where((matrix[0] - centre) @ directions < 0, -1.0, 1.0)
    return Plane(
        centre=centre,
        directions=directions,
        path=(matrix - centre) @ directions,
        explained=(singular**2 / np.sum(singular**2))[:2],
    )
