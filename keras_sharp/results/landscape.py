"""What `landscape.path` and `landscape.surface` return."""

import dataclasses
from typing import Any

import numpy as np

from keras_sharp.results.base import Result


@dataclasses.dataclass(frozen=True, repr=False)
class PathResult(Result):
    """Loss and accuracy along a path between two models, `p` points.

    Attributes:
        alphas: `(p,)`, 0 at the first model and 1 at the second.
        train_loss: `(p,)`.
        train_accuracy: `(p,)`, 0 to 1, or None where the loss is none of classification.
        test_loss: `(p,)`, or None without test data.
        test_accuracy: `(p,)`, 0 to 1, or None.
        distance: `|x_b - x_a|`, Euclidean, over the trainable weights.
        kind: `"linear"` or `"curved"`.
        batch_norm: `"batch"`, `"interpolate"` or `"reestimate"`.
        status: A sentence.
        evaluations: Passes over the data, those that estimate statistics included.
        seconds: Wall-clock time, tracing included.
        objective: `Objective.settings` of the training data.
        test_objective: `Objective.settings` of the test data, or None.
        versions: Versions of Keras, TensorFlow, SciPy and keras-sharp.
    """

    alphas: np.ndarray
    train_loss: np.ndarray
    train_accuracy: np.ndarray | None
    test_loss: np.ndarray | None
    test_accuracy: np.ndarray | None
    distance: float
    kind: str
    batch_norm: str
    status: str
    evaluations: int
    seconds: float
    objective: dict[str, Any]
    test_objective: dict[str, Any] | None
    versions: dict[str, str]

    def __repr__(self) -> str:
        test = "no test data"
        if self.test_objective is not None:
            test = f"{self.test_objective['examples']:,} test examples"
        return (
            f"PathResult({self.kind}, {self.alphas.size} points from alpha {self.alphas.min():g} "
            f"to {self.alphas.max():g}, training loss {self.train_loss.min():.4g} to "
            f"{self.train_loss.max():.4g}; models {self.distance:.4g} apart in "
            f"{self.objective['weights']:,} weights; {self.objective['examples']:,} training and "
            f"{test} in batches of {self.objective['batch_size']}, "
            f"batch_norm={self.batch_norm!r}; {self.evaluations} passes, {self.seconds:.1f} s. "
            f"{self.status})"
        )


@dataclasses.dataclass(frozen=True, repr=False)
class SurfaceResult(Result):
    """Loss and accuracy on a line or a plane through a model's weights.

    Attributes:
        x: `(p,)`, steps along the first direction, 0 at the model.
        y: `(q,)`, steps along the second, or None on a line.
        loss: `(p,)`, or `(p, q)` with `loss[i, j]` at `x[i]`, `y[j]`.
        accuracy: As `loss`, 0 to 1, or None where the loss is none of classification.
        centre_loss: The loss at the model's weights.
        path: `(t, 2)`, a training trajectory projected on the plane, or None. It ends at 0, 0.
        explained: `(2,)`, the share of the trajectory's variance along each direction, or None.
        directions: What the directions are: `"random"`, `"trajectory"` or `"given"`.
        norms: `(1,)` or `(2,)`, Euclidean lengths of the directions: one step in weight space.
        cosine: Cosine of the angle between the directions, or None on a line.
        seed: Seed of random directions.
        cache: File that holds the rows, or None.
        status: A sentence.
        evaluations: Passes over the data; points read from the file cost none.
        seconds: Wall-clock time, tracing included.
        objective: `Objective.settings`.
        versions: Versions of Keras, TensorFlow, SciPy and keras-sharp.
    """

    x: np.ndarray
    y: np.ndarray | None
    loss: np.ndarray
    accuracy: np.ndarray | None
    centre_loss: float
    path: np.ndarray | None
    explained: np.ndarray | None
    directions: str
    norms: np.ndarray
    cosine: float | None
    seed: int
    cache: str | None
    status: str
    evaluations: int
    seconds: float
    objective: dict[str, Any]
    versions: dict[str, str]

    def __repr__(self) -> str:
        function = self.objective
        points = " x ".join(str(size) for size in self.loss.shape)
        return (
            f"SurfaceResult({points} points, {self.directions} directions, loss "
            f"{self.centre_loss:.4g} at the model, {self.loss.min():.4g} to {self.loss.max():.4g} "
            f"around it; {function['weights']:,} weights, {function['examples']:,} examples in "
            f"batches of {function['batch_size']}, batch_norm={function['batch_norm']!r}; "
            f"{self.evaluations} passes, {self.seconds:.1f} s. {self.status})"
        )
