"""Loss and accuracy on a path between two models."""

import time
from typing import Any, TypedDict, Unpack

import keras
import numpy as np
import scipy.special
import tensorflow as tf

from keras_sharp.arguments import one_of, verbosity
from keras_sharp.normalization import batch_normalizations, moving_statistics
from keras_sharp.objective import Objective
from keras_sharp.progress import Progress
from keras_sharp.results.landscape import PathResult
from keras_sharp.version import versions
from keras_sharp.weights import FlatVariables, FlatWeights

# Shares of the first and the second model at alpha. Sine and cosine are of degrees, so that they
# are 0 and 1 to the bit where the path meets a model.
KINDS = {
    "linear": lambda alpha: (1 - alpha, alpha),
    "curved": lambda alpha: (
        float(scipy.special.cosdg(90 * alpha)),
        float(scipy.special.sindg(90 * alpha)),
    ),
}
BATCH_NORM = ("batch", "interpolate", "reestimate")


class PathFunctionArguments(TypedDict, total=False):
    """The keyword arguments of `Objective` that a path passes on."""

    loss: Any
    batch_size: int | None
    penalties: bool
    check_data: bool


def path(
    model_a: keras.Model,
    model_b: keras.Model,
    train: Any,
    *,
    test: Any = None,
    kind: str = "linear",
    alphas: Any = None,
    batch_norm: str = "batch",
    verbose: str | int = "auto",
    **function: Unpack[PathFunctionArguments],
) -> PathResult:
    """Returns loss and accuracy along a path through the weights of two models.

    Linear: `f(alpha x_b + (1 - alpha) x_a)`. Curved: `f(sin(alpha pi/2) x_b + cos(alpha pi/2)
    x_a)`. Only trainable weights move, gamma and beta of BatchNormalization among them. Neither
    model is changed.

    Args:
        model_a: The model at `alpha = 0`; in the paper the one trained with small batches.
        model_b: The model at `alpha = 1`, of the same structure.
        train: Labelled data: a tuple of arrays, a `tf.data.Dataset` of batches or a
            `keras.utils.PyDataset`.
        test: Labelled data of the same kind, or None.
        kind: `"linear"` or `"curved"`.
        alphas: `(p,)` points of the path. Defaults to 25 from -1 to 2, as in the paper.
        batch_norm: What BatchNormalization layers normalise with. `"batch"`: the statistics of the
            evaluation batch, as the authors did. `"interpolate"`: moving statistics interpolated
            like the weights. `"reestimate"`: means and variances over the training data, estimated
            at every point.
        verbose: `"auto"` shows a progress bar after two seconds, 1 at once, 0 never.
        **function: `loss` (the compiled one of `model_a` by default), `batch_size`, `penalties` and
            `check_data` of `Objective`.

    Returns:
        A `PathResult`. At alpha 0 and 1 it is what `Objective(...).evaluate()` of the two models
        returns, and with `batch_norm="interpolate"` what their own `evaluate` does, unless
        statistics are re-estimated.

    Raises:
        ValueError: For arguments out of range, models that differ in more than weights, and
            `"interpolate"` beyond the alphas at which all variances are positive.
        FloatingPointError: If the loss is not finite somewhere on the path.

    Example:
    ```python
    result = keras_sharp.landscape.path(small_batch, large_batch, (x, y), test=(x_test, y_test))
    keras_sharp.plots.path(result)
    ```

    References:
        - [Keskar et al., 2017](https://arxiv.org/abs/1609.04836), section 2.2.1 and appendix D.
    """
    one_of("kind", kind, list(KINDS))
    one_of("batch_norm", batch_norm, BATCH_NORM)
    verbosity(verbose)
    alphas = _points(alphas)
    started = time.perf_counter()
    shares = [KINDS[kind](alpha) for alpha in alphas.tolist()]
    weights = [FlatWeights(model) for model in (model_a, model_b)]
    statistics = [FlatVariables(moving_statistics(model)) for model in (model_a, model_b)]
    _check_shapes(weights, "trainable weights")
    _check_shapes(statistics, "moving statistics")
    start, end = (flat.read() for flat in weights)
    moving = [_mixed(pair, *(flat.read() for flat in statistics)) for pair in shares]
    if batch_norm == "interpolate":
        _check_variances(alphas, moving)
    mode = "batch" if batch_norm == "batch" else "inference"
    objectives = [
        Objective(model_a, data, batch_norm=mode, **function)
        for data in (train, test)
        if data is not None
    ]
    _check_same_function(model_a, model_b, objectives[0].batches, weights, statistics)
    if batch_norm != "interpolate":
        _check_no_renorm(model_a)
    reestimate = batch_norm == "reestimate" and statistics[0].size > 0
    values = np.empty((len(objectives), alphas.size, 2))
    with Progress(f"{kind} path", alphas.size, verbose) as progress:
        for point, alpha in enumerate(alphas):
            at, norms = _mixed(shares[point], start, end), moving[point]
            if reestimate:
                norms = objectives[0].estimate_statistics(at)
            for which, objective in enumerate(objectives):
                loss, accuracy = objective.evaluate(at, norms)
                if not np.isfinite(loss):
                    raise FloatingPointError(
                        f"The loss must be finite on the whole path. Received: {loss} at "
                        f"alpha={alpha:g}. Choose `alphas` nearer to 0 and 1."
                    )
                values[which, point] = loss, np.nan if accuracy is None else accuracy
            progress.update(point + 1)
    train_loss, train_accuracy = _loss_and_accuracy(values[0])
    test_loss, test_accuracy = (None, None) if test is None else _loss_and_accuracy(values[1])
    settings = [objective.settings for objective in objectives]
    return PathResult(
        alphas=alphas,
        train_loss=train_loss,
        train_accuracy=train_accuracy,
        test_loss=test_loss,
        test_accuracy=test_accuracy,
        distance=float(np.linalg.norm(end - start)),
        kind=kind,
        batch_norm=batch_norm,
        status=f"All {alphas.size} points were evaluated.",
        evaluations=alphas.size * (len(objectives) + reestimate),
        seconds=time.perf_counter() - started,
        objective=settings[0],
        test_objective=None if test is None else settings[1],
        versions=versions(),
    )


def _points(alphas: Any) -> np.ndarray:
    points = np.linspace(-1, 2, 25) if alphas is None else np.array(alphas, np.float64)
    if points.ndim != 1 or not points.size or not np.all(np.isfinite(points)):
        raise ValueError(f"`alphas` must be a list of finite numbers. Received: alphas={alphas!r}")
    return points


def _loss_and_accuracy(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    loss, accuracy = values.T
    # Whether there is an accuracy is a matter of the loss function, not of the point.
    return loss, None if np.isnan(accuracy).any() else accuracy


def _mixed(shares: tuple[float, float], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return shares[0] * a + shares[1] * b


def _check_shapes(pair: list[FlatVariables], what: str) -> None:
    shapes = [flat.shapes for flat in pair]
    if shapes[0] == shapes[1]:
        return
    differing = [each for each in zip(*shapes, strict=False) if each[0] != each[1]]
    first = differing[0] if differing else tuple(len(each) for each in shapes)
    raise ValueError(
        f"`model_a` and `model_b` must have the same structure. Received: {what} of shapes (or in "
        f"numbers) {first[0]} and {first[1]}"
    )


def _check_same_function(
    model_a: keras.Model,
    model_b: keras.Model,
    batches: Any,
    weights: list[FlatVariables],
    statistics: list[FlatVariables],
) -> None:
    """Checks that `model_a` is `model_b` once it has its weights and statistics."""
    x = next(iter(batches))[0]
    values = [
        pair
        for own, other in (weights, statistics)
        for pair in own.pairs(tf.constant(other.read(), own.dtype))
    ]
    of_b = [pair for own in weights[1:] for pair in own.pairs(tf.constant(own.read(), own.dtype))]
    pair = []
    for model, at in ((model_a, values), (model_b, of_b)):
        with keras.StatelessScope(at, collect_losses=True):
            outputs = keras.tree.flatten(model(x, training=False))
            penalties = [tf.reduce_sum(penalty) for penalty in model.losses]
        pair.append([np.nan_to_num(leaf) for leaf in [*outputs, sum(penalties, 0.0)]])
    a, b = pair
    same = len(a) == len(b) and all(
        one.shape == other.shape
        and np.allclose(one, other, rtol=1e-3, atol=1e-3 * float(np.abs(other).max()))
        for one, other in zip(a, b, strict=True)
    )
    if not same:
        raise ValueError(
            "`model_a` and `model_b` must differ in trainable weights and moving statistics only: "
            "with those of `model_b`, `model_a` computes something else. Look for other "
            "activations, regularizers or options of layers, and for frozen weights that differ. "
            f"Received: {model_a.name!r} and {model_b.name!r}"
        )


def _check_variances(alphas: np.ndarray, moving: list[np.ndarray]) -> None:
    negative = [bool(np.any(values[values.size // 2 :] < 0)) for values in moving]
    if any(negative):
        allowed = alphas[~np.array(negative)]
        within = f"{allowed.min():g} to {allowed.max():g}" if allowed.size else "none"
        raise ValueError(
            "A moving variance interpolated like the weights is negative outside of the two "
            'models. Take `batch_norm="reestimate"` or `"batch"`, or `alphas` where all are '
            f"positive: {within}. Received: alphas from {alphas.min():g} to {alphas.max():g}"
        )


def _check_no_renorm(model: keras.Model) -> None:
    for layer in batch_normalizations(model):
        if layer.trainable and getattr(layer, "renorm", False):
            raise ValueError(
                "BatchNormalization with `renorm=True` depends on its moving statistics in batch "
                f'mode too: take `batch_norm="interpolate"`. Received: {layer.name!r}'
            )
