"""Epsilon-sharpness, Metric 2.1 of Keskar et al. 2017."""

import time
from typing import Any, Unpack

import keras
import numpy as np

from keras_sharp.arguments import integer, one_of, optional_integer, positive, verbosity
from keras_sharp.function_arguments import FunctionArguments, objective_of
from keras_sharp.measures.ascent import SOLVERS, Ascent
from keras_sharp.measures.subspace import FullSpace, GaussianSubspace
from keras_sharp.objective import Objective
from keras_sharp.progress import Progress
from keras_sharp.results import SharpnessResult
from keras_sharp.version import versions


def sharpness(
    model: keras.Model | Objective,
    ds: Any = None,
    *,
    epsilon: float = 1e-3,
    subspace_dim: int | None = None,
    max_iterations: int = 10,
    solver: str = "l-bfgs-b",
    seed: int = 0,
    subspace_memory: int = 2**30,
    verbose: str | int = "auto",
    **function: Unpack[FunctionArguments],
) -> SharpnessResult:
    """Returns how much the loss can rise in a small box around a model's weights, in percent.

    `phi = 100 (max f(x + A y) - f(x)) / (1 + f(x))` over `|y_i| <= epsilon (|(A^+ x)_i| + 1)`,
    where `x` are the trainable weights and `f` is the mean loss over `ds`, dropout off. `A` is the
    identity (the paper's Table 3), or with `subspace_dim=p` an `(n, p)` matrix with N(0, 1) entries
    (Table 4). The model is not changed.

    Args:
        model: A built Keras model: functional, Sequential or subclassed. Or an `Objective`, without
            `ds`: several measurements of one function then share what it has read and traced.
        ds: Labelled data: a tuple of arrays `(x, y)` or `(x, y, sample_weight)`, a
            `tf.data.Dataset` of such batches, or a `keras.utils.PyDataset`. The paper uses the
            whole training set.
        epsilon: Radius of the box, `epsilon > 0`. The paper uses 1e-3 and 5e-4.
        subspace_dim: `p`; the paper uses 100. Defaults to None, the full space.
        max_iterations: Solver iterations. The paper uses 10, whatever the solver says of
            convergence.
        solver: `"l-bfgs-b"`, as the paper, or `"sign-ascent"`: `y <- bound * sign(gradient)`,
            cheaper for millions of weights since all but one number per pass stays on the device.
        seed: Seed of `A` and of the steps that leave a stationary point.
        subspace_memory: Bytes `A` may take; a larger one is drawn again block by block at every
            use.
        verbose: `"auto"` shows a progress bar after two seconds, 1 at once, 0 never.
        **function: `loss`, `batch_norm`, `batch_size`, `penalties` and `check_data` of `Objective`.
            With `batch_norm="inference"` (moving statistics, the default) or `"batch"` (statistics
            of the evaluation batch, as the paper's own networks) the value can differ by a factor
            of hundreds.

    Returns:
        A `SharpnessResult`; `float(result)` is the value.

    Raises:
        ValueError: For arguments out of range, data that are empty, unlabelled or change, labels
            that are no class, a model without weights or loss, and a loss that is not finite at the
            model's weights.
        FloatingPointError: If the loss is not finite somewhere in the box.

    Note:
        The paper leaves open the start of L-BFGS-B, its scaling, and the distribution of `A`. Here
        the start is `y = 0`, or, where the model sits at a stationary point, the highest point that
        sign ascent reaches from 16 random ones; the solver is handed `f` divided by its largest
        gradient entry, with zero tolerances, so that the value does not depend on the units of the
        loss and is never 0 because of a tolerance; and `A` is not normalised. A search that finds
        no higher point in ten evaluations is stopped before its tenth iteration.

    Example:
    ```python
    result = keras_sharp.sharpness(model, (x_train, y_train), epsilon=1e-3)
    print(float(result), result.status)
    ```

    References:
        - [Keskar et al., 2017](https://arxiv.org/abs/1609.04836), section 2.2.2.
    """
    search = {
        "epsilon": positive("epsilon", epsilon),
        "subspace_dim": optional_integer("subspace_dim", subspace_dim),
        "max_iterations": integer("max_iterations", max_iterations),
        "solver": one_of("solver", solver, tuple(SOLVERS)),
        "seed": integer("seed", seed, least=0),
    }
    subspace_memory = integer("subspace_memory", subspace_memory, least=0)
    verbosity(verbose)
    epsilon, subspace_dim, seed = search["epsilon"], search["subspace_dim"], search["seed"]
    objective = objective_of(model, ds, **function)
    started = time.perf_counter()
    centre = objective.weights
    if subspace_dim is None:
        space = FullSpace(centre)
    elif subspace_dim > centre.size:
        raise ValueError(
            "`subspace_dim` must not exceed the number of trainable weights. "
            f"Received: subspace_dim={subspace_dim}, weights={centre.size}"
        )
    else:
        space = GaussianSubspace(centre, subspace_dim, seed=seed, memory=subspace_memory)
    bound = epsilon * (np.abs(space.coordinates) + 1)
    with Progress("sharpness", search["max_iterations"], verbose) as progress:
        ascent = Ascent(objective, space, bound, seed, progress)
        end = SOLVERS[solver](ascent, search["max_iterations"])
    rise = 100 / (1 + ascent.loss)
    value, corner = rise * (ascent.best - ascent.loss), rise * (ascent.corner - ascent.loss)
    status = [end.sentence]
    if ascent.stationary:
        status.insert(0, "The weights are a stationary point, left by seeded steps.")
    if corner > value:
        status.append(
            f"The signed-gradient corner is higher ({corner:.4g}): take the value as a lower bound."
        )
    return SharpnessResult(
        value=value,
        loss=ascent.loss,
        max_loss=ascent.best,
        corner=corner,
        status=" ".join(status),
        solver_message=end.message,
        iterations=end.iterations,
        evaluations=ascent.evaluations,
        at_bounds=float(np.mean(np.abs(np.asarray(ascent.best_y)) >= bound * (1 - 1e-9))),
        seconds=time.perf_counter() - started,
        **search,
        objective=objective.settings,
        versions=versions(),
        converged=end.converged and corner <= value,
    )
