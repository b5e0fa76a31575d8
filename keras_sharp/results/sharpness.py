"""What `sharpness` returns."""

import dataclasses
from typing import Any

from keras_sharp.results.base import Result


@dataclasses.dataclass(frozen=True, repr=False)
class SharpnessResult(Result):
    """Metric 2.1 of Keskar et al. at one model, and the function and search it came from.

    Attributes:
        value: `100 (max f - f(x)) / (1 + f(x))`, the sharpness. `float(result)` is this number.
        loss: `f(x)` at the model's weights.
        max_loss: The largest `f` at any point of the box that the solver evaluated.
        corner: Sharpness if the maximum were at the corner that the gradient's signs point to: one
            more forward pass, and a lower bound.
        status: One sentence or two: whether the search finished, and what to make of the value.
        solver_message: The solver's own last words.
        iterations: Solver iterations.
        evaluations: Passes over the data that computed a gradient, the start's included.
        at_bounds: Share of coordinates at their bounds at the maximum found, 0 to 1.
        seconds: Wall-clock time of the search, tracing included.
        epsilon: Radius of the box.
        subspace_dim: Dimension `p` of the random subspace, or None for the full space.
        solver: `"l-bfgs-b"` or `"sign-ascent"`.
        max_iterations: Iterations allowed.
        seed: Seed of the subspace and of the step that leaves a stationary point.
        objective: `Objective.settings`: the loss, data, batch size, BatchNormalization mode,
            replicas.
        versions: Versions of Keras, TensorFlow, SciPy and keras-sharp.
        converged: Whether the search ended in a maximum: the solver because no neighbour is higher,
            and the corner is not higher either. The paper's ten iterations mostly end before, and
            the value is then a lower bound. None in JSON of an earlier version.
    """

    value: float
    loss: float
    max_loss: float
    corner: float
    status: str
    solver_message: str
    iterations: int
    evaluations: int
    at_bounds: float
    seconds: float
    epsilon: float
    subspace_dim: int | None
    solver: str
    max_iterations: int
    seed: int
    objective: dict[str, Any]
    versions: dict[str, str]
    converged: bool | None = None

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        space = (
            "full space" if self.subspace_dim is None else f"random subspace of {self.subspace_dim}"
        )
        function = self.objective
        return (
            f"SharpnessResult({self.value:.4g}: loss {self.loss:.4g} -> {self.max_loss:.4g} within "
            f"epsilon {self.epsilon:g}, {space} of {function['weights']:,} weights; "
            f"{function['examples']:,} examples in batches of {function['batch_size']}, "
            f"batch_norm={function['batch_norm']!r}; {self.solver}, {self.iterations} iterations, "
            f"{self.evaluations} gradient passes, {self.seconds:.1f} s. {self.status})"
        )
