"""What the measures of adaptive sharpness return."""

import dataclasses
from typing import Any

import numpy as np

from keras_sharp.results.base import Result


@dataclasses.dataclass(frozen=True, repr=False)
class WorstCaseSharpnessResult(Result):
    """How much the loss can rise in a ball around one model, batch by batch.

    Attributes:
        value: Mean of `rises`, weighted by examples. `float(result)` is this number.
        standard_error: Of the mean, from the spread over batches, as if they were independent
            draws; None for one alone. It says nothing of what the ascent did not find.
        rises: `(batches,)` float64, highest loss found minus loss at the weights.
        sizes: `(batches,)` int, examples in each batch.
        loss: Loss at the model's weights, mean over the batches, weighted by examples.
        still_rising: Batches whose highest loss rose by more than 1 % of its rise in the last
            quarter of the iterations.
        status: One sentence or two: whether the ascents had settled.
        evaluations: Gradients of single batches.
        seconds: Wall-clock time, tracing included.
        rho: Radius of the ball.
        norm: `"linf"` or `"l2"`.
        adaptive: Whether the radius is in units of each weight's magnitude.
        m: Examples per batch asked for, or None for the whole set.
        iterations: Ascent steps per start.
        restarts: Starts.
        normalize_logits: Whether the logits were normalised.
        seed: Seed of the random starts.
        objective: `Objective.settings`.
        versions: Versions of Keras, TensorFlow, SciPy and keras-sharp.
    """

    value: float
    standard_error: float | None
    rises: np.ndarray
    sizes: np.ndarray
    loss: float
    still_rising: int
    status: str
    evaluations: int
    seconds: float
    rho: float
    norm: str
    adaptive: bool
    m: int | None
    iterations: int
    restarts: int
    normalize_logits: bool
    seed: int
    objective: dict[str, Any]
    versions: dict[str, str]

    @property
    def converged(self) -> bool:
        """Whether the ascents of all batches had settled."""
        return self.still_rising == 0

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        return (
            f"WorstCaseSharpnessResult({_value(self)}; {_about(self)}; {self.restarts} x "
            f"{self.iterations} steps, {self.evaluations} gradients, {self.seconds:.1f} s. "
            f"{self.status})"
        )


@dataclasses.dataclass(frozen=True, repr=False)
class AverageCaseSharpnessResult(Result):
    """How much the loss rises on average under random perturbations of one model.

    Attributes:
        value: Mean rise over samples and, weighted by examples, over batches. `float(result)` is
            this number.
        standard_error: Of the mean over perturbations, for these data.
        rises: `(batches, samples)` float64, loss at perturbed weights minus loss at the weights.
        sizes: `(batches,)` int, examples in each batch.
        loss: Loss at the model's weights, mean over the batches, weighted by examples.
        status: One sentence: how sure the value is.
        evaluations: Forward passes over single batches.
        seconds: Wall-clock time, tracing included.
        rho: Size of the perturbations.
        norm: `"l2"`: normal entries; `"linf"`: uniform ones.
        adaptive: Whether `rho` is in units of each weight's magnitude.
        m: Examples per batch asked for, or None for the whole set.
        samples: Perturbations per batch.
        normalize_logits: Whether the logits were normalised.
        seed: Seed of the perturbations.
        objective: `Objective.settings`.
        versions: Versions of Keras, TensorFlow, SciPy and keras-sharp.
    """

    value: float
    standard_error: float
    rises: np.ndarray
    sizes: np.ndarray
    loss: float
    status: str
    evaluations: int
    seconds: float
    rho: float
    norm: str
    adaptive: bool
    m: int | None
    samples: int
    normalize_logits: bool
    seed: int
    objective: dict[str, Any]
    versions: dict[str, str]

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        return (
            f"AverageCaseSharpnessResult({_value(self)}; {_about(self)}; {self.samples} samples, "
            f"{self.evaluations} forward passes, {self.seconds:.1f} s. {self.status})"
        )


def _value(result: Any) -> str:
    error = "" if result.standard_error is None else f" ± {result.standard_error:.2g}"
    return f"{result.value:.4g}{error} above loss {result.loss:.4g}"


def _about(result: Any) -> str:
    function = result.objective
    return (
        f"rho {result.rho:g} in {'adaptive ' if result.adaptive else ''}{result.norm}, "
        f"{function['weights']:,} weights; {function['examples']:,} examples in "
        f"{len(result.sizes)} batches of m={result.m}"
        f"{', normalised logits' if result.normalize_logits else ''}, "
        f"batch_norm={function['batch_norm']!r}"
    )
