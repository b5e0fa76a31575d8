"""The report of the experiment: everything in the folder as tables, and what a reader must know."""

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keskar_tables
import numpy as np
import rich.box
import rich.console
import rich.markup
import rich.table
from keskar_experiment import EVALUATION_BATCH, QUANTITIES, SHARPNESS, data_name, measurement
from keskar_tables import REGIMES, Measured, Table
from run_folder import RunFolder, read, write

from keras_sharp.networks import NETWORKS


class Found(NamedTuple):
    """One measurement in the folder, and the record of the training it is of."""

    network: str
    trial: int
    regime: str
    quantity: str
    record: dict[str, Any]
    training: dict[str, Any]


def measurements(settings: argparse.Namespace, folder: RunFolder) -> Iterator[Found]:
    """Yields what was measured in the mode that is asked for, be its trial asked for or not."""
    for network in NETWORKS:
        for trial in folder.trials(network):
            for regime in REGIMES:
                training = folder.path(network, trial, regime, "training.json")
                for quantity in QUANTITIES:
                    file = folder.path(network, trial, regime, measurement(settings, quantity))
                    if file.exists():
                        records = read(file), read(training) if training.exists() else {}
                        yield Found(network, trial, regime, quantity, *records)


class Report(NamedTuple):
    """What is shown.

    Attributes:
        measured: The values of all trials, network by network.
        tables: Tables 2, 3 and 4.
        notes: Sentences to be read with them.
    """

    measured: list[Measured]
    tables: list[Table]
    notes: list[str]


def report(
    settings: argparse.Namespace, folder: RunFolder, reasons: dict[str, list[str]]
) -> Report:
    """Returns tables of everything in the folder, and writes them into it.

    Args:
        settings: What the command asks for.
        folder: Where finished work is kept.
        reasons: Why something of a network could not be done: each such network has a row.
    """
    found = list(measurements(settings, folder))
    measured = []
    for network, (_, paper_data, _) in NETWORKS.items():
        trials = values_of_trials([each for each in found if each.network == network])
        if trials or network in reasons:
            measured.append(Measured(network, data_name(network, settings), paper_data, trials))
    tables = keskar_tables.tables(measured, settings.batch_norm)
    records = keskar_tables.records(measured, settings.batch_norm)
    made_with = provenance(found, folder)
    brackets = any(each.has_brackets() for each in measured)
    notes = list(footnotes(settings, found, reasons, made_with, brackets))
    made = {"settings": vars(settings), "made_with": made_with}
    made |= {"notes": notes, "records": records}
    other = settings.evaluation_batch != EVALUATION_BATCH
    batch = f"-{settings.evaluation_batch}" if other else ""
    stem = folder.root / f"tables-{settings.batch_norm}{batch}"
    write(stem.with_suffix(".md"), keskar_tables.markdown(tables, notes))
    write(stem.with_suffix(".csv"), keskar_tables.as_csv(records))
    write(stem.with_suffix(".json"), json.dumps(made, indent=1, default=str))
    return Report(measured, tables, [*notes, f"These tables are in {stem}.md, .csv and .json"])


def values_of_trials(found: Sequence[Found]) -> list[dict[tuple[str, str], float]]:
    """Returns what was measured in each trial of a network, from (quantity, regime) to value."""
    trials: dict[int, dict[tuple[str, str], float]] = {}
    for each in found:
        values = trials.setdefault(each.trial, {})
        if each.quantity == "accuracy":
            for part in ("train", "test"):
                values[keskar_tables.accuracy(part), each.regime] = each.record[part]
        else:
            values[each.quantity, each.regime] = each.record["value"]
    return list(trials.values())


def provenance(found: Sequence[Found], folder: RunFolder) -> list[dict[str, Any]]:
    """Returns each set of versions and hardware that the tables' numbers were made with."""
    sets: list[dict[str, Any]] = []
    for record in [record for each in found for record in (each.training, each.record) if record]:
        names = record["versions"]
        machine = record.get("hardware")  # a sharpness keeps none
        for one in sets:
            same = machine is None or one["hardware"] == machine
            if same and names.items() <= one["versions"].items():
                break
        else:
            sets.append({"versions": names, "hardware": machine or folder.hardware})
    return sets


def footnotes(
    settings: argparse.Namespace,
    found: Sequence[Found],
    reasons: dict[str, list[str]],
    made_with: Sequence[dict[str, Any]],
    brackets: bool,
) -> Iterator[str]:
    """Yields what a reader of the tables must know."""
    large = settings.large_batch or "10 % of the training data, rounded up"
    limit = f" limited to {settings.limit} examples;" if settings.limit else ""
    yield (
        f"SB is batch {settings.small_batch}, LB is {large};{limit} {settings.epochs} epochs of "
        f"ADAM with the defaults of Keras 1; seed {settings.seed}. Mean ± standard deviation over "
        "trials. LB/SB is the ratio of the means."
    )
    yield (
        f"Measured on batches of {settings.evaluation_batch} examples. Sharpness is that of the "
        "loss on the whole training set, by ten iterations of L-BFGS-B; one subspace a trial."
    )
    if brackets:
        yield "A number in brackets says how many trials have that value, where not all have it."
    pairs = [
        (each.record["corner"], each.record["value"])
        for each in found
        if each.quantity in SHARPNESS
    ]
    beaten = [(corner, value) for corner, value in pairs if corner > value]
    if beaten:
        most = max(corner / value if value > 0 else np.inf for corner, value in beaten)
        yield (
            f"In {len(beaten)} of {len(pairs)} measurements the corner that the gradient's signs "
            f"point to is higher than what the ten iterations found, up to {most:.3g} times: those "
            "values are lower bounds."
        )
    if settings.data == "digits":
        yield "The paper's numbers are F1's on MNIST: there are none for digits."
    for why in reasons.values():
        for reason in why:
            yield f"Not done: {reason}"
    for one in made_with:
        machine = one["hardware"]
        devices = ", ".join([f"{machine['cores']} cores of {machine['cpu']}", *machine["gpus"]])
        names = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        yield f"Made with: {devices}; {names}"


def show(made: Report, console: rich.console.Console) -> None:
    """Prints the tables and the notes below them."""
    for table in made.tables:
        drawn = rich.table.Table(title=table.title, title_justify="left", box=rich.box.SIMPLE_HEAD)
        for column, head in enumerate(table.heads):
            drawn.add_column(head, justify="left" if column < 2 else "right")
        for row in table.rows:
            cells = [rich.markup.escape(cell) for cell in row]
            drawn.add_row(*cells, style="dim" if row[1] == "paper" else None)
        console.print(drawn)
    for note in made.notes:
        console.print(f"- {note}", markup=False)
