"""What compare_decentralized.py found, as tables, records and figures."""

import argparse
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import keskar_tables
import matplotlib.pyplot as plt
from decentralized_bias import DIMENSION, MOMENTA, NODES, RATE, ROWS, Bias, formulas
from decentralized_plan import MARGIN, WAYS, Cluster, Row, draw_times, draw_winners
from decentralized_settings import ALPHA, DROP_AFTER, LARS, METHODS, MOMENTUM, WARM_UP
from decentralized_study import DecentralizedStudy
from keskar_report import Report
from keskar_tables import Statistic, Table
from methods_settings import GRID
from methods_study import Outcome
from run_folder import RunFolder, write

QUANTITIES = ("test", "mean_of_nodes", "train", "consensus", "seconds")


def save(
    stem: pathlib.Path,
    settings: argparse.Namespace,
    tables: list[Table],
    notes: list[str],
    records: list[dict[str, Any]],
) -> Report:
    """Writes tables and records as Markdown, CSV and JSON, and returns what is shown."""
    made = {"settings": vars(settings), "notes": notes, "records": records}
    write(stem.with_suffix(".md"), keskar_tables.markdown(tables, notes))
    write(stem.with_suffix(".csv"), keskar_tables.as_csv(records) if records else "")
    write(stem.with_suffix(".json"), json.dumps(made, indent=1, default=str))
    return Report([], tables, [*notes, f"This is in {stem}.md, .csv and .json"])


def save_figure(figure: plt.Figure, stem: pathlib.Path) -> None:
    """Writes a figure as PNG and SVG."""
    for ending in (".png", ".svg"):
        figure.savefig(stem.with_suffix(ending), dpi=150)


# --------------------------------------------------------------------------------------------------
# bias
# --------------------------------------------------------------------------------------------------


def report_biases(settings: argparse.Namespace, found: Sequence[Bias]) -> Report:
    """Returns the biases beside the formulas of the analysis."""
    by_case = {(each.method, each.momentum): each for each in found}
    rows, records = [], []
    for method in dict.fromkeys(each.method for each in found):
        cells = []
        for momentum in MOMENTA:
            each = by_case.get((method, momentum))
            plain = by_case["DSGD", 0.0].measured
            cells.append(f"{each.measured:.2e} ({each.measured / plain:.3g})" if each else "-")
            if each:
                formula = formulas(momentum).get(method)
                ratio = {"ratio_to_DSGD": each.measured / plain, "formula_ratio": formula}
                records.append(each._asdict() | ratio)
        rows.append([method, "measured", *cells])
        if method in formulas(0.0):
            cells = [f"({formulas(momentum)[method]:.3g})" for momentum in MOMENTA]
            rows.append([method, "formula", *cells])
    title = "Mean over nodes of |x_i - x*|^2, and in brackets its ratio to DSGD's"
    heads = ["method", "source", *(f"momentum {momentum:g}" for momentum in MOMENTA)]
    gap = max(abs(each.measured / each.fixed_point - 1) for each in found if each.method != "PmSGD")
    notes = [
        f"Least squares in {DIMENSION} dimensions, {ROWS} rows of its own on each of {NODES} nodes "
        f"in a ring, full gradients, rate {RATE:g}, {settings.steps} steps from the optimum; seed "
        f"{settings.seed}.",
        "The formulas of the analysis are 1 / (1 - beta)^2 for DmSGD and 1 for DecentLaM, to "
        "leading order in the rate.",
        "Where the equations of each method rest was solved for, too: those figures differ from "
        f"the measured ones by at most {gap:.1e} of them.",
    ]
    return save(settings.output / "bias", settings, [Table(title, heads, rows)], notes, records)


# --------------------------------------------------------------------------------------------------
# train
# --------------------------------------------------------------------------------------------------


def summary(outcome: Outcome, quantity: str) -> Statistic | None:
    """Returns mean and standard deviation over the trials, if there are any."""
    return keskar_tables.statistic(trial[quantity] for trial in outcome.trials)


def report_trainings(
    settings: argparse.Namespace,
    folder: RunFolder,
    studies: Sequence[DecentralizedStudy],
    failures: Sequence[str],
) -> Report:
    """Returns a table for each split and batch size, and writes what was found."""
    tables, records = [], []
    remarks = [f"Not done: {failure}" for failure in failures]
    for study in studies:
        outcomes = study.outcomes()
        for size in study.batch_sizes:
            group = [each for each in outcomes if each.case.batch_size == size]
            tables.append(make_table(study, group, size))
            records += [record(study, each) for each in group]
        for each in outcomes:
            name = f"{study.dataset}, {each.case.method}, batch {each.case.batch_size}"
            remarks += [f"Not done: {name}: {reason}" for reason in each.reasons]
    notes = [*footnotes(settings, studies), *remarks]
    if any(each.trials for study in studies for each in study.outcomes()):
        draw_accuracies(studies, folder.root / "accuracy")
        notes.append("accuracy.png has test accuracies against batch sizes")
    for one in made_with(studies):
        notes.append(one)
    return save(folder.root / "decentralized", settings, tables, notes, records)


def make_table(study: DecentralizedStudy, group: Sequence[Outcome], size: int) -> Table:
    """Returns the table of one split and batch size."""
    heads = ["method", "rate", "test, mean model", "test, mean of nodes", "train"]
    heads += ["consensus distance", "kB a step"]
    rows = []
    for each in group:
        if not each.trials:
            rows.append([each.case.method, "not done, see below", *["-"] * (len(heads) - 2)])
            continue
        found = {name: summary(each, name) for name in QUANTITIES}
        done, wanted = len(each.trials), study.number_of_trials
        few = f" ({done} of {wanted})" if done < wanted else ""
        rows.append(
            [
                f"{each.case.method}{few}",
                f"{each.rate:.3g}{'*' if each.at_the_end else ''}",
                found["test"].text(2),
                found["mean_of_nodes"].text(2),
                found["train"].text(2),
                f"{found['consensus'].mean:.2e}",
                f"{study.bytes_per_step(each.case) / 1000:.1f}",
            ]
        )
    steps = study.steps(group[0].case) if group else 0
    title = f"{study.dataset}: {size} examples a node and step, {steps} steps (accuracies in "
    title += f"percent, {study.number_of_trials} trial{'s' * (study.number_of_trials > 1)})"
    return Table(title, heads, rows)


def record(study: DecentralizedStudy, each: Outcome) -> dict[str, Any]:
    """Returns a row of the CSV, and with its values one of the JSON."""
    made = {"data": study.dataset, "batch_size": each.case.batch_size, "method": each.case.method}
    made |= {"learning_rate": each.rate, "trials": len(each.trials)}
    made["steps"], made["bytes_per_step"] = study.steps(each.case), study.bytes_per_step(each.case)
    for name in QUANTITIES:
        mean, deviation = summary(each, name) or (None, None)
        made |= {name: mean, f"{name}_standard_deviation": deviation}
    made["reasons"] = "; ".join(each.reasons)
    made["values"] = {name: [trial[name] for trial in each.trials] for name in QUANTITIES}
    return made


def footnotes(settings: argparse.Namespace, studies: Sequence[DecentralizedStudy]) -> Iterator[str]:
    """Yields what a reader of the tables must know."""
    yield (
        "Mean ± standard deviation over trials, which share their initial weights over all "
        f"methods. Each method's rate was chosen from {len(GRID)}, by the loss of one training "
        "each on validation examples that nothing is trained on; * is the lowest or highest of "
        "them. (2 of 3) means that one trial diverged or is not done, and the mean is that of the "
        "others."
    )
    yield (
        f"The rate rises over the first {WARM_UP:.0%} of the steps, and drops to a tenth after "
        f"{DROP_AFTER:.0%} of them; momentum {MOMENTUM:g}, no weight decay."
    )
    yield (
        f'Splits: "even" deals examples at random, "dirichlet" gives nodes different classes '
        f"(alpha {ALPHA:g}). {LARS} was trained on all data together, so it has one row alone."
    )
    yield (
        "The mean model has the mean of the nodes' weights. Consensus distance is the mean over "
        "nodes of |w_i - mean|^2, and over all steps. kB a step is what a node sends, exchanging "
        "in pairs; under PmSGD by a ring all-reduce."
    )
    for study in studies[:1]:
        sizes = {part: len(y) for part, (_, y) in study.parts.items()}
        yield (
            f"{study.nodes} nodes, {study.graph.name}, spectral gap "
            f"{study.graph.spectral_gap:.3g}; {study.epochs} epochs of {sizes['train']} examples; "
            f"{sizes['validation']} for validation, {sizes['test']} for testing; seed "
            f"{settings.seed}."
        )


def made_with(studies: Sequence[DecentralizedStudy]) -> list[str]:
    """Returns a sentence for each machine and set of versions."""
    found = []
    for study in studies:
        for trial in (trial for each in study.outcomes() for trial in each.trials):
            machine, names = trial["hardware"], trial["versions"].items()
            devices = ", ".join([f"{machine['cores']} cores of {machine['cpu']}", *machine["gpus"]])
            versions = ", ".join(f"{name} {version}" for name, version in names)
            found.append(f"Made with: {devices}; {versions}")
    return list(dict.fromkeys(found))


def draw_accuracies(studies: Sequence[DecentralizedStudy], stem: pathlib.Path) -> None:
    """Draws the test accuracy of the mean model against the batch size, a panel for each study."""
    figure, panels = plt.subplots(
        1, len(studies), figsize=(5 * len(studies), 4), layout="constrained", squeeze=False
    )
    for ax, study in zip(panels[0], studies, strict=True):
        outcomes = [each for each in study.outcomes() if each.trials]
        for number, method in enumerate(METHODS):
            own = [each for each in outcomes if each.case.method == method]
            if not own:
                continue
            means = [summary(each, "test") for each in own]
            ax.errorbar(
                [each.case.batch_size * 1.03**number for each in own],  # or bars hide each other
                [mean.mean for mean in means],
                [mean.deviation or 0.0 for mean in means],
                fmt="o-",
                label=method,
                capsize=3,
                color=f"C{number}",
            )
        ax.set(xscale="log", xlabel="examples a node and step", ylabel="test accuracy (%)")
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, 0), min(high, 100))  # the deviation of two may reach beyond
        ax.set_xticks(study.batch_sizes, study.batch_sizes)
        ax.set_xticks([], minor=True)
        ax.set_title(study.dataset, fontsize="medium")
    panels[0][0].legend(frameon=False, fontsize="small")
    save_figure(figure, stem)


# --------------------------------------------------------------------------------------------------
# plan
# --------------------------------------------------------------------------------------------------


def report_plan(settings: argparse.Namespace, cluster: Cluster, rows: Sequence[Row]) -> Report:
    """Returns the plan, and draws it."""
    lines, records = [], []
    for row in rows:
        figures = zip(row.seconds, row.communication, row.factors, strict=True)
        cells = [f"{s:.4g} ({1000 * sent:.4g} ms, {more:.3g})" for s, sent, more in figures]
        lines.append([str(row.nodes), row.best, *cells])
        made = {"nodes": row.nodes, "best": row.best}
        for name in ("communication", "factors", "seconds"):
            made |= {f"{name}, {way}": v for way, v in zip(WAYS, getattr(row, name), strict=True)}
        records.append(made)
    heads = ["nodes", "best", *WAYS]
    title = (
        f"{1000 * cluster.step_seconds:g} ms of computing, {cluster.size / 1e6:g} MB of weights, "
        f"links of {cluster.bandwidth * 8 / 1e9:g} Gbit/s, latency {1e6 * cluster.latency:g} us, "
        f"oversubscription {cluster.oversubscription:g}"
    )
    notes = [
        "Seconds of a step times how many times more steps are needed; in brackets the part in "
        f"which vectors travel, and that factor. A ring of {cluster.ring_limit} nodes trains as "
        "well as all-reduce, and nodes that stray farther must lower the rate. All-reduce is best "
        f"if nothing else is {100 * (MARGIN - 1):.0f} % faster."
    ]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    draw_times(rows, cluster, left)
    draw_winners(cluster, [row.nodes for row in rows], right)
    save_figure(figure, settings.output / "plan")
    return save(settings.output / "plan", settings, [Table(title, heads, lines)], notes, records)
