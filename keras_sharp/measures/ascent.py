"""Climbing to the highest point of an objective in a box."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import tensorflow as tf

from keras_sharp.measures.loss import is_stationary
from keras_sharp.measures.subspace import FullSpace, GaussianSubspace
from keras_sharp.objective import Objective
from keras_sharp.progress import Progress

# A stationary point is left by so many random steps of this part of the box, each followed uphill:
# from a single one, ascent can end in a corner far below the highest.
_STARTS, _STEP = 16, 0.1

# Near the maximum the differences of f drown in its rounding, and a line search goes on for dozens
# of passes over the data. So many evaluations in a row without a higher point end it.
_PATIENCE = 10


class Search(NamedTuple):
    """How a solver ended.

    Attributes:
        iterations: Its iterations.
        message: Its own last words.
        sentence: What they mean for the value.
        converged: Whether it ended because no neighbour is higher.
    """

    iterations: int
    message: str
    sentence: str
    converged: bool = False


class Ascent:
    """`f(x + A y)` over `|y| <= bound`: where to start, and the highest point so far.

    Args:
        objective: `f`.
        space: `x` and `A`.
        bound: `(p,)` float64, half the edges of the box.
        seed: Seed of the steps that leave a stationary point.
        progress: Is told the highest `f` and the iterations.

    Attributes:
        loss: `f(x)`.
        start: `(p,)` float64, where a solver starts: 0, or the highest point found around a
            stationary point.
        start_value: `f` there.
        gradient: `(p,)` float64, its gradient there.
        stationary: Whether `x` is a stationary point.
        corner: `f` at the corner the signs of `gradient` point to.
        best: Highest `f` a solver evaluated.
        best_y: `(p,)` float64, where: NumPy or a tensor.
        evaluations: Gradient passes so far.
        stalled: Evaluations in a row that found no higher point.

    Raises:
        ValueError: If `f` or its gradient is not finite at `x`, or `1 + f(x)` is not positive.
        FloatingPointError: Here or later, if `f` is not finite in the box.
    """

    def __init__(
        self,
        objective: Objective,
        space: FullSpace | GaussianSubspace,
        bound: np.ndarray,
        seed: int,
        progress: Progress,
    ):
        self._objective = objective
        self._space = space
        self._progress = progress
        self.bound = bound
        self._bound_on_device = tf.constant(bound)
        self.evaluations, self.stalled = 1, 0
        self.start = self.best_y = np.zeros_like(bound)
        loss, gradient = objective.value_and_gradient(space.lift(self.start))
        _check_start(loss, gradient)
        self.loss = self.best = self.start_value = loss
        self.gradient = space.pull(gradient)
        self.stationary = is_stationary(objective, loss, float(np.abs(self.gradient) @ bound))
        if self.stationary:
            self._leave(np.random.default_rng(seed))
        self.corner = objective.value(space.lift(self.corner_from(self.start, self.gradient)))
        _check_finite(self.corner)

    def evaluate(self, y: Any) -> tuple[float, Any]:
        """Returns `f` at `y` and its gradient over `y`, of the kind of `y`: NumPy or a tensor."""
        value, gradient = self._objective.value_and_gradient(self._space.lift(y))
        _check_finite(value)
        self.evaluations += 1
        visible = self.best + self._objective.rounding * abs(self.best)
        self.stalled = 0 if value > visible else self.stalled + 1
        if value > self.best:
            self.best, self.best_y = value, y if isinstance(y, tf.Tensor) else y.copy()
        self._progress.note(loss=self.best)
        return value, self._space.pull(gradient)

    def corner_from(self, y: Any, gradient: Any) -> tf.Tensor:
        """Returns the corner the signs point to; a coordinate without a slope stays at `y`."""
        return tf.where(gradient == 0, y, self._bound_on_device * tf.sign(gradient))

    def advance(self, iterations: int) -> None:
        """Shows how many iterations are done."""
        self._progress.update(iterations)

    def _leave(self, random: np.random.Generator) -> None:
        """Climbs by sign ascent from random points near `x`, and starts at the highest it saw."""
        for _ in range(_STARTS):
            y = tf.constant(_STEP * self.bound * random.uniform(-1, 1, self.bound.size))
            previous = -np.inf
            value, gradient = self.evaluate(y)
            while value > previous:
                if value == self.best:
                    self.start = np.array(y)
                    self.start_value, self.gradient = value, np.asarray(gradient)
                previous, y = value, self.corner_from(y, gradient)
                value, gradient = self.evaluate(y)
        self.stalled = 0


class _Stalled(Exception):
    """The solver finds no higher point any more."""


def lbfgsb(ascent: Ascent, max_iterations: int) -> Search:
    """SciPy's L-BFGS-B on `-f / max|gradient|`, without tolerances.

    Its first step is as long as the gradient it is handed. Unscaled, that is far shorter than the
    box of a well-trained network, and ten iterations never leave its centre.
    """
    scale = float(np.max(np.abs(ascent.gradient)))
    if scale == 0:
        return Search(0, "not started", "As far as a gradient sees, the loss has no slope here.")
    iterations = 0

    def descend(y: np.ndarray) -> tuple[float, np.ndarray]:
        if ascent.stalled >= _PATIENCE:
            raise _Stalled
        at_start = np.array_equal(y, ascent.start)
        known = ascent.start_value, ascent.gradient
        value, gradient = known if at_start else ascent.evaluate(y)
        return -value / scale, -gradient / scale

    def count(_: np.ndarray) -> None:
        nonlocal iterations
        iterations += 1
        ascent.advance(iterations)

    try:
        outcome = scipy.optimize.minimize(
            descend,
            ascent.start,
            jac=True,
            method="L-BFGS-B",
            bounds=scipy.optimize.Bounds(-ascent.bound, ascent.bound),
            callback=count,
            options={"maxiter": max_iterations, "ftol": 0, "gtol": 0},
        )
    except _Stalled:
        message = f"no higher point in {_PATIENCE} evaluations"
        sentence = f"The solver was stopped after {iterations} iterations: {message}."
        return Search(iterations, message, sentence)
    if outcome.status == 1:
        sentence = f"The solver stopped at its limit of {max_iterations} iterations, as asked."
    elif outcome.success:
        sentence = f"The solver converged after {iterations} iterations."
    else:
        sentence = f"The solver gave up after {iterations} iterations: take it as a lower bound."
    converged = outcome.status == 0 and outcome.success
    return Search(iterations, str(outcome.message), sentence, converged)


def sign_ascent(ascent: Ascent, max_iterations: int) -> Search:
    """`y <- bound * sign(gradient)`, monotone where `f` is convex; `y` stays on the device."""
    y, gradient = tf.constant(ascent.start), tf.convert_to_tensor(ascent.gradient)
    for done in range(max_iterations):
        corner = ascent.corner_from(y, gradient)
        if bool(tf.reduce_all(corner == y)):
            sentence = f"The corner reached after {done} iterations is a fixed point."
            return Search(done, "fixed point", sentence, converged=True)
        y = corner
        _, gradient = ascent.evaluate(y)
        ascent.advance(done + 1)
    sentence = f"Sign ascent stopped at its limit of {max_iterations} iterations, as asked."
    return Search(max_iterations, "iteration limit", sentence)


SOLVERS: dict[str, Callable[[Ascent, int], Search]] = {
    "l-bfgs-b": lbfgsb,
    "sign-ascent": sign_ascent,
}


def _check_start(loss: float, gradient: np.ndarray) -> None:
    if not np.isfinite(loss) or not np.all(np.isfinite(gradient)):
        raise ValueError(
            "The loss and its gradient at the model's weights must be finite: there is no minimum "
            "to measure. Look for NaN or infinity in the data and the weights. Received: "
            f"loss={loss}, largest gradient={np.max(np.abs(gradient))}"
        )
    if loss <= -1:
        raise ValueError(
            f"Sharpness divides by 1 + loss, which must be positive. Received: loss={loss}"
        )


def _check_finite(value: float) -> None:
    if not np.isfinite(value):
        raise FloatingPointError(
            f"The loss is {value} at a point of the box: its maximum cannot be computed. Try a "
            "smaller `epsilon`, or a model in float32 or float64."
        )
