"""What `noise_scale` returns."""

import dataclasses
from typing import Any

from keras_sharp.results.base import Result


@dataclasses.dataclass(frozen=True, repr=False)
class NoiseScaleResult(Result):
    """The gradient noise scale at one model, and the function and the batches it came from.

    Attributes:
        value: `tr(Sigma) / |G|^2`, in examples; None if the estimate of `|G|^2` is not positive.
            `float(result)` is this number.
        standard_error: Of `value`, by the jackknife and the delta method; None like `value`.
        covariance_trace: Unbiased estimate of `tr(Sigma)`, the variance of an example's gradient
            summed over the weights.
        covariance_trace_error: Its standard error, by the jackknife.
        square_norm: Unbiased estimate of `|G|^2`. It can be negative.
        square_norm_error: Its standard error, by the jackknife.
        loss: `f` at the model's weights.
        status: Whether there is a value, and how far to trust it.
        small_batch: Examples in the largest small batch.
        small_batches: Number of small batches.
        evaluations: Passes over the data that computed a gradient.
        seconds: Wall-clock time, tracing included.
        seed: Seed of the small batches.
        objective: `Objective.settings`: the loss, data, batch size, BatchNormalization mode,
            replicas.
        versions: Versions of Keras, TensorFlow, SciPy and keras-sharp.
    """

    value: float | None
    standard_error: float | None
    covariance_trace: float
    covariance_trace_error: float
    square_norm: float
    square_norm_error: float
    loss: float
    status: str
    small_batch: int
    small_batches: int
    evaluations: int
    seconds: float
    seed: int
    objective: dict[str, Any]
    versions: dict[str, str]

    def __float__(self) -> float:
        if self.value is None:
            raise ValueError(f"The noise scale has no value here. {self.status}")
        return self.value

    def __repr__(self) -> str:
        value = "no value"
        if self.value is not None:
            value = f"{self.value:.4g} ± {self.standard_error:.2g} examples"
        function = self.objective
        return (
            f"NoiseScaleResult({value}: tr(Sigma) {self.covariance_trace:.4g} ± "
            f"{self.covariance_trace_error:.2g}, |G|^2 {self.square_norm:.4g} ± "
            f"{self.square_norm_error:.2g} over {function['weights']:,} weights; "
            f"{self.small_batches} batches of up to {self.small_batch} of "
            f"{function['examples']:,} examples, batch_norm={function['batch_norm']!r}; "
            f"{self.evaluations} gradient passes, {self.seconds:.1f} s. {self.status})"
        )
