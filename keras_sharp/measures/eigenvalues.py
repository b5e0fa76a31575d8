"""The ends of the Hessian's spectrum."""

import time
from collections.abc import Callable
from typing import Any, Unpack

import keras
import numpy as np
import scipy.sparse.linalg
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence

from keras_sharp.arguments import integer, one_of, positive, verbosity
from keras_sharp.function_arguments import FunctionArguments, objective_of
from keras_sharp.measures.hessian import HessianOperator, named
from keras_sharp.measures.loss import finite_loss
from keras_sharp.objective import Objective
from keras_sharp.progress import Progress
from keras_sharp.results.hessian import HessianEigenvaluesResult
from keras_sharp.version import versions

# How each choice sorts the eigenvalues, the first one wanted most.
_ORDER = {"LA": lambda values: -values, "SA": lambda values: values, "LM": lambda v: -np.abs(v)}


def hessian_eigenvalues(
    model: keras.Model | Objective,
    ds: Any = None,
    *,
    k: int = 5,
    which: str = "LA",
    layers: str | list[str] | None = None,
    tolerance: float = 1e-3,
    max_products: int = 1000,
    seed: int = 0,
    verbose: str | int = "auto",
    **function: Unpack[FunctionArguments],
) -> HessianEigenvaluesResult:
    """Returns the eigenvalues at one end of the Hessian's spectrum, with their eigenvectors.

    `H v = lambda v`, `H` the Hessian of the mean loss over `ds` at the model's weights, dropout
    off, by implicitly restarted Lanczos (`scipy.sparse.linalg.eigsh`). It keeps `max(2 k + 1, 20)`
    vectors of as many float64 as there are weights: 160 MB per million weights for up to nine
    pairs. No more weights than that, and the Hessian is made whole instead, a product for each. The
    model is not changed.

    Args:
        model: A built Keras model, or an `Objective`, without `ds`.
        ds: Labelled data: a tuple of arrays, a `tf.data.Dataset` of batches, or a
            `keras.utils.PyDataset`.
        k: Number of eigenpairs.
        which: `"LA"`, the largest; `"SA"`, the smallest, that is the most negative; or `"LM"`, the
            largest in magnitude.
        layers: Whose block of the Hessian, as `HessianOperator` takes them. Defaults to all
            trainable weights.
        tolerance: Residual `|H v - lambda v|` at which a pair has converged, relative to
            `|lambda|`. The relative error of the eigenvalue itself is at most that, and near its
            square if the next one is far away. Products are no more exact than
            `HessianOperator.precision`: a layer in float16 needs 0.01, in bfloat16 0.1 for the
            largest eigenvalues, and small ones are not to be had.
        max_products: Hessian-vector products allowed, at least `4 max(2 k + 1, 20) + 3`; each is a
            pass over the data that costs two to three gradients. The largest few eigenvalues mostly
            need 20 to 100, the smallest several times as many.
        seed: Seed of the first vector.
        verbose: `"auto"` shows a progress bar after two seconds, 1 at once, 0 never; it ends when
            all pairs have converged, mostly long before `max_products`.
        **function: `loss`, `batch_norm`, `batch_size`, `penalties` and `check_data` of `Objective`.

    Returns:
        A `HessianEigenvaluesResult`, always of `k` pairs, each with its residual and whether it
        converged; `float(result)` is the first eigenvalue.

    Raises:
        ValueError: For arguments out of range, data or a model that `Objective` refuses, and a loss
            that is not finite.
        FloatingPointError: If a product is not finite.
        NotImplementedError: If an operation of the model has no second derivative.

    Note:
        Of an eigenvalue that occurs several times, Lanczos may find fewer copies and go on to the
        next: a flat direction of many, with `which="SA"`, can stand for all.

        Eigenvalues change when layers are rescaled without changing what the network computes:
        compare them between equal architectures trained alike.

    Example:
    ```python
    result = keras_sharp.hessian_eigenvalues(model, (x_train, y_train), k=3)
    print(result.eigenvalues, result.residuals, result.converged)
    ```

    References:
        - [Lehoucq et al., 1998](https://doi.org/10.1137/1.9780898719628), ARPACK.
    """
    search = {
        "k": integer("k", k),
        "which": one_of("which", which, tuple(_ORDER)),
        "layers": named(layers),
        "tolerance": positive("tolerance", tolerance),
        "max_products": integer("max_products", max_products),
        "seed": integer("seed", seed, least=0),
    }
    verbosity(verbose)
    objective = objective_of(model, ds, **function)
    started = time.perf_counter()
    operator = HessianOperator(objective, search["layers"])
    solve = _solver(operator.shape[0], search["k"], search["max_products"])
    loss = finite_loss(objective)
    with Progress("hessian_eigenvalues", search["max_products"], verbose) as operator.progress:
        values, vectors, images = solve(operator, search)
    order = np.argsort(_ORDER[which](values), kind="stable")[: search["k"]]
    values, vectors, images = values[order], vectors[:, order], images[:, order]
    # Products that are no more exact than this cannot show a smaller residual, nor tell a smaller
    # eigenvalue from 0.
    least = operator.precision * operator.norm
    residuals = np.maximum(np.linalg.norm(images - values * vectors, axis=0), least)
    zero = np.maximum(residuals, np.abs(values)) <= least
    converged = zero | (residuals <= search["tolerance"] * np.abs(values))
    return HessianEigenvaluesResult(
        eigenvalues=values,
        eigenvectors=operator.embed(vectors),
        residuals=residuals,
        converged=converged,
        loss=loss,
        status=_status(converged, residuals <= least, operator),
        products=operator.products,
        seconds=time.perf_counter() - started,
        dimension=operator.shape[0],
        **search,
        objective=objective.settings,
        versions=versions(),
    )


def _solver(size: int, k: int, max_products: int) -> Any:
    """Returns the solver, once its arguments are known to suffice."""
    basis = _basis(k)
    if k > size:
        raise ValueError(
            f"`k` must not exceed the number of weights. Received: k={k}, weights={size}"
        )
    least = size if size <= basis else 4 * basis + 3
    if max_products < least:
        raise ValueError(
            f"`max_products` must be at least {least} for {k} eigenpairs of {size} weights. "
            f"Received: max_products={max_products}"
        )
    return _dense if size <= basis else _lanczos


def _basis(k: int) -> int:
    return max(2 * k + 1, 20)


def _dense(operator: HessianOperator, _: dict[str, Any]) -> tuple[np.ndarray, ...]:
    """Returns all eigenvalues, eigenvectors, and the Hessian's products with them."""
    hessian = operator @ np.eye(operator.shape[0])
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    return values, vectors, hessian @ vectors


def _lanczos(operator: HessianOperator, search: dict[str, Any]) -> tuple[np.ndarray, ...]:
    """Returns `k` eigenvalues, eigenvectors, and the Hessian's products with them."""
    k, which, tolerance = search["k"], search["which"], search["tolerance"]
    basis, size = _basis(k), operator.shape[0]
    start = np.random.default_rng(search["seed"]).standard_normal(size)
    # What is kept back pays for the shift, for pairs that do not converge, and for the residuals.
    restarts = (search["max_products"] - (3 * basis + k + 3)) // (basis - k)
    shifted, shift = operator, 0.0
    try:
        if which == "SA":
            # Where the loss is flat the smallest eigenvalue is 0, and no residual is small beside
            # it. Beside one shifted by this much, half the tolerance is what rounding leaves.
            _rough(operator.matvec, start, 1, "LM", basis)
            shift = operator.precision * operator.norm / tolerance
            tolerance = tolerance / 2
            shifted = _operator(size, lambda vector: operator.matvec(vector) - shift * vector)
        values, vectors = scipy.sparse.linalg.eigsh(
            shifted, k, which=which, v0=start, ncv=basis, maxiter=restarts, tol=tolerance
        )
        values = values + shift
    except ArpackNoConvergence as stopped:
        found = stopped.eigenvectors

        def without(vector: np.ndarray) -> np.ndarray:
            return vector - found @ (found.T @ vector)

        # ARPACK gives out none but those that converged: rough ones take the others' places.
        values, vectors = _rough(
            lambda vector: without(operator.matvec(without(vector))),
            without(start),
            k - stopped.eigenvalues.size,
            which,
            basis,
        )
        values = np.concatenate([stopped.eigenvalues + shift, values])
        vectors = np.concatenate([found, vectors], axis=1)
    except ArpackError:
        # ARPACK has no answer to a matrix of zeros.
        if operator.norm > 0:
            raise
        values, vectors = np.zeros(k), np.eye(size, k)
    return values, vectors, operator @ vectors


def _rough(
    product: Callable[[np.ndarray], np.ndarray], start: np.ndarray, k: int, which: str, basis: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the best pairs of a single round of Lanczos: so large a tolerance takes any."""
    return scipy.sparse.linalg.eigsh(
        _operator(start.size, product), k, which=which, v0=start, ncv=basis, maxiter=1, tol=1e12
    )


def _operator(
    size: int, product: Callable[[np.ndarray], np.ndarray]
) -> scipy.sparse.linalg.LinearOperator:
    return scipy.sparse.linalg.LinearOperator(
        (size, size), lambda vector: product(vector.ravel()), dtype=np.float64
    )


def _status(converged: np.ndarray, rounded: np.ndarray, operator: HessianOperator) -> str:
    products = operator.products
    if converged.all():
        return f"All of {converged.size} eigenpairs converged in {products} products."
    remedy = "Raise `max_products` or `tolerance`."
    if np.all(converged | rounded):
        remedy = (
            f"Products are exact to {operator.precision:.1g} of the largest eigenvalue: raise "
            "`tolerance`, or take a model in a finer floating type."
        )
    return (
        f"{np.sum(converged)} of {converged.size} eigenpairs converged in {products} products; an "
        f"eigenvalue lies within its residual of each of the others. {remedy}"
    )
