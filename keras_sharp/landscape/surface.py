"""Loss and accuracy on a line or a plane through a model's weights."""

import functools
import json
import os
import time
from typing import Any, Unpack

import keras
import numpy as np

from keras_sharp.arguments import integer, one_of, verbosity
from keras_sharp.fingerprint import describe_model
from keras_sharp.function_arguments import FunctionArguments, objective_of
from keras_sharp.hashing import ArrayHash, joint_hash
from keras_sharp.landscape.cache import RowCache
from keras_sharp.landscape.directions import random_directions
from keras_sharp.landscape.trajectory import Plane
from keras_sharp.objective import Objective
from keras_sharp.progress import Progress
from keras_sharp.results.landscape import SurfaceResult
from keras_sharp.version import versions
from keras_sharp.weights import FlatVariables


def surface(
    model: keras.Model | Objective,
    ds: Any = None,
    *,
    directions: str | np.ndarray | Plane = "random",
    dimensions: int = 2,
    extent: Any = None,
    points: Any = 25,
    cache: str | os.PathLike | None = None,
    seed: int = 0,
    verbose: str | int = "auto",
    **function: Unpack[FunctionArguments],
) -> SurfaceResult:
    """Returns `f(w + x d_1)` or `f(w + x d_1 + y d_2)` on a grid, and the accuracy there.

    `w` are the model's trainable weights. The model is not changed.

    Args:
        model: A built Keras model, or an `Objective`, without `ds`.
        ds: Labelled data: a tuple of arrays, a `tf.data.Dataset` of batches or a
            `keras.utils.PyDataset`.
        directions: `"random"`: filter-normalised Gaussian ones. An array `(n,)`, `(n, 1)` or
            `(n, 2)`, taken as it is, such as eigenvectors of the Hessian. Or a `Plane` from
            `principal_plane(iterates)`, on which the trajectory is then drawn.
        dimensions: 1 or 2, of random directions.
        extent: How far to go, in lengths of the directions: a number `r` for -r to r, or a pair
            `(low, high)` for each direction. Defaults to 1, and to a margin around the trajectory.
        points: Points along each direction, a number or two. An odd one has the model in the grid.
        cache: Folder in which finished rows are kept, in a file named by a hash of weights, the
            layers' configurations, data, directions, grid and settings. The same call again goes on
            after the last of them, a call with anything changed has another file.
        seed: Seed of random directions.
        verbose: `"auto"` shows a progress bar after two seconds, 1 at once, 0 never.
        **function: `loss`, `batch_norm`, `batch_size`, `penalties` and `check_data` of `Objective`.

    Returns:
        A `SurfaceResult`.

    Raises:
        ValueError: For arguments out of range, a plane that is not the model's, and a cached row
            that is not what the model gives.
        FloatingPointError: If the loss is not finite somewhere on the grid.

    Note:
        The hash does not know the code of a model's own layers. When rows are read, one of their
        points is evaluated again, and must agree.

    Example:
    ```python
    result = keras_sharp.landscape.surface(model, (x, y), cache="surfaces")
    keras_sharp.plots.surface(result)
    ```

    References:
        - [Li et al., 2018](https://arxiv.org/abs/1712.09913).
    """
    seed = integer("seed", seed, least=0)
    dimensions = one_of("dimensions", integer("dimensions", dimensions), (1, 2))
    verbosity(verbose)
    objective = objective_of(model, ds, **function)
    started = time.perf_counter()
    centre = objective.weights
    name, basis = _basis(directions, objective, dimensions, seed)
    plane = directions if isinstance(directions, Plane) else None
    axes = _axes(_limits(extent, plane, basis.shape[1]), points)
    grid = _Grid(objective, centre, basis, axes)
    shape = tuple(axis.size for axis in axes)
    table = np.full((*shape, 2), np.nan)
    # First, so that whatever is wrong with model or data comes up before a file is looked for.
    centre_loss = grid.evaluate(*(0.0 for _ in axes))[0]
    rows = file = None
    done = 0
    if cache is not None:
        key = _key(objective, centre, basis, axes)
        rows, known = objective.workers.from_chief(
            "cache", functools.partial(_cached, cache, key, table.shape)
        )
        file, done = str(rows.file), len(known)
        table[:done] = known
        if done:
            _check_still_true(grid, table, file)
    with Progress("surface", shape[0], verbose) as progress:
        for row in range(done, shape[0]):
            for rest in np.ndindex(shape[1:]):
                index = (row, *rest)
                table[index] = grid.at(index)
            if rows is not None:
                write = functools.partial(rows.write, table[: row + 1])
                objective.workers.from_chief(f"row {row}", write)
            progress.update(row + 1)
    norms = np.linalg.norm(basis, axis=0)
    accuracy = table[..., 1]
    status = f"All {table[..., 0].size} points were evaluated."
    if done:
        status = f"{done} of {shape[0]} rows were read from the cache."
    return SurfaceResult(
        x=axes[0],
        y=axes[1] if len(axes) == 2 else None,
        loss=table[..., 0],
        accuracy=None if np.isnan(accuracy).any() else accuracy,
        centre_loss=centre_loss,
        path=None if plane is None else plane.path,
        explained=None if plane is None else plane.explained,
        directions=name,
        norms=norms,
        cosine=float(basis[:, 0] @ basis[:, 1] / np.prod(norms)) if len(axes) == 2 else None,
        seed=seed,
        cache=file,
        status=status,
        evaluations=grid.evaluations,
        seconds=time.perf_counter() - started,
        objective=objective.settings,
        versions=versions(),
    )


class _Grid:
    """The function on the grid."""

    def __init__(
        self, objective: Objective, centre: np.ndarray, basis: np.ndarray, axes: list[np.ndarray]
    ):
        self._objective, self._centre, self._basis, self._axes = objective, centre, basis, axes
        self.evaluations = 0

    def at(self, index: tuple[int, ...]) -> tuple[float, float]:
        """Returns loss and accuracy at a point of the grid, NaN where there is no accuracy."""
        return self.evaluate(*(axis[i] for axis, i in zip(self._axes, index, strict=True)))

    def evaluate(self, *steps: float) -> tuple[float, float]:
        loss, accuracy = self._objective.evaluate(self._centre + self._basis @ np.array(steps))
        self.evaluations += 1
        if not np.isfinite(loss):
            where = ", ".join(f"{step:g}" for step in steps)
            raise FloatingPointError(
                f"The loss must be finite on the whole grid. Received: {loss} at {where}. Choose "
                "a smaller `extent`."
            )
        return loss, np.nan if accuracy is None else accuracy


def _basis(
    directions: Any, objective: Objective, dimensions: int, seed: int
) -> tuple[str, np.ndarray]:
    """Returns what the directions are, and they themselves, `(n, 1)` or `(n, 2)`."""
    if isinstance(directions, str):
        if directions != "random":
            raise ValueError(
                '`directions` must be "random", an array or a `Plane`. Received: '
                f"directions={directions!r}"
            )
        return "random", random_directions(objective.model, dimensions, seed=seed)
    if isinstance(directions, Plane):
        weights = objective.weights
        if directions.centre.shape != weights.shape or not np.allclose(
            directions.centre, weights, rtol=1e-5, atol=1e-7
        ):
            raise ValueError(
                "`directions` must come from iterates the last of which is the model's current "
                "weights: its moving statistics belong to those. Append `Objective.weights` to the "
                "iterates, or load the last iterate into the model. Received: "
                f"{_distance(directions.centre, weights)}"
            )
        return "trajectory", directions.directions
    basis = np.asarray(directions, np.float64)
    basis = basis[:, None] if basis.ndim == 1 else basis
    n = objective.size
    if basis.shape not in ((n, 1), (n, 2)):
        raise ValueError(
            f"`directions` must have shape ({n},), ({n}, 1) or ({n}, 2). Received: shape "
            f"{np.shape(directions)}"
        )
    if not np.all(np.isfinite(basis)) or not np.all(np.any(basis != 0, axis=0)):
        lengths = np.linalg.norm(basis, axis=0).tolist()
        raise ValueError(
            f"`directions` must be finite and not 0. Received: directions of lengths {lengths}"
        )
    return "given", basis


def _distance(iterate: np.ndarray, weights: np.ndarray) -> str:
    if iterate.shape != weights.shape:
        return f"a last iterate of shape {iterate.shape}, and weights of shape {weights.shape}"
    return f"a last iterate at a distance of {np.linalg.norm(iterate - weights):.3g}"


def _limits(extent: Any, plane: Plane | None, count: int) -> list[tuple[float, float]]:
    if extent is None and plane is not None:
        low, high = plane.path.min(axis=0), plane.path.max(axis=0)
        margin = 0.15 * (high - low)
        return list(zip((low - margin).tolist(), (high + margin).tolist(), strict=True))
    limits = np.array(1.0 if extent is None else extent, np.float64)
    if limits.ndim == 0:
        limits = np.array([-limits, limits])
    if limits.ndim == 1:
        limits = np.stack([limits] * count)
    if (
        limits.shape != (count, 2)
        or not np.all(np.isfinite(limits))
        or np.any(limits[:, 0] >= limits[:, 1])
    ):
        raise ValueError(
            "`extent` must be a positive number, or `(low, high)` with low < high, once or for "
            f"each of {count} directions. Received: extent={extent!r}"
        )
    return [tuple(pair) for pair in limits.tolist()]


def _axes(limits: list[tuple[float, float]], points: Any) -> list[np.ndarray]:
    counts = list(points) if isinstance(points, tuple | list) else [points] * len(limits)
    if len(counts) != len(limits):
        raise ValueError(
            f"`points` must be a number, or one for each of {len(limits)} directions. "
            f"Received: points={points!r}"
        )
    return [
        np.linspace(low, high, integer("points", count, least=2))
        for (low, high), count in zip(limits, counts, strict=True)
    ]


def _key(
    objective: Objective, centre: np.ndarray, basis: np.ndarray, axes: list[np.ndarray]
) -> str:
    """Hash of all that decides the numbers; names and the number of replicas do not."""
    settings = objective.settings
    del settings["model"], settings["replicas"]
    settings["frozen_batch_norm_layers"] = len(settings["frozen_batch_norm_layers"])
    settings["losses"] = [term | {"output": None} for term in settings["losses"]]
    made = [describe_model(objective.model), settings, versions()]
    text = json.dumps(made, sort_keys=True, default=str).encode()
    others = [v for v in objective.model.non_trainable_weights if "float" in v.dtype]
    fixed = FlatVariables(others).read()
    arrays = [centre, fixed, basis, *axes, np.frombuffer(text, np.uint8)]
    return joint_hash([ArrayHash(array) for array in arrays])


def _cached(
    folder: str | os.PathLike, key: str, shape: tuple[int, ...]
) -> tuple[RowCache, np.ndarray]:
    rows = RowCache(folder, key, shape)
    return rows, rows.read()


def _check_still_true(grid: _Grid, table: np.ndarray, file: str) -> None:
    first = (0,) * (table.ndim - 1)
    loss, _ = grid.at(first)
    if not np.isclose(loss, table[first][0], rtol=1e-4, atol=1e-9):
        raise ValueError(
            f"The rows in {file!r} must be of this model. It has the same weights, configuration, "
            "data and settings, but computes something else: its code has changed. Delete the file "
            f"or give another `cache`. Received: loss {loss:.6g} where the file has "
            f"{table[first][0]:.6g}"
        )
