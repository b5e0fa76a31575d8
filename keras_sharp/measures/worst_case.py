"""Worst-case sharpness of Andriushchenko et al. 2023."""

import time
from typing import Any, NamedTuple, Unpack

import keras
import numpy as np

from keras_sharp.arguments import integer, verbosity
from keras_sharp.function_arguments import FunctionArguments
from keras_sharp.measures.auto_pgd import Ball, climb
from keras_sharp.measures.loss import finite_loss, is_stationary
from keras_sharp.measures.neighbourhood import Neighbourhood, checked, finite
from keras_sharp.objective import Objective
from keras_sharp.progress import Progress
from keras_sharp.results.adaptive import WorstCaseSharpnessResult
from keras_sharp.version import versions

# A rise that still gains this share of itself in the last quarter of the iterations isn't settled.
_SETTLED = 0.01


def worst_case_sharpness(
    model: keras.Model | Objective,
    ds: Any = None,
    *,
    rho: float = 0.1,
    norm: str = "linf",
    adaptive: bool = True,
    m: int | None = 128,
    iterations: int = 20,
    restarts: int = 1,
    normalize_logits: bool = False,
    seed: int = 0,
    verbose: str | int = "auto",
    **function: Unpack[FunctionArguments],
) -> WorstCaseSharpnessResult:
    """Returns how much the loss can rise in a ball whose axes are the weights' magnitudes.

    The mean over batches `B` of `m` examples of

        max L_B(w + c u) - L_B(w)  over  |u|_p <= rho,

    where `c = |w|` (adaptive) or 1, `p` is infinity or 2, `L_B` is the mean loss over `B` with
    dropout off, and the maximum is what Auto-PGD finds. Adaptive, it does not change when layers
    are rescaled without changing what the network computes; a weight that is 0 does not move. The
    model is not changed.

    Args:
        model: A built Keras model, or an `Objective`, without `ds`.
        ds: Labelled data: a tuple of arrays, a `tf.data.Dataset` of batches, or a
            `keras.utils.PyDataset`. The paper takes 1,024 training examples; a run costs
            `restarts * (iterations + 1)` gradient passes over them.
        rho: Radius, `rho > 0`; 0.1 is the default of the authors' code. They take .25 to 2 in l2
            for a ResNet-18, and .001 in linf for a vision transformer.
        norm: `"linf"` or `"l2"`.
        adaptive: Whether the radius is in units of each weight's magnitude.
        m: Examples per batch, in the order of the data: the smaller, the sharper. With
            BatchNormalization in batch mode these are the batches whose statistics it uses.
            None: the whole set at once, in evaluation batches.
        iterations: Steps of Auto-PGD.
        restarts: Starts: the weights, then random points of the ball.
        normalize_logits: Whether to take the loss of normalised logits, `NormalizedLogits`, so that
            the scale of the last layer plays no part. The loss must be a single one from logits.
        seed: Seed of the random starts.
        verbose: `"auto"` shows a progress bar after two seconds, 1 at once, 0 never.
        **function: `loss`, `batch_norm`, `batch_size`, `penalties` and `check_data` of `Objective`.

    Returns:
        A `WorstCaseSharpnessResult`; `float(result)` is the value. Ascent finds a lower bound;
        `status` says whether it had settled.

    Raises:
        ValueError: For arguments out of range, adaptive with no weight but 0, data or a model that
            `Objective` refuses, and a loss that is not finite at the weights.
        FloatingPointError: If the loss is not finite somewhere in the ball.

    Note:
        The authors' code differs. There all restarts begin at the weights; here only the first one,
        and none where the weights are a stationary point of the batch's loss. Its l2 step
        is `c g`, and points are projected in the Euclidean norm of the weights; here both steps
        and projection are taken over `u`, where the ellipsoid is a ball: the step is then
        `c^2 g / |c g|`, the steepest in that ball, and the whole search survives a rescaling as the
        measure does. Its momentum leans back to the point before last, and its return to the best
        point is undone by the next step; here both are as in the paper on Auto-PGD. Its mean over
        batches counts an uneven last one in full; here by its examples.

        In their experiments sharpness followed learning rate and similar settings rather than
        generalisation, and out of distribution the sharper minimum was often the better one.

    Example:
    ```python
    result = keras_sharp.worst_case_sharpness(model, (x[:1024], y[:1024]), rho=0.01)
    print(float(result), result.status)
    ```

    References:
        - [Andriushchenko et al., 2023](https://arxiv.org/abs/2302.07011), section 2.
        - [Croce & Hein, 2020](https://arxiv.org/abs/2003.01690), section 3, Auto-PGD.
    """
    search = {
        **checked(rho, norm, adaptive, m, normalize_logits, seed),
        "iterations": integer("iterations", iterations),
        "restarts": integer("restarts", restarts),
    }
    verbosity(verbose)
    around = Neighbourhood(model, ds, search, function)
    started = time.perf_counter()
    found = []
    with Progress("worst_case_sharpness", around.count, verbose) as progress:
        for part in around.batches():
            found.append(_highest(part, around, len(found), search))
            progress.update(len(found))
    shares, rises = around.shares, np.array([each.rise for each in found])
    still_rising = sum(each.still_rising for each in found)
    return WorstCaseSharpnessResult(
        value=float(shares @ rises),
        standard_error=_standard_error(rises, shares),
        rises=rises,
        sizes=np.array(around.sizes),
        loss=float(shares @ [each.loss for each in found]),
        still_rising=still_rising,
        status=_status(len(found), still_rising, sum(each.stationary for each in found)),
        evaluations=sum(each.evaluations for each in found),
        seconds=time.perf_counter() - started,
        **search,
        objective=around.settings,
        versions=versions(),
    )


class _Highest(NamedTuple):
    """How far the loss of one batch rises."""

    loss: float
    rise: float
    still_rising: bool
    stationary: bool
    evaluations: int


def _highest(
    part: Objective, around: Neighbourhood, number: int, search: dict[str, Any]
) -> _Highest:
    """Climbs from the weights and from random points, on the batch of that number."""
    ball, iterations = Ball(search["norm"], search["rho"]), search["iterations"]
    evaluations = 0

    def evaluate(u: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal evaluations
        evaluations += 1
        value, gradient = part.value_and_gradient(around.centre + around.scale * u)
        return finite(value, gradient), around.scale * gradient

    origin, loss = np.zeros_like(around.centre), finite_loss(part)
    _, gradient = evaluate(origin)
    stationary = is_stationary(part, loss, ball.rise(gradient))
    highest = [loss] * (iterations + 1)
    for restart in range(search["restarts"]):
        start = origin, loss, gradient
        if restart > 0 or stationary:
            random = np.random.default_rng([search["seed"], number, restart])
            u = np.where(around.scale > 0, ball.random(random, origin.size), 0.0)
            start = u, *evaluate(u)
        highest = max(highest, climb(evaluate, ball, *start, iterations), key=lambda h: h[-1])
    rise, late = highest[-1] - loss, highest[-1] - highest[-1 - max(1, iterations // 4)]
    return _Highest(loss, rise, late > _SETTLED * rise, stationary, evaluations)


def _standard_error(values: np.ndarray, shares: np.ndarray) -> float | None:
    """The error of a weighted mean; with equal weights, deviation over the root of the number."""
    if len(values) == 1:
        return None
    spread = shares**2 @ (values - shares @ values) ** 2
    return float(np.sqrt(spread * len(values) / (len(values) - 1)))


def _status(batches: int, still_rising: int, stationary: int) -> str:
    sentences = ["All ascents had settled."]
    if still_rising:
        sentences = [
            f"In {still_rising} of {batches} batches the loss still rose by more than "
            f"{_SETTLED:.0%} of its rise in the last quarter of the iterations: take the value as "
            "a lower bound, or raise `iterations`."
        ]
    if stationary:
        sentences.append(
            f"In {stationary} of {batches} batches the weights are a stationary point, left for "
            "random ones."
        )
    return " ".join(sentences)
