"""What compare_methods.py found, as tables, records and a figure."""

import argparse
import itertools
import json
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import keskar_tables
import matplotlib.pyplot as plt
from keskar_report import Report
from keskar_tables import DATA_TITLES, Statistic, Table
from methods_settings import GRID
from methods_study import EPSILON, MODES, SPACES, Outcome, Study
from run_folder import RunFolder, write

SHARPNESS = [f"{space}, {mode}" for space in SPACES for mode in MODES]
QUANTITIES = ["test", "train", "train - test", *SHARPNESS, "seconds", "steps"]


def report(
    settings: argparse.Namespace,
    folder: RunFolder,
    studies: Sequence[Study],
    failures: Sequence[str],
) -> Report:
    """Returns the tables of what was found, and writes them and the figures into the folder."""
    tables, records, remarks = [], [], [f"Not done: {failure}" for failure in failures]
    for study in studies:
        outcomes = study.outcomes()
        reference, *others = outcomes
        for size, group in itertools.groupby(others, key=lambda each: each.case.batch_size):
            group = list(group)
            tables.append(make_table(study, reference, group))
            own = [record(study.dataset, each, reference, group[0]) for each in [reference, *group]]
            records += own if size == others[0].case.batch_size else own[1:]
        for each in outcomes:
            name = f"{study.dataset}, {each.case.method}, batch {each.case.batch_size}"
            remarks += [f"Not done: {name}: {reason}" for reason in each.reasons]
            said = {text for trial in each.trials for text in trial["warnings"]}
            remarks += [f"{name}: {text}" for text in sorted(said)]
        if any(each.trials for each in outcomes[1:]):
            draw(study, outcomes, folder)
    made_with = unique(
        {name: trial[name] for name in ("versions", "hardware")}
        for study in studies
        for outcome in study.outcomes()
        for trial in outcome.trials
    )
    notes = list(footnotes(studies, remarks, made_with))
    stem = folder.root / "methods"
    made = {"settings": vars(settings), "made_with": made_with, "notes": notes}
    made |= {"records": records}
    write(stem.with_suffix(".md"), keskar_tables.markdown(tables, notes))
    write(stem.with_suffix(".csv"), keskar_tables.as_csv(records) if records else "")
    write(stem.with_suffix(".json"), json.dumps(made, indent=1, default=str))
    pictures = ", ".join(f"accuracy-{study.dataset}.png" for study in studies)
    notes.append(f"These tables are in {stem}.md, .csv and .json, beside {pictures}")
    return Report([], tables, notes)


def values(outcome: Outcome, quantity: str) -> list[float]:
    """Returns one quantity of all trials of which it could be measured."""
    if quantity == "train - test":
        return [trial["train"] - trial["test"] for trial in outcome.trials]
    return [trial[quantity] for trial in outcome.trials if trial[quantity] is not None]


def summary(outcome: Outcome, quantity: str) -> Statistic | None:
    """Returns mean and standard deviation over the trials, if there are any."""
    return keskar_tables.statistic(values(outcome, quantity))


def share_closed(outcome: Outcome, reference: Outcome, plain: Outcome) -> float | None:
    """Returns how much of the gap a method closes, in percent of the test accuracy that is lost.

    0 is the plain large batch, 100 the small one, and more is better than that. None if something
    was not measured, or the plain large batch loses nothing.
    """
    three = [summary(each, "test") for each in (outcome, reference, plain)]
    if None in three:
        return None
    own, small, large = (each.mean for each in three)
    return 100 * (own - large) / (small - large) if small > large else None


def make_table(study: Study, reference: Outcome, group: Sequence[Outcome]) -> Table:
    """Returns the table of one batch size; the reference and the plain large batch come first."""
    rows = []
    for each in [reference, *group]:
        small = each is reference
        method = f"plain, batch {each.case.batch_size}" if small else each.case.method
        if not each.trials:
            rows.append([method, "not done, see below", *["-"] * len(QUANTITIES)])
            continue
        if len(each.trials) < study.number_of_trials:
            method += f" ({len(each.trials)} of {study.number_of_trials})"
        share = None if small else share_closed(each, reference, group[0])
        cells = {name: summary(each, name) for name in QUANTITIES}
        texts = [
            cells["test"].text(2),
            "-" if share is None else f"{share:.0f} %",
            cells["train - test"].text(2),
            *(cells[name].text() if cells[name] else "-" for name in SHARPNESS),
            f"{cells['seconds'].mean:.3g}",
            f"{cells['steps'].mean:.0f}",
        ]
        rows.append([method, f"{each.rate:.3g}{'*' if each.at_the_end else ''}", *texts])
    heads = ["method", "rate", "test", "gap closed", "train - test"]
    heads += [f"sharpness: {name}" for name in SHARPNESS]
    title = f"{DATA_TITLES[study.dataset]}, batch {group[0].case.batch_size}"
    number = study.number_of_trials
    title += f" (accuracies in percent, {number} trial{'s' * (number > 1)})"
    return Table(title, [*heads, "seconds", "steps"], rows)


def record(dataset: str, each: Outcome, reference: Outcome, plain: Outcome) -> dict[str, Any]:
    """Returns a row of the CSV, and with its values one of the JSON."""
    made = {"dataset": dataset, "batch_size": each.case.batch_size, "method": each.case.method}
    made |= {"learning_rate": each.rate, "trials": len(each.trials), "diverged": each.diverged}
    made["gap_closed"] = None if each is reference else share_closed(each, reference, plain)
    for name in QUANTITIES:
        column = name.replace(" - ", "_minus_").replace(", ", "_")
        column = f"sharpness_{column}" if name in SHARPNESS else column
        mean, deviation = (summary(each, name) or (None, None))[:2]
        made |= {column: mean, f"{column}_standard_deviation": deviation}
    made["reasons"] = "; ".join(each.reasons)
    made["values"] = {name: values(each, name) for name in QUANTITIES}
    return made


def footnotes(
    studies: Sequence[Study], remarks: Sequence[str], made_with: Sequence[dict[str, Any]]
) -> Iterator[str]:
    """Yields what a reader of the tables must know."""
    yield (
        "Mean ± standard deviation over trials, which share their initial weights over all "
        "methods. Each method's rate, that at the small batch, was chosen from "
        f"{len(GRID)}, by the loss of one training each on validation examples that nothing is "
        "trained on; * is the lowest or highest of them. (2 of 3) means that one trial diverged or "
        "is not done, and the means are those of the others. Gap closed: 0 % is the plain large "
        "batch, 100 % the small one."
    )
    yield (
        f"Sharpness is Metric 2.1 on the training examples, epsilon {EPSILON:g}, in the full space "
        f"or a random subspace of {SPACES['subspace']} dimensions, BatchNormalization with moving "
        "or batch statistics. Moving statistics, of accuracies too, were estimated anew from the "
        "training examples for every method. Seconds are those of a whole training, tracing "
        "included."
    )
    if {"sam", "asam"} & {case.method for study in studies for case in study.cases}:
        yield 'sam and asam have one perturbation for the whole batch, per="batch".'
    for study in studies:
        sizes = {part: len(y) for part, (_, y) in study.parts.items()}
        yield (
            f"{DATA_TITLES[study.dataset]}: {study.epochs} epochs of {sizes['train']} examples; "
            f"{sizes['validation']} for validation, {sizes['test']} for testing; seed "
            f"{study.settings.seed}."
        )
        outcomes = study.outcomes()
        for plain in outcomes[1:]:
            if plain.case.method == "plain":
                yield from gap(study, outcomes[0], plain)
    yield from remarks
    for one in made_with:
        machine = one["hardware"]
        devices = ", ".join([f"{machine['cores']} cores of {machine['cpu']}", *machine["gpus"]])
        names = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        yield f"Made with: {devices}; {names}"


def gap(study: Study, reference: Outcome, plain: Outcome) -> Iterator[str]:
    """Yields what the gap to be closed is, if it is measured, and whether it is one."""
    small, large = (values(each, "test") for each in (reference, plain))
    if not small or not large:
        return
    difference = statistics.fmean(small) - statistics.fmean(large)
    text = f"{DATA_TITLES[study.dataset]}, batch {plain.case.batch_size}: the plain large batch "
    text += f"loses {difference:.2f} points of test accuracy"
    if len(small) > 1 and len(large) > 1:
        error = sum(statistics.variance(each) / len(each) for each in (small, large)) ** 0.5
        text += f", with a standard error of {error:.2f}"
        if difference < 2 * error:
            text += ": too few to tell what closes it"
    yield f"{text}."


def draw(study: Study, outcomes: Sequence[Outcome], folder: RunFolder) -> None:
    """Draws test accuracy against the batch size, a curve from the small batch for each method."""
    picture = plt.figure(figsize=(8, 5), layout="constrained")
    ax = picture.add_subplot()
    small, *others = outcomes
    start, others = [each for each in [small] if each.trials], [o for o in others if o.trials]
    methods = list(dict.fromkeys(each.case.method for each in others))
    for number, method in enumerate(methods):
        points = [*start, *(each for each in others if each.case.method == method)]
        means = [summary(each, "test") for each in points]
        # Side by side, or error bars would lie on top of each other.
        aside = 2 ** ((number - (len(methods) - 1) / 2) / 25)
        ax.errorbar(
            [each.case.batch_size * (each is small or aside) for each in points],
            [mean.mean for mean in means],
            [mean.deviation or 0.0 for mean in means],
            fmt=("o-", "s--", "^:")[number // 10 % 3],
            color="black" if method == "plain" else f"C{number % 10}",
            label=method,
            capsize=3,
        )
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="batch size", ylabel="test accuracy (%)", title=DATA_TITLES[study.dataset])
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    for ending in ("png", "svg"):
        picture.savefig(folder.root / f"accuracy-{study.dataset}.{ending}", dpi=150)
    plt.close(picture)


def unique(items: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the items that differ, in order."""
    return list({json.dumps(each, sort_keys=True): each for each in items}.values())
