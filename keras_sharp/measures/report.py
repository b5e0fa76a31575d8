"""Several measures of one function, in one report."""

import contextlib
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import keras

from keras_sharp.arguments import integer, verbosity
from keras_sharp.function_arguments import FunctionArguments, objective_of
from keras_sharp.measures.average_case import average_case_sharpness
from keras_sharp.measures.density import hessian_density
from keras_sharp.measures.eigenvalues import hessian_eigenvalues
from keras_sharp.measures.keskar import sharpness
from keras_sharp.measures.noise_scale import noise_scale
from keras_sharp.measures.trace import hessian_trace
from keras_sharp.measures.worst_case import worst_case_sharpness
from keras_sharp.objective import Objective
from keras_sharp.results.base import Result
from keras_sharp.results.report import Report
from keras_sharp.version import versions
from keras_sharp.workers import WorkersError

# Every measure that a report can hold, by name.
MEASURES: dict[str, Callable[..., Result]] = {
    "sharpness": sharpness,
    "noise_scale": noise_scale,
    "hessian_eigenvalues": hessian_eigenvalues,
    "hessian_trace": hessian_trace,
    "hessian_density": hessian_density,
    "worst_case_sharpness": worst_case_sharpness,
    "average_case_sharpness": average_case_sharpness,
}
# Those that cost a few passes over the data; curvature costs hundreds.
DEFAULT = ("sharpness", "noise_scale")

Choice = str | tuple[str, Mapping[str, Any]]


def measure(
    model: keras.Model | Objective,
    ds: Any = None,
    measures: str | Sequence[Choice] | Mapping[str, Mapping[str, Any]] | None = None,
    *,
    seed: int = 0,
    verbose: str | int = "auto",
    after_each: Callable[[Report], None] | None = None,
    **function: Unpack[FunctionArguments],
) -> Report:
    """Returns several measures of one model over one data set, in one report.

    All are numbers of the same `Objective`: the data are read, hashed and compared once, each graph
    is traced once, and the loss and its gradient at the model's weights are computed once; what a
    result says it cost is what it would have cost alone. A measure that fails is a reason in the
    report, and the rest goes on. The model is not changed.

    Args:
        model: A built Keras model, or an `Objective`, without `ds`.
        ds: Labelled data: a tuple of arrays, a `tf.data.Dataset` of batches, or a
            `keras.utils.PyDataset`.
        measures: Names of measures, or pairs of a name and a dict of the measure's own arguments,
            or a dict of these. Defaults to `sharpness` and `noise_scale`, which cost a dozen passes
            over the data; the others, in `keras_sharp.measures.report.MEASURES`, cost up to
            hundreds.
        seed: Seed of every measure that is given none of its own.
        verbose: `"auto"` shows progress bars after two seconds, 1 at once, 0 never.
        after_each: Is called after each measure, with the report so far.
        **function: `loss`, `batch_norm`, `batch_size`, `penalties` and `check_data` of `Objective`.

    Returns:
        A `Report`: `print(report)` shows a table, `report["sharpness"]` is one result.

    Raises:
        ValueError: For measures or arguments that don't exist, and for data or a model that
            `Objective` refuses.
        RuntimeError: If every measure failed; it says why.

    Example:
    ```python
    radii = [("sharpness", {"epsilon": epsilon}) for epsilon in (1e-3, 5e-4)]
    report = keras_sharp.measure(model, (x_train, y_train), [*radii, "noise_scale"])
    print(report)
    report["sharpness(epsilon=0.0005)"].value
    ```
    """
    chosen = choose(measures)
    seed = integer("seed", seed, least=0)
    verbosity(verbose)
    started = time.perf_counter()
    objective = objective_of(model, ds, **function)
    results, failures, errors = {}, {}, []

    def report() -> Report:
        left = len(chosen) - len(results) - len(failures)
        return Report(
            results=dict(results),
            failures=dict(failures),
            status=f"{len(results)} of {len(chosen)} measures succeeded"
            + (f", {left} are still to come." if left else "."),
            seconds=time.perf_counter() - started,
            seed=seed,
            objective=objective.settings,
            versions=versions(),
        )

    with objective.at_rest():
        for label, (name, options) in chosen.items():
            options = {"seed": seed, "verbose": verbose} | options
            try:
                results[label] = MEASURES[name](objective, **options)
            except WorkersError:  # nor can any other measure go on
                raise
            except Exception as error:
                failures[label] = f"{type(error).__name__}: {error}"
                errors.append(error)
            if after_each is not None:
                after_each(report())
    if not results:
        reasons = "\n".join(f"{label}: {reason}" for label, reason in failures.items())
        raise RuntimeError(f"No measure succeeded.\n{reasons}") from errors[0]
    return report()


def choose(
    measures: str | Sequence[Choice] | Mapping[str, Mapping[str, Any]] | None,
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Returns name and options of each measure by its label in a report.

    Raises:
        ValueError: For measures or options that don't exist or come twice, before any work is done.
    """
    if measures is None:
        measures = list(DEFAULT)
    if isinstance(measures, Mapping):
        measures = list(measures.items())
    chosen = {}
    for choice in [measures] if isinstance(measures, str) else measures:
        name, options = (choice, {}) if isinstance(choice, str) else _pair(choice)
        if name not in MEASURES:
            raise ValueError(f"A measure must be one of {list(MEASURES)}. Received: {name!r}")
        unknown = set(options) - _own_arguments(MEASURES[name])
        if unknown:
            raise ValueError(
                f"`{name}` takes the arguments {sorted(_own_arguments(MEASURES[name]))}; those of "
                f"the function are arguments of `measure`. Received: {sorted(unknown)}"
            )
        listed = ", ".join(f"{option}={value!r}" for option, value in options.items())
        label = f"{name}({listed})" if options else name
        if label in chosen:
            raise ValueError(f"Each measure must be named once. Received: {label!r} twice")
        chosen[label] = name, dict(options)
    if not chosen:
        raise ValueError("`measures` must name a measure. Received: none")
    return chosen


class _Data(Exception):
    """A measure has gone on to its data."""


class _NoData(Objective):
    """Stands for a function whose data nobody has read."""

    def __init__(self):
        pass

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return object.__getattribute__(self, name)
        raise _Data


def check_options(chosen: Mapping[str, tuple[str, Mapping[str, Any]]]) -> None:
    """Checks the values of options that `choose` returned, as far as that needs no model.

    Raises:
        ValueError: For a value out of range, as the measure itself does.
    """
    for name, options in chosen.values():
        with contextlib.suppress(_Data):
            if options:
                MEASURES[name](_NoData(), **{"verbose": 0} | dict(options))


def _pair(choice: Any) -> tuple[str, Mapping[str, Any]]:
    pair = isinstance(choice, tuple | list) and len(choice) == 2
    if not pair or not isinstance(choice[1], Mapping):
        raise ValueError(
            "`measures` must be names, or pairs of a name and a dict of arguments. "
            f"Received: {choice!r}"
        )
    return choice[0], choice[1]


def _own_arguments(function: Callable) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
