"""Tables 2, 3 and 4 of Keskar et al. 2017: the published numbers, and measured ones beside them.

Nothing here trains or measures: values of trials go in, tables for readers and programs come out.
"""

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

REGIMES = ("small", "large")
EPSILONS = (1e-3, 5e-4)
SUBSPACE_DIMS = {"Table 3": None, "Table 4": 100}
DATA_TITLES = {
    "digits": "digits",
    "mnist": "MNIST",
    "timit": "TIMIT",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
}


# --------------------------------------------------------------------------------------------------
# Means over trials
# --------------------------------------------------------------------------------------------------


class Statistic(NamedTuple):
    """Mean over trials and standard deviation (`n - 1` in the divisor; None for a single trial)."""

    mean: float
    deviation: float | None = None

    def text(self, decimals: int | None = None) -> str:
        """Returns "1.23 ± 0.83"; without `decimals` as many as three significant digits need."""
        if decimals is None:
            decimals = _decimals(self.mean)
        text = f"{self.mean:.{decimals}f}"
        return text if self.deviation is None else f"{text} ± {self.deviation:.{decimals}f}"


def statistic(values: Iterable[float]) -> Statistic | None:
    """Returns the mean and standard deviation of trials, or None if there are none."""
    values = list(values)
    if not values:
        return None
    return Statistic(
        statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
    )


def ratio(small: Statistic, large: Statistic) -> float | None:
    """Returns how many times larger the mean of the large-batch trials is."""
    return large.mean / small.mean if small.mean > 0 else None


def _decimals(value: float) -> int:
    digits, value = 2, abs(value)
    while 0 < value < 0.1 and digits < 9:
        digits, value = digits + 1, value * 10
    return digits


# --------------------------------------------------------------------------------------------------
# The published numbers: https://arxiv.org/abs/1609.04836, main text
# --------------------------------------------------------------------------------------------------

# Percent: train SB, train LB, test SB, test LB.
_TABLE_2 = {
    "F1": ((99.66, 0.05), (99.92, 0.01), (98.03, 0.07), (97.81, 0.07)),
    "F2": ((99.99, 0.03), (98.35, 2.08), (64.02, 0.20), (59.45, 1.05)),
    "C1": ((99.89, 0.02), (99.66, 0.20), (80.04, 0.12), (77.26, 0.42)),
    "C2": ((99.99, 0.04), (99.99, 0.01), (89.24, 0.12), (87.26, 0.07)),
    "C3": ((99.56, 0.44), (99.88, 0.30), (49.58, 0.39), (46.45, 0.43)),
    "C4": ((99.10, 1.23), (99.57, 1.84), (63.08, 0.50), (57.81, 0.17)),
}
# Sharpness in the full space: epsilon 1e-3 SB, LB, epsilon 5e-4 SB, LB.
_TABLE_3 = {
    "F1": ((1.23, 0.83), (205.14, 69.52), (0.61, 0.27), (42.90, 17.14)),
    "F2": ((1.39, 0.02), (310.64, 38.46), (0.90, 0.05), (93.15, 6.81)),
    "C1": ((28.58, 3.13), (707.23, 43.04), (7.08, 0.88), (227.31, 23.23)),
    "C2": ((8.68, 1.32), (925.32, 38.29), (2.07, 0.86), (175.31, 18.28)),
    "C3": ((29.85, 5.98), (258.75, 8.96), (8.56, 0.99), (105.11, 13.22)),
    "C4": ((12.83, 3.84), (421.84, 36.97), (4.07, 0.87), (109.35, 16.57)),
}
# Sharpness in a random subspace of 100 dimensions, columns as in Table 3.
_TABLE_4 = {
    "F1": ((0.11, 0.00), (9.22, 0.56), (0.05, 0.00), (9.17, 0.14)),
    "F2": ((0.29, 0.02), (23.63, 0.54), (0.05, 0.00), (6.28, 0.19)),
    "C1": ((2.18, 0.23), (137.25, 21.60), (0.71, 0.15), (29.50, 7.48)),
    "C2": ((0.95, 0.34), (25.09, 2.61), (0.31, 0.08), (5.82, 0.52)),
    "C3": ((17.02, 2.20), (236.03, 31.26), (4.03, 1.45), (86.96, 27.39)),
    "C4": ((6.05, 1.13), (72.99, 10.96), (1.89, 0.33), (19.85, 4.12)),
}


def accuracy(part: str) -> str:
    """Returns the name under which trials keep an accuracy; `part` is "train" or "test"."""
    return f"{part} accuracy"


def sharpness(table: str, epsilon: float) -> str:
    """Returns the name under which trials keep a sharpness."""
    dimension = SUBSPACE_DIMS[table]
    return f"{'full' if dimension is None else f'subspace{dimension}'}-{epsilon:g}"


def _columns(table: str) -> list[tuple[str, str]]:
    """Returns quantity and regime of each published column."""
    if table == "Table 2":
        names = [accuracy(part) for part in ("train", "test")]
    else:
        names = [sharpness(table, epsilon) for epsilon in EPSILONS]
    return [(name, regime) for name in names for regime in REGIMES]


PAPER: dict[str, dict[tuple[str, str], Statistic]] = {
    network: {
        column: Statistic(*pair)
        for table, rows in (("Table 2", _TABLE_2), ("Table 3", _TABLE_3), ("Table 4", _TABLE_4))
        for column, pair in zip(_columns(table), rows[network], strict=True)
    }
    for network in _TABLE_2
}


# --------------------------------------------------------------------------------------------------
# Tables
# --------------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """The trials of one network.

    Attributes:
        network: "F1" to "C4".
        data: Name of the data set it was trained on.
        paper_data: Name of the data set of the paper's numbers.
        trials: One dict a trial, from (quantity, regime) to value; none if it was not measured.
    """

    network: str
    data: str
    paper_data: str
    trials: Sequence[dict[tuple[str, str], float]]

    def values(self, quantity: str, regime: str) -> list[float]:
        """Returns a value of each trial that has it."""
        return [t[quantity, regime] for t in self.trials if (quantity, regime) in t]

    def gaps(self) -> list[float]:
        """Returns small-batch minus large-batch test accuracy of each trial that has both."""
        name = accuracy("test")
        pairs = [(t.get((name, "small")), t.get((name, "large"))) for t in self.trials]
        return [small - large for small, large in pairs if None not in (small, large)]

    def has_brackets(self) -> bool:
        """Returns whether some value is that of some trials alone."""
        counts = {len(self.values(*key)) for key in PAPER[self.network]}
        return not counts <= {0, len(self.trials)}


class Table(NamedTuple):
    """A table as text: its title, the columns' heads, and rows of as many cells."""

    title: str
    heads: list[str]
    rows: list[list[str]]


def tables(measured: Sequence[Measured], batch_norm: str) -> list[Table]:
    """Returns Tables 2, 3 and 4, two rows a network: measured, and published."""
    mode = f"BatchNormalization with {_MODES[batch_norm]}"
    made = [
        Table(
            f"Table 2: accuracy in percent ({mode})",
            ["network", "source", "train SB", "train LB", "test SB", "test LB", "gap SB - LB"],
            _rows(measured, "Table 2"),
        )
    ]
    for table, space in (
        ("Table 3", "in the full space"),
        ("Table 4", f"in random subspaces of {SUBSPACE_DIMS['Table 4']} dimensions"),
    ):
        heads = [f"{head} {epsilon:g}" for epsilon in EPSILONS for head in ("SB", "LB", "LB/SB")]
        title = f"{table}: sharpness {space}, epsilon {EPSILONS[0]:g} and {EPSILONS[1]:g} ({mode})"
        made.append(Table(title, ["network", "source", *heads], _rows(measured, table)))
    return made


_GAP = ("test accuracy", "small - large")
_MODES = {"batch": "batch statistics", "inference": "moving statistics"}


def _rows(measured: Sequence[Measured], table: str) -> list[list[str]]:
    rows = []
    for each in measured:
        name = f"{each.network} on {DATA_TITLES[each.data]}"
        source = "not measured, see below"
        if each.trials:
            source = f"measured, {len(each.trials)} trial{'s' * (len(each.trials) > 1)}"
        own = {column: each.values(*column) for column in _columns(table)} | {_GAP: each.gaps()}
        few = {column: len(own[column]) for column in own if len(own[column]) < len(each.trials)}
        means = {column: statistic(values) for column, values in own.items()}
        rows.append([name, source, *_cells(means, table, few)])
        paper = PAPER[each.network]
        name = f"{each.network} on {DATA_TITLES[each.paper_data]}"
        test = [paper[accuracy("test"), regime].mean for regime in REGIMES]
        rows.append([name, "paper", *_cells(paper | {_GAP: Statistic(test[0] - test[1])}, table)])
    return rows


def _cells(values: dict, table: str, few: dict | None = None) -> list[str]:
    """Returns a row's numbers; `few` says which are of fewer trials than the row, and how many."""
    few = few or {}
    decimals = 2 if table == "Table 2" else None

    def cell(column: tuple[str, str]) -> str:
        mean = values[column]
        count = f" ({few[column]})" if column in few else ""
        return "-" if mean is None else mean.text(decimals) + count

    cells = []
    columns = _columns(table)
    for pair in zip(columns[::2], columns[1::2], strict=True):
        cells += map(cell, pair)
        if table != "Table 2":
            means = [values[column] for column in pair]
            times = None if None in means else ratio(*means)
            cells.append("-" if times is None else f"{times:.3g}")
    if table == "Table 2":
        cells.append(cell(_GAP))
    return cells


def markdown(made: Sequence[Table], notes: Sequence[str]) -> str:
    """Returns the tables and the notes below them as Markdown."""
    blocks = []
    for table in made:
        lines = [table.heads, ["---"] * len(table.heads), *table.rows]
        body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        blocks.append(f"### {table.title}\n\n{body}\n")
    items = [f"- {' '.join(note.split())}" for note in notes]  # an error may have several lines
    return "\n".join([*blocks, *items, ""])


def records(measured: Sequence[Measured], batch_norm: str) -> list[dict[str, Any]]:
    """Returns one flat record per number of the tables, measured and published."""
    made = []
    for each in measured:
        for table in ("Table 2", "Table 3", "Table 4"):
            for quantity, regime in _columns(table):
                key = (quantity, regime)
                record = {
                    "table": table,
                    "network": each.network,
                    "quantity": quantity,
                    "regime": regime,
                }
                values = each.values(*key)
                mean, deviation = statistic(values) or (None, None)
                made.append(
                    record
                    | {
                        "source": "measured",
                        "data": each.data,
                        "batch_norm": batch_norm,
                        "mean": mean,
                        "standard_deviation": deviation,
                        "trials": len(values),
                        "values": values,
                    }
                )
                mean, deviation = PAPER[each.network][key]
                made.append(
                    record
                    | {
                        "source": "paper",
                        "data": each.paper_data,
                        "batch_norm": None,  # the paper does not say
                        "mean": mean,
                        "standard_deviation": deviation,
                        "trials": 5,
                        "values": None,
                    }
                )
    return made


def as_csv(made: Sequence[dict[str, Any]]) -> str:
    """Returns the records as CSV, without the values of single trials."""
    names = [name for name in made[0] if name != "values"]
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(made)
    return stream.getvalue()
