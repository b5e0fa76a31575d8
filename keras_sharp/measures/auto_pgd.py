"""Auto-PGD: climbing inside a ball with a step that halves where it no longer helps."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Croce & Hein 2020, section 3: the share of a step that is new; the share of improving steps below
# which the step is halved; and after which intervals that is looked at, in percent of all
# iterations: from the first on, each is shorter than the one before, down to the shortest.
_NEW, _IMPROVING = 0.75, 0.75
_FIRST, _SHORTER, _SHORTEST = 22, 3, 6


class Ball(NamedTuple):
    """All `u` with `|u| <= radius`.

    Attributes:
        norm: `"l2"` or `"linf"`.
        radius: Its radius.
    """

    norm: str
    radius: float

    def steepest(self, gradient: np.ndarray) -> np.ndarray:
        """Returns the vector of norm 1 that a gradient rises along most; 0 if it is flat."""
        if self.norm == "linf":
            return np.sign(gradient)
        length = np.linalg.norm(gradient)
        return gradient / length if length > 0 else gradient

    def rise(self, gradient: np.ndarray) -> float:
        """Returns how much a linear function of that gradient rises from centre to edge."""
        return self.radius * float(np.linalg.norm(gradient, 1 if self.norm == "linf" else 2))

    def nearest(self, u: np.ndarray) -> np.ndarray:
        """Returns the point of the ball nearest to `u` in the Euclidean norm."""
        if self.norm == "linf":
            return np.clip(u, -self.radius, self.radius)
        length = np.linalg.norm(u)
        return u * (self.radius / length) if length > self.radius else u

    def random(self, random: np.random.Generator, size: int) -> np.ndarray:
        """Returns a point distributed evenly over the ball."""
        if self.norm == "linf":
            return random.uniform(-self.radius, self.radius, size)
        direction = random.standard_normal(size)
        return direction * (
            self.radius * random.uniform() ** (1 / size) / np.linalg.norm(direction)
        )


def climb(
    evaluate: Callable[[np.ndarray], tuple[float, np.ndarray]],
    ball: Ball,
    start: np.ndarray,
    value: float,
    gradient: np.ndarray,
    iterations: int,
) -> list[float]:
    """Climbs from a point of a ball, and returns the highest value so far after each step.

    Args:
        evaluate: Returns value and gradient at a point.
        ball: The ball.
        start: `(n,)`, where to start.
        value: Value there.
        gradient: `(n,)`, gradient there.
        iterations: Steps, each one evaluation.

    Returns:
        `iterations + 1` values, that of the start first.
    """
    checks, checked = checkpoints(iterations), 0
    step, improved = 2 * ball.radius, 0
    u = previous = start
    best, best_u, best_gradient = value, start, gradient
    highest, at_check = [value], (step, value)
    for done in range(1, iterations + 1):
        ahead = ball.nearest(u + step * ball.steepest(gradient))
        if done > 1:  # before, there is no momentum to mix in
            ahead = ball.nearest(u + _NEW * (ahead - u) + (1 - _NEW) * (u - previous))
        previous, u = u, ahead
        last, (value, gradient) = value, evaluate(u)
        improved += value > last
        if value > best:
            best, best_u, best_gradient = value, u, gradient
        highest.append(best)
        if done in checks:
            stuck = improved < _IMPROVING * (done - checked) or at_check == (step, best)
            checked, improved, at_check = done, 0, (step, best)
            if stuck:
                step /= 2
                u, previous, value, gradient = best_u, best_u, best, best_gradient
    return highest


def checkpoints(iterations: int) -> set[int]:
    """Returns the numbers of steps after which the step length is looked at."""
    done, interval, percents = 0, _FIRST, []
    while done < 100:
        done += interval
        percents.append(done)
        interval = max(interval - _SHORTER, _SHORTEST)
    return {-(-percent * iterations // 100) for percent in percents}
