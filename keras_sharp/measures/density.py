"""The density of the Hessian's spectrum."""

import time
from typing import Any, Unpack

import keras
import numpy as np
import scipy.linalg

from keras_sharp.arguments import integer, verbosity
from keras_sharp.function_arguments import FunctionArguments, objective_of
from keras_sharp.measures.hessian import HessianOperator, named, rademacher
from keras_sharp.measures.loss import finite_loss
from keras_sharp.objective import Objective
from keras_sharp.progress import Progress
from keras_sharp.results.hessian import HessianDensityResult
from keras_sharp.version import versions


def hessian_density(
    model: keras.Model | Objective,
    ds: Any = None,
    *,
    probes: int = 5,
    steps: int = 80,
    layers: str | list[str] | None = None,
    seed: int = 0,
    verbose: str | int = "auto",
    **function: Unpack[FunctionArguments],
) -> HessianDensityResult:
    """Returns how the eigenvalues of the Hessian are distributed, by stochastic Lanczos quadrature.

    From each random probe of 1 and -1, `steps` Lanczos steps make a tridiagonal matrix. Its
    eigenvalues are nodes and the squared first entries of its eigenvectors are weights, with which
    the mean of any polynomial of degree below `2 steps` over the spectrum is what the probe itself
    would give. Every new vector is orthogonalised against all before it, so that no eigenvalue is
    found twice. `H` is the Hessian of the mean loss over `ds` at the model's weights, dropout off.
    The model is not changed.

    Args:
        model: A built Keras model, or an `Objective`, without `ds`.
        ds: Labelled data: a tuple of arrays, a `tf.data.Dataset` of batches, or a
            `keras.utils.PyDataset`.
        probes: Random probes; two or more give moments their standard error.
        steps: Lanczos steps per probe: as many Hessian-vector products, and as many vectors to
            keep, of as many float64 as there are weights. A product is a pass over the data that
            costs two to three gradients. With as many steps as weights, or more, the nodes are the
            eigenvalues.
        layers: Whose block of the Hessian, as `HessianOperator` takes them. Defaults to all
            trainable weights.
        seed: Seed of the probes.
        verbose: `"auto"` shows a progress bar after two seconds, 1 at once, 0 never.
        **function: `loss`, `batch_norm`, `batch_size`, `penalties` and `check_data` of `Objective`.

    Returns:
        A `HessianDensityResult` of nodes and weights, with `density(grid)` and `moment(order)`.

    Raises:
        ValueError: For arguments out of range, data or a model that `Objective` refuses, and a loss
            that is not finite.
        FloatingPointError: If a product is not finite.
        NotImplementedError: If an operation of the model has no second derivative.

    Example:
    ```python
    result = keras_sharp.hessian_density(model, (x_train, y_train))
    grid = result.grid()
    plt.semilogy(grid, result.density(grid) + 1e-8)
    ```

    References:
        - [Ghorbani et al., 2019](https://arxiv.org/abs/1901.10159), section 2.
        - [Ubaru et al., 2017](https://doi.org/10.1137/16M1104974), stochastic Lanczos quadrature.
    """
    search = {
        "probes": integer("probes", probes),
        "layers": named(layers),
        "seed": integer("seed", seed, least=0),
    }
    steps = integer("steps", steps)
    verbosity(verbose)
    objective = objective_of(model, ds, **function)
    started = time.perf_counter()
    operator = HessianOperator(objective, search["layers"])
    loss = finite_loss(objective)
    size = operator.shape[0]
    steps = min(steps, size)
    nodes, weights = np.zeros((2, search["probes"], steps))
    with Progress("hessian_density", search["probes"] * steps, verbose) as operator.progress:
        for number in range(search["probes"]):
            probe = rademacher(size, search["seed"], number)
            diagonal, off = lanczos(operator, probe, steps, operator.precision)
            ritz, vectors = scipy.linalg.eigh_tridiagonal(diagonal, off)
            nodes[number] = np.pad(ritz, (0, steps - ritz.size), mode="edge")
            weights[number, : ritz.size] = vectors[0] ** 2
    return HessianDensityResult(
        nodes=nodes,
        weights=weights,
        loss=loss,
        status=_status(search["probes"], steps, size, operator.products, operator.precision),
        products=operator.products,
        seconds=time.perf_counter() - started,
        dimension=size,
        steps=steps,
        **search,
        objective=objective.settings,
        versions=versions(),
    )


def lanczos(
    operator: HessianOperator, start: np.ndarray, steps: int, negligible: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tridiagonal matrix of a symmetric operator in the Krylov space of a vector.

    Args:
        operator: `(n, n)`.
        start: `(n,)`, not zero.
        steps: At most `n`.
        negligible: Length of a new direction, relative to the operator's norm, at which there is
            none: the space is invariant, and the matrix as good as one of all steps.

    Returns:
        Its diagonal, `(m,)` with `m <= steps`, and the diagonal beside it, `(m - 1,)`.
    """
    basis = np.empty((steps, start.size))
    diagonal, off = [], []
    vector = start / np.linalg.norm(start)
    for step in range(steps):
        basis[step] = vector
        known = basis[: step + 1]
        image = operator.matvec(vector)
        diagonal.append(vector @ image)
        # Against its two neighbours, of which it has most, and then once more against all.
        image -= diagonal[-1] * vector
        if off:
            image -= off[-1] * basis[step - 1]
        image -= known.T @ (known @ image)
        length = np.linalg.norm(image)
        if step + 1 == steps or length <= negligible * operator.norm:
            break
        off.append(length)
        vector = image / length
    return np.array(diagonal), np.array(off)


def _status(probes: int, steps: int, size: int, products: int, precision: float) -> str:
    if products < probes * steps:
        return (
            f"Some probes saw in fewer than {steps} steps all that products exact to "
            f"{precision:.1g} of the largest eigenvalue show."
        )
    if steps == size:
        return "The nodes are the eigenvalues that the probes see."
    return f"{probes} probes took {steps} steps each, as asked."
