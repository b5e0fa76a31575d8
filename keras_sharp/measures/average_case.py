"""Average-case sharpness of Andriushchenko et al. 2023."""

import time
from typing import Any, Unpack

import keras
import numpy as np

from keras_sharp.arguments import integer, verbosity
from keras_sharp.function_arguments import FunctionArguments
from keras_sharp.measures.loss import finite_loss
from keras_sharp.measures.neighbourhood import Neighbourhood, checked, finite
from keras_sharp.objective import Objective
from keras_sharp.progress import Progress
from keras_sharp.results.adaptive import AverageCaseSharpnessResult
from keras_sharp.version import versions


def average_case_sharpness(
    model: keras.Model | Objective,
    ds: Any = None,
    *,
    rho: float = 0.1,
    norm: str = "l2",
    adaptive: bool = True,
    m: int | None = 128,
    samples: int = 20,
    normalize_logits: bool = False,
    seed: int = 0,
    verbose: str | int = "auto",
    **function: Unpack[FunctionArguments],
) -> AverageCaseSharpnessResult:
    """Returns how much the loss rises on average when every weight is disturbed.

    The mean over batches `B` of `m` examples and over random `z` of

        L_B(w + rho c z) - L_B(w),

    where `c = |w|` (adaptive) or 1, the entries of `z` are N(0, 1) (l2) or uniform in [-1, 1]
    (linf), and `L_B` is the mean loss over `B`, dropout off. For small `rho` it is `rho^2 / 2`
    times the trace of `c H c` (a third of that in linf). Adaptive, it does not change when layers
    are rescaled without changing what the network computes. The model is not changed.

    Args:
        model: A built Keras model, or an `Objective`, without `ds`.
        ds: Labelled data: a tuple of arrays, a `tf.data.Dataset` of batches, or a
            `keras.utils.PyDataset`. The paper takes 1,024 training examples; a run costs
            `samples + 1` forward passes over them.
        rho: Size of a perturbation, `rho > 0`, per weight: not divided by the square root of their
            number. The paper's authors take .05 to .4 in l2 and .1 to .8 in linf for a ResNet-18.
        norm: `"l2"` or `"linf"`.
        adaptive: Whether `rho` is in units of each weight's magnitude.
        m: Examples per batch, in the order of the data; each batch has perturbations of its own.
            With BatchNormalization in batch mode these are the batches whose statistics it uses.
            None: the whole set at once, in evaluation batches.
        samples: Perturbations per batch, at least 2.
        normalize_logits: Whether to take the loss of normalised logits, `NormalizedLogits`.
        seed: Seed of the perturbations.
        verbose: `"auto"` shows a progress bar after two seconds, 1 at once, 0 never.
        **function: `loss`, `batch_norm`, `batch_size`, `penalties` and `check_data` of `Objective`.

    Returns:
        An `AverageCaseSharpnessResult` with a standard error; `float(result)` is the value. It may
        be negative, away from a minimum.

    Raises:
        ValueError: For arguments out of range, adaptive with no weight but 0, data or a model that
            `Objective` refuses, and a loss that is not finite at the weights.
        FloatingPointError: If the loss is not finite at perturbed weights.

    Example:
    ```python
    result = keras_sharp.average_case_sharpness(model, (x[:1024], y[:1024]), rho=0.1)
    print(result.value, result.standard_error)
    ```

    References:
        - [Andriushchenko et al., 2023](https://arxiv.org/abs/2302.07011), section 2.
    """
    search = {
        **checked(rho, norm, adaptive, m, normalize_logits, seed),
        "samples": integer("samples", samples, least=2),
    }
    verbosity(verbose)
    around = Neighbourhood(model, ds, search, function)
    started = time.perf_counter()
    losses, rises = [], []
    with Progress("average_case_sharpness", around.count, verbose) as progress:
        for part in around.batches():
            losses.append(finite_loss(part))
            random = np.random.default_rng([search["seed"], len(rises)])
            rises.append(_values(part, around, random, search) - losses[-1])
            progress.update(len(rises))
    shares, rises = around.shares, np.array(rises)
    value = float(shares @ np.mean(rises, axis=1))
    # The batches are what they are: only the perturbations are random.
    variance = shares**2 @ np.var(rises, axis=1, ddof=1) / search["samples"]
    error = float(np.sqrt(variance))
    return AverageCaseSharpnessResult(
        value=value,
        standard_error=error,
        rises=rises,
        sizes=np.array(around.sizes),
        loss=float(shares @ losses),
        status=_status(value, error),
        evaluations=rises.size + len(losses),
        seconds=time.perf_counter() - started,
        **search,
        objective=around.settings,
        versions=versions(),
    )


def _values(
    part: Objective, around: Neighbourhood, random: np.random.Generator, search: dict[str, Any]
) -> np.ndarray:
    """Returns the loss of one batch at random weights, `(samples,)`."""
    values = np.empty(search["samples"])
    for sample in range(values.size):
        size = around.centre.size
        uniform = search["norm"] == "linf"
        noise = random.uniform(-1, 1, size) if uniform else random.standard_normal(size)
        values[sample] = finite(part.value(around.centre + search["rho"] * around.scale * noise))
    return values


def _status(value: float, error: float) -> str:
    known = f"{abs(error / value):.1%} of the value" if value else f"{error:.2g}"
    return f"The standard error over perturbations is {known}; more `samples` make it smaller."
