"""The trace of the Hessian."""

import time
from typing import Any, Unpack

import keras
import numpy as np

from keras_sharp.arguments import integer, one_of, positive, verbosity
from keras_sharp.function_arguments import FunctionArguments, objective_of
from keras_sharp.measures.hessian import HessianOperator, named, rademacher
from keras_sharp.measures.loss import finite_loss
from keras_sharp.objective import Objective
from keras_sharp.progress import Progress
from keras_sharp.results.hessian import HessianTraceResult
from keras_sharp.version import versions

# The spread of fewer probes says little about their error, and two lucky ones can look converged.
_LEAST = 10


def hessian_trace(
    model: keras.Model | Objective,
    ds: Any = None,
    *,
    method: str = "hutch++",
    probes: int = 30,
    sketch: int | None = None,
    layers: str | list[str] | None = None,
    tolerance: float | None = None,
    seed: int = 0,
    verbose: str | int = "auto",
    **function: Unpack[FunctionArguments],
) -> HessianTraceResult:
    """Returns an estimate of the trace of the Hessian, unbiased without `tolerance`.

    Hutchinson: the mean of `g^T H g` over random probes `g` of 1 and -1. Hutch++: with `Q` an
    orthonormal basis of `H S`, the sketch `S` random too,

        tr(Q^T H Q) + mean of g^T (1 - Q Q^T) H (1 - Q Q^T) g,

    so that the few large eigenvalues of a trained network are summed instead of sampled. `H` is the
    Hessian of the mean loss over `ds` at the model's weights, dropout off. The model is not
    changed.

    Args:
        model: A built Keras model, or an `Objective`, without `ds`.
        ds: Labelled data: a tuple of arrays, a `tf.data.Dataset` of batches, or a
            `keras.utils.PyDataset`.
        method: `"hutch++"` or `"hutchinson"`.
        probes: Number of probes `g`, at least 10: as many Hessian-vector products. A product is a
            pass over the data that costs two to three gradients.
        sketch: Columns of `S`, for Hutch++: twice as many products, and as many vectors to keep, of
            as many float64 as there are weights. If there are no more weights than that, the trace
            is exact, by one product for each. Defaults to `probes`, the paper's thirds.
        layers: Whose block of the Hessian, as `HessianOperator` takes them. Defaults to all
            trainable weights.
        tolerance: Standard error, relative to the trace, at which to draw no more probes. Defaults
            to None: draw all.
        seed: Seed of `S` and the probes.
        verbose: `"auto"` shows a progress bar after two seconds, 1 at once, 0 never.
        **function: `loss`, `batch_norm`, `batch_size`, `penalties` and `check_data` of `Objective`.

    Returns:
        A `HessianTraceResult` with the estimates of the single probes; `float(result)` is the
        value. The standard error is from their spread, given `Q`.

    Raises:
        ValueError: For arguments out of range, data or a model that `Objective` refuses, and a loss
            that is not finite.
        FloatingPointError: If a product is not finite.
        NotImplementedError: If an operation of the model has no second derivative.

    Note:
        The trace changes when layers are rescaled without changing what the network computes:
        compare it between equal architectures trained alike.

    Example:
    ```python
    result = keras_sharp.hessian_trace(model, (x_train, y_train), tolerance=0.05)
    print(result.value, result.standard_error)
    ```

    References:
        - [Meyer et al., 2021](https://arxiv.org/abs/2010.09649), algorithm 1.
    """
    search = {
        "method": one_of("method", method, ("hutch++", "hutchinson")),
        "probes": integer("probes", probes, least=_LEAST),
        "sketch": None,
        "layers": named(layers),
        "tolerance": None if tolerance is None else positive("tolerance", tolerance),
        "seed": integer("seed", seed, least=0),
    }
    if method == "hutch++":
        search["sketch"] = search["probes"] if sketch is None else integer("sketch", sketch)
    elif sketch is not None:
        raise ValueError(f'`sketch` is for method="hutch++" alone. Received: sketch={sketch!r}')
    verbosity(verbose)
    objective = objective_of(model, ds, **function)
    started = time.perf_counter()
    operator = HessianOperator(objective, search["layers"])
    loss = finite_loss(objective)
    size, columns = operator.shape[0], search["sketch"] or 0
    exact = size <= columns
    target = size if exact else 2 * columns + search["probes"]
    with Progress("hessian_trace", target, verbose) as operator.progress:
        samples = _sum_of_diagonal(operator) if exact else _samples(operator, search)
    value, error = float(np.mean(samples)), 0.0 if exact else _standard_error(samples)
    bound = None if search["tolerance"] is None else search["tolerance"] * abs(value)
    return HessianTraceResult(
        value=value,
        standard_error=error,
        samples=samples,
        converged=None if bound is None else error <= bound,
        loss=loss,
        status=_status(value, error, len(samples), exact, bound),
        products=operator.products,
        seconds=time.perf_counter() - started,
        dimension=size,
        **search,
        objective=objective.settings,
        versions=versions(),
    )


def _sum_of_diagonal(operator: HessianOperator) -> np.ndarray:
    """Returns the trace itself, `(1,)`."""
    units = np.eye(operator.shape[0])
    return np.array([sum(unit @ operator.matvec(unit) for unit in units)])


def _samples(operator: HessianOperator, search: dict[str, Any]) -> np.ndarray:
    """Returns the estimates of the probes, `(probes used,)`; without a sketch, Hutchinson's."""
    size, seed, columns = operator.shape[0], search["seed"], search["sketch"] or 0
    images = [operator.matvec(rademacher(size, seed, number)) for number in range(columns)]
    basis, _ = np.linalg.qr(np.stack(images, axis=1) if images else np.empty((size, 0)))
    captured = sum(column @ operator.matvec(column) for column in basis.T)
    samples: list[float] = []
    for number in range(columns, columns + search["probes"]):
        probe = rademacher(size, seed, number)
        probe -= basis @ (basis.T @ probe)
        samples.append(captured + probe @ operator.matvec(probe))
        if search["tolerance"] is not None and len(samples) >= _LEAST:
            if _standard_error(samples) <= search["tolerance"] * abs(np.mean(samples)):
                break
    return np.array(samples)


def _standard_error(samples: list[float] | np.ndarray) -> float:
    return float(np.std(samples, ddof=1) / np.sqrt(len(samples)))


def _status(value: float, error: float, probes: int, exact: bool, bound: float | None) -> str:
    if exact:
        return "The trace is exact: the sum of the diagonal."
    known = f"{abs(error / value):.1%} of the trace" if value else f"{error:.2g}"
    sentence = f"The standard error of {probes} probes is {known}"
    if bound is None or error <= bound:
        return f"{sentence}."
    return f"{sentence}, more than asked for: raise `probes`, or `sketch` of Hutch++."
