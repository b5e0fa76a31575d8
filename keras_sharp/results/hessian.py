"""What the measures of curvature return."""

import dataclasses
from typing import Any

import numpy as np

from keras_sharp.results.base import NOT_IN_JSON, Result

# Gaussians of this share of the spectrum's range show its bulk and its outliers side by side.
_WIDTH = 0.01


@dataclasses.dataclass(frozen=True, repr=False)
class HessianEigenvaluesResult(Result):
    """Eigenpairs of the Hessian at one model, and how far each can be trusted.

    Attributes:
        eigenvalues: `(k,)` float64: for `which="LA"` the largest first, for `"SA"` the smallest,
            for `"LM"` the largest in magnitude. `float(result)` is the first.
        eigenvectors: `(n, k)` float64, orthonormal, over all trainable weights: zero outside
            `layers`. None after JSON, which leaves them out.
        residuals: `(k,)` float64, `|H v - lambda v|` computed anew, and no smaller than products
            in the coarsest floating type of the model can show: an eigenvalue of the Hessian lies
            within this distance.
        converged: `(k,)` bool, whether the residual is within `tolerance * |lambda|`, or the
            eigenvalue is 0 as far as the floating type can tell.
        loss: `f` at the model's weights.
        status: One sentence or two: whether all pairs converged, and what to do if not.
        products: Hessian-vector products, those of the residuals included.
        seconds: Wall-clock time, tracing included.
        dimension: Number of weights in `layers`.
        k: Eigenpairs asked for.
        which: Which of them.
        layers: Names of the layers, or None for all trainable weights.
        tolerance: Relative tolerance.
        max_products: Products allowed.
        seed: Seed of the first vector.
        objective: `Objective.settings`.
        versions: Versions of Keras, TensorFlow, SciPy and keras-sharp.
    """

    eigenvalues: np.ndarray
    eigenvectors: np.ndarray | None = dataclasses.field(metadata=NOT_IN_JSON)
    residuals: np.ndarray
    converged: np.ndarray
    loss: float
    status: str
    products: int
    seconds: float
    dimension: int
    k: int
    which: str
    layers: list[str] | None
    tolerance: float
    max_products: int
    seed: int
    objective: dict[str, Any]
    versions: dict[str, str]

    def __float__(self) -> float:
        return float(self.eigenvalues[0])

    def __repr__(self) -> str:
        pairs = zip(self.eigenvalues, self.residuals, strict=True)
        listed = ", ".join(f"{value:.4g} (±{residual:.1g})" for value, residual in pairs)
        return f"HessianEigenvaluesResult({self.which} {listed}; {_about(self)})"


@dataclasses.dataclass(frozen=True, repr=False)
class HessianTraceResult(Result):
    """The trace of the Hessian at one model, with its standard error.

    Attributes:
        value: The estimate, the mean of `samples`. `float(result)` is this number.
        standard_error: Of the mean, from the spread of `samples`; 0 where the trace is exact.
        samples: `(probes used,)` float64, one unbiased estimate of the trace per probe; one alone
            where the trace is exact.
        converged: Whether the standard error is within `tolerance * |value|`, or None without one.
        loss: `f` at the model's weights.
        status: One sentence or two: how sure the value is.
        products: Hessian-vector products.
        seconds: Wall-clock time, tracing included.
        dimension: Number of weights in `layers`.
        method: `"hutch++"` or `"hutchinson"`.
        probes: Random probes allowed.
        sketch: Vectors of the sketch of Hutch++, or None.
        layers: Names of the layers, or None for all trainable weights.
        tolerance: Relative standard error at which to stop early, or None.
        seed: Seed of sketch and probes.
        objective: `Objective.settings`.
        versions: Versions of Keras, TensorFlow, SciPy and keras-sharp.
    """

    value: float
    standard_error: float
    samples: np.ndarray
    converged: bool | None
    loss: float
    status: str
    products: int
    seconds: float
    dimension: int
    method: str
    probes: int
    sketch: int | None
    layers: list[str] | None
    tolerance: float | None
    seed: int
    objective: dict[str, Any]
    versions: dict[str, str]

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        return (
            f"HessianTraceResult({self.value:.4g} ± {self.standard_error:.2g}, {self.method}; "
            f"{_about(self)})"
        )


@dataclasses.dataclass(frozen=True, repr=False)
class HessianDensityResult(Result):
    """The spectrum of the Hessian at one model, as points with weights.

    Attributes:
        nodes: `(probes, steps)` float64, where the eigenvalues are, as each probe sees it.
        weights: `(probes, steps)` float64, what share of them; each row adds up to 1. A probe whose
            Krylov space ended early repeats its last node with weight 0.
        loss: `f` at the model's weights.
        status: One sentence or two.
        products: Hessian-vector products.
        seconds: Wall-clock time, tracing included.
        dimension: Number of weights in `layers`, which is that of eigenvalues.
        probes: Random probes.
        steps: Lanczos steps per probe, at most `dimension`.
        layers: Names of the layers, or None for all trainable weights.
        seed: Seed of the probes.
        objective: `Objective.settings`.
        versions: Versions of Keras, TensorFlow, SciPy and keras-sharp.
    """

    nodes: np.ndarray
    weights: np.ndarray
    loss: float
    status: str
    products: int
    seconds: float
    dimension: int
    probes: int
    steps: int
    layers: list[str] | None
    seed: int
    objective: dict[str, Any]
    versions: dict[str, str]

    @property
    def converged(self) -> bool | None:
        """Whether the nodes are all that the probes see: more steps would not change them.

        None if they are not: a quadrature of so many steps as asked, exact for polynomials of
        degree `2 steps - 1`, as moments are.
        """
        return bool(self.steps == self.dimension or np.all(self.weights[:, -1] == 0)) or None

    def moment(self, order: int) -> tuple[float, float | None]:
        """Returns the mean of `lambda ** order` over the spectrum, and its standard error.

        The first moment is the trace divided by `dimension`. The standard error is that over
        probes: None if there is one alone.
        """
        samples = np.sum(self.weights * self.nodes**order, axis=1)
        error = np.std(samples, ddof=1) / np.sqrt(samples.size) if samples.size > 1 else None
        return float(np.mean(samples)), None if error is None else float(error)

    def grid(self, points: int = 1000, width: float | None = None) -> np.ndarray:
        """Returns `(points,)` evenly spaced values that cover the spectrum smeared by `width`."""
        margin = 5 * self._width(width)
        return np.linspace(self.nodes.min() - margin, self.nodes.max() + margin, points)

    def density(self, grid: np.ndarray, width: float | None = None) -> np.ndarray:
        """Returns the density of eigenvalues at each point of a grid, smeared with Gaussians.

        Its integral over the real line is 1, and `dimension` times its integral over an interval is
        about the number of eigenvalues there.

        Args:
            grid: Any shape.
            width: Standard deviation of the Gaussians, `width > 0`. Defaults to 1 % of the range of
                the nodes.

        Returns:
            float64, the shape of `grid`.
        """
        width, grid = self._width(width), np.asarray(grid, np.float64)
        total = np.zeros_like(grid)
        for node, weight in zip(self.nodes.flat, self.weights.flat, strict=True):
            total += weight * np.exp(-0.5 * ((grid - node) / width) ** 2)
        return total / (len(self.nodes) * width * np.sqrt(2 * np.pi))

    def _width(self, width: float | None) -> float:
        if width is None:
            # All eigenvalues may be one and the same.
            spread = np.ptp(self.nodes) or np.abs(self.nodes).max() or 1.0
            return float(_WIDTH * spread)
        if not 0 < width < np.inf:
            raise ValueError(f"`width` must be positive and finite. Received: width={width!r}")
        return float(width)

    def __repr__(self) -> str:
        mean, error = self.moment(1)
        spread = "" if error is None else f" ± {error:.1g}"
        return (
            f"HessianDensityResult({self.nodes.min():.4g} to {self.nodes.max():.4g}, mean "
            f"{mean:.4g}{spread}, {self.probes} probes of {self.steps} steps; {_about(self)})"
        )


def _about(result: Any) -> str:
    function = result.objective
    layers = "all" if result.layers is None else f"of {', '.join(result.layers)}"
    return (
        f"{result.dimension:,} weights, {layers}; loss {result.loss:.4g} over "
        f"{function['examples']:,} examples in batches of {function['batch_size']}, "
        f"batch_norm={function['batch_norm']!r}; {result.products} products, "
        f"{result.seconds:.1f} s. {result.status}"
    )
