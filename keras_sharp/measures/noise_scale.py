"""The gradient noise scale of McCandlish et al. 2018."""

import time
from typing import Any, NamedTuple, Unpack

import keras
import numpy as np
import tensorflow as tf

from keras_sharp.arguments import integer, optional_integer, verbosity
from keras_sharp.function_arguments import FunctionArguments, objective_of
from keras_sharp.objective import Objective
from keras_sharp.progress import Progress
from keras_sharp.results.noise import NoiseScaleResult
from keras_sharp.version import versions

# The default number of small batches. The relative error of the variance that they show is about
# that of so many draws; more would cost time, fewer precision.
_SMALL_BATCHES = 64

# A jackknife over fewer batches leaves one out of two, of which no variance is to be had.
_LEAST = 3

# Below so many of its standard errors, a denominator makes the ratio skew.
_CLEAR = 3.0


def noise_scale(
    model: keras.Model | Objective,
    ds: Any = None,
    *,
    small_batch: int | None = None,
    seed: int = 0,
    verbose: str | int = "auto",
    **function: Unpack[FunctionArguments],
) -> NoiseScaleResult:
    """Returns the batch size at which the noise of a gradient is as large as the gradient.

    `B_simple = tr(Sigma) / |G|^2`, where `G` and `Sigma` are mean and covariance of the gradients
    of single examples, of which `ds` is a sample. With the gradients `g_b` of `K` small batches of
    `B_b` examples and that of all `N` examples, `g`, both are estimated without bias, whatever
    the sizes:

        tr(Sigma) ~ sum_b B_b |g_b - g|^2 / (K - 1)
        |G|^2     ~ |g|^2 - tr(Sigma) / N

    For batches of one size these are the estimators of the paper with `B_big = N`. Training with
    batches far below the noise scale wastes no examples, far above it no steps. It grows during
    training; compare it over time rather than between architectures. The model is not changed.

    Args:
        model: A built Keras model, or an `Objective`, without `ds`.
        ds: Labelled data: a tuple of arrays, a `tf.data.Dataset` of batches, or a
            `keras.utils.PyDataset`. Small batches must be random samples: arrays are shuffled with
            `seed`, whatever their order. Of a pipeline only the examples within each of its batches
            are: one that yields label after label must be shuffled before (and cached, so that it
            yields the same twice), or the value is far too large.
        small_batch: Largest number of examples in a small batch, at most that of an evaluation
            batch. Smaller ones show the variance more precisely and take longer. Defaults to one
            64th of the examples, or to the evaluation batches if they are smaller. With
            BatchNormalization in batch mode the evaluation batch is part of the function: the small
            batches are the evaluation batches, in their order.
        seed: Decides which examples make up a small batch.
        verbose: `"auto"` shows a progress bar after two seconds, 1 at once, 0 never.
        **function: `loss`, `batch_norm`, `batch_size`, `penalties` and `check_data` of `Objective`.

    Returns:
        A `NoiseScaleResult`; `float(result)` is the value. It has none if the estimate of `|G|^2`
        is not positive, as happens near a minimum; `result.status` says so. The standard errors
        are those over samples of examples such as `ds`: a jackknife that leaves out one small batch
        at a time, joined by the delta method for the ratio.

    Raises:
        ValueError: For arguments out of range, fewer than three small batches, data or a model that
            `Objective` refuses, and a loss or gradient that is not finite.

    Note:
        The gradient of an example is `N` times its share in the gradient of `f`. For a mean of
        losses that is the gradient of its own loss, times its sample weight if there are any; the
        penalties are part of every example. Where a loss is averaged over something else (tokens
        under a mask, the sum of the sample weights), all batches are divided by the average over
        the whole data. The paper averages over steps of training instead: the callback
        `NoiseScale` does.

    Example:
    ```python
    result = noise_scale(model, (x_train, y_train))
    print(float(result), result.standard_error, result.status)
    ```

    References:
        - [McCandlish et al., 2018](https://arxiv.org/abs/1812.06162), section 2.2, appendix A.1.
    """
    small_batch = optional_integer("small_batch", small_batch)
    seed = integer("seed", seed, least=0)
    verbosity(verbose)
    objective = objective_of(model, ds, **function)
    started = time.perf_counter()
    settings = objective.settings
    size = _size(small_batch, settings)
    loss, gradient = objective.value_and_gradient(tf.constant(objective.weights))
    square = float(tf.reduce_sum(gradient**2))
    if not np.isfinite(loss) or not np.isfinite(square):
        raise ValueError(
            "The loss and its gradient at the model's weights must be finite. Look for NaN or "
            f"infinity in the data and the weights. Received: loss={loss}, |gradient|^2={square}"
        )
    sizes, deviations, along = [], [], []
    with Progress("noise_scale", settings["examples"], verbose) as progress:
        for examples, small in objective.gradients(batch_size=size, seed=seed):
            difference = small - gradient
            sizes.append(examples)
            deviations.append(float(tf.reduce_sum(difference**2)))
            along.append(float(tf.reduce_sum(difference * gradient)))
            progress.update(sum(sizes))
    if len(sizes) < _LEAST:
        remedy = "`batch_size`" if size is None else "`small_batch`"
        raise ValueError(
            f"There must be at least {_LEAST} small batches to see how they differ. Lower "
            f"{remedy}, or bring more examples. Received: {len(sizes)} of {sizes} examples"
        )
    estimate = jackknife(np.array(sizes), np.array(deviations), np.array(along), square)
    return NoiseScaleResult(
        **estimate._asdict(),
        loss=loss,
        status=_status(estimate),
        small_batch=max(sizes),
        small_batches=len(sizes),
        evaluations=2,
        seconds=time.perf_counter() - started,
        seed=seed,
        objective=objective.settings,
        versions=versions(),
    )


class Estimate(NamedTuple):
    """The noise scale and its parts with their standard errors, as in `NoiseScaleResult`."""

    value: float | None
    standard_error: float | None
    covariance_trace: float
    covariance_trace_error: float
    square_norm: float
    square_norm_error: float


def unbiased(spread: Any, batches: Any, examples: Any, square: Any) -> tuple[Any, Any]:
    """Returns unbiased estimates of `tr(Sigma)` and `|G|^2`: numbers, or arrays of one shape.

    Args:
        spread: `sum_b B_b |g_b - g|^2` over the small batches `b` of `B_b` examples.
        batches: Number of small batches, at least 2.
        examples: `sum_b B_b`.
        square: `|g|^2`, of the mean `g` over all examples.
    """
    trace = spread / (batches - 1)
    return trace, square - trace / examples


def jackknife(
    sizes: np.ndarray, deviations: np.ndarray, along: np.ndarray, square: float
) -> Estimate:
    """Returns the estimates, with standard errors from leaving out each small batch in turn.

    Args:
        sizes: `(K,)`, examples `B_b` in each small batch, `K >= 3`.
        deviations: `(K,)` float64, `|g_b - g|^2`.
        along: `(K,)` float64, `<g_b - g, g>`.
        square: `|g|^2`, of the mean `g` over all examples.
    """
    count, examples = len(sizes), sizes.sum()
    spread = float(sizes @ deviations)
    trace, norm = unbiased(spread, count, examples, square)
    # Without batch b the mean is g - shift (g_b - g), and the spread is around that mean.
    rest = examples - sizes
    shift = sizes / rest
    traces, norms = unbiased(
        spread - sizes * deviations * examples / rest,
        count - 1,
        rest,
        square - 2 * shift * along + shift**2 * deviations,
    )
    error = lambda left_out: float(np.sqrt((count - 1) * np.var(left_out)))  # noqa: E731
    value = standard_error = None
    if norm > 0:
        value = float(trace / norm)
        standard_error = error(traces - value * norms) / float(norm)
    return Estimate(value, standard_error, float(trace), error(traces), float(norm), error(norms))


def _size(small_batch: int | None, settings: dict[str, Any]) -> int | None:
    """Returns the size of the small batches; None: they are the evaluation batches."""
    largest = settings["batch_size"]
    normalizing = settings["batch_norm_layers"] > len(settings["frozen_batch_norm_layers"])
    if settings["batch_norm"] == "batch" and normalizing:
        if small_batch is not None:
            raise ValueError(
                '`small_batch` must be left out with `batch_norm="batch"`, where a batch cut into '
                "pieces is another function. Choose `batch_size`. "
                f"Received: small_batch={small_batch}"
            )
        return None
    if small_batch is None:
        return min(largest, max(1, settings["examples"] // _SMALL_BATCHES))
    if small_batch > largest:
        raise ValueError(
            "`small_batch` must not exceed the evaluation batch, which bounds the memory. "
            f"Received: small_batch={small_batch}, batch_size={largest}"
        )
    return small_batch


def _status(estimate: Estimate) -> str:
    norm, error = estimate.square_norm, estimate.square_norm_error
    if norm <= 0:
        return (
            f"The estimate of |G|^2 is not positive ({norm:.3g} ± {error:.2g}): the gradient "
            "drowns in the noise of the examples, and there are too few of them to tell."
        )
    if norm < _CLEAR * error:
        return (
            f"The estimate of |G|^2 is only {norm / error:.1f} standard errors above zero: its "
            "ratio is skew, and may lie farther off than its own error says. More examples help."
        )
    return "Numerator and denominator are clearly above zero: the standard error can be trusted."
