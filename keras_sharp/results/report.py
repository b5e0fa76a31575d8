"""What `measure` returns."""

import dataclasses
import io
import json
import shutil
from typing import Any, Self

import numpy as np
import rich.console
import rich.table
import rich.text

from keras_sharp.results.base import Result
from keras_sharp.results.hessian import HessianDensityResult


@dataclasses.dataclass(frozen=True, repr=False)
class Report(Result):
    """Several measures of one function at one model. `print(report)` shows a table.

    Attributes:
        results: The results by label: the name of the measure, with its options if there are any,
            as in `"sharpness(epsilon=0.0005)"`. `report[label]` is one of them.
        failures: Why the other measures have no result, by label.
        status: How many measures there are results of.
        seconds: Wall-clock time, reading the data included.
        seed: Seed of every measure that was given none of its own.
        objective: `Objective.settings`: the loss, data, batch size, BatchNormalization mode,
            replicas.
        versions: Versions of Keras, TensorFlow, SciPy and keras-sharp.
    """

    results: dict[str, Result]
    failures: dict[str, str]
    status: str
    seconds: float
    seed: int
    objective: dict[str, Any]
    versions: dict[str, str]

    def __getitem__(self, label: str) -> Result:
        if label not in self.results:
            raise KeyError(
                self.failures.get(label, f"{label!r} was not measured, but {list(self.results)}")
            )
        return self.results[label]

    def to_json(self, indent: int | None = None) -> str:
        """Returns the report as a JSON object, in which each result also has its `type`.

        Raises:
            ValueError: If a number is NaN or infinite, for which JSON has no word.
        """
        plain = {
            label: {"type": type(result).__name__, **json.loads(result.to_json())}
            for label, result in self.results.items()
        }
        return Result.to_json(dataclasses.replace(self, results=plain), indent)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Returns the report that `to_json` wrote; what was too large for it is None.

        Raises:
            ValueError: If the text is no such report.
        """
        report = super().from_json(text)
        kinds, results = {kind.__name__: kind for kind in Result.__subclasses__()}, {}
        for label, values in report.results.items():
            kind = values.pop("type", None)
            if kind not in kinds:
                raise ValueError(
                    f"`text` must hold results of the types {sorted(kinds)}. Received: {kind!r}"
                )
            results[label] = kinds[kind].from_json(json.dumps(values))
        return dataclasses.replace(report, results=results)

    def __repr__(self) -> str:
        labels = ", ".join([*self.results, *(f"{label}: failed" for label in self.failures)])
        return f"Report({labels}; {_about(self.objective)}; {self.seconds:.1f} s. {self.status})"

    def __str__(self) -> str:
        width = shutil.get_terminal_size((100, 24)).columns
        console = rich.console.Console(file=io.StringIO(), width=width)
        console.print(self)
        return console.file.getvalue().rstrip("\n")

    def __rich__(self) -> rich.table.Table:
        losses = dict.fromkeys(term["loss"] for term in self.objective["losses"])
        table = rich.table.Table(
            title=rich.text.Text(_about(self.objective)),
            caption=rich.text.Text(f"of {' + '.join(losses)}"),
        )
        table.add_column("measure", overflow="fold")
        table.add_column("value", justify="right", no_wrap=True)
        table.add_column("± error", justify="right", no_wrap=True)
        table.add_column("converged", no_wrap=True)
        table.add_column("seconds", justify="right", no_wrap=True)
        table.add_column("status", overflow="fold")
        for label, result in self.results.items():
            error = error_of(result)
            table.add_row(
                rich.text.Text(label),
                _shown(result),
                "-" if error is None else f"{error:.2g}",
                {None: "-", False: "no", True: "yes"}[converged(result)],
                f"{result.seconds:.1f}",
                rich.text.Text(result.status),
            )
        for label, reason in self.failures.items():
            table.add_row(rich.text.Text(label), "failed", "-", "-", "-", rich.text.Text(reason))
        return table


def value_of(result: Result) -> float | None:
    """Returns the one number of a result, or None if it has none."""
    if not hasattr(result, "__float__") or getattr(result, "value", 0.0) is None:
        return None
    return float(result)


def error_of(result: Result) -> float | None:
    """Returns how far off the number that a report shows may be, or None if that is not known.

    The standard error, of a density that of its mean; of an eigenvalue the residual, within which
    there is one. A maximum that was searched has none: it is a lower bound unless it converged.
    """
    if isinstance(result, HessianDensityResult):
        return result.moment(1)[1]
    residuals = getattr(result, "residuals", None)
    return getattr(result, "standard_error", None) if residuals is None else float(residuals[0])


def converged(result: Result) -> bool | None:
    """Returns whether a result's search ended of itself, all of its parts; None if it has none."""
    flag = getattr(result, "converged", None)
    return None if flag is None else bool(np.all(flag))


def _shown(result: Result) -> str:
    if isinstance(result, HessianDensityResult):
        return f"mean {result.moment(1)[0]:.4g}"
    number = value_of(result)
    return "-" if number is None else f"{number:.4g}"


def _about(function: dict[str, Any]) -> str:
    return (
        f"{function['model']}, {function['weights']:,} weights; {function['examples']:,} examples "
        f"in batches of {function['batch_size']}, batch_norm={function['batch_norm']!r}"
    )
