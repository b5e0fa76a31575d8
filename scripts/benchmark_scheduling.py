"""Decisions a second of the job scheduling simulator, over those of a plain Python loop."""

from collections.abc import Callable

import numpy as np
import rich.table
from benchmark_cases import Sizes, console, seconds_of

from keras_sharp.rl.scheduling import (
    Jobs,
    SchedulingEnvironment,
    heuristics,
    lublin_feitelson,
    plain_schedule,
    schedule,
)

LENGTH = 256  # jobs of a sequence
ALONE = 4  # sequences that the plain loop takes one after the other
MODES = {"without": False, "with": True}


def stepped(jobs: Jobs, backfill: bool) -> int:
    """Starts the shortest job that is seen until all are over; returns the decisions."""
    environment = SchedulingEnvironment(jobs, backfill=backfill)
    (features, mask), decisions = environment.reset(), 0
    while mask.any():
        decisions += int(mask.any(axis=1).sum())
        shortest = np.where(mask, features[:, :, 1], np.inf).argmin(axis=1)
        (features, mask), _, _ = environment.step(shortest)
    return decisions


def in_plain_python(trace: Jobs, starts: np.ndarray, backfill: bool) -> Callable[[], object]:
    batches = [trace.sequences([start], LENGTH) for start in starts]
    alone = [
        Jobs.of(each.machine, each.submit[0], each.run[0], each.processors[0]) for each in batches
    ]
    return lambda: [
        plain_schedule(each, lambda submit, requested, *_: requested, backfill=backfill)
        for each in alone
    ]


def scheduling(sizes: Sizes) -> rich.table.Table:
    table = rich.table.Table(
        title=f"Job scheduling, sequences of {LENGTH} generated jobs: decisions a second, and "
        "over a plain Python loop"
    )
    for head in ("backfilling", "sequences together"):
        table.add_column(head)
    for head in ("by a rule", "ratio", "through the environment", "ratio"):
        table.add_column(head, justify="right")
    trace = lublin_feitelson(10_000, seed=1)
    largest = max(*sizes.environments, ALONE)
    starts = np.random.default_rng(0).integers(0, len(trace) - LENGTH, largest)
    for mode, backfill in MODES.items():
        decisions = stepped(trace.sequences(starts[:ALONE], LENGTH), backfill)
        contenders = {"plain": (decisions, in_plain_python(trace, starts[:ALONE], backfill))}
        for count in sizes.environments:
            jobs = trace.sequences(starts[:count], LENGTH)
            decisions = stepped(jobs, backfill)
            contenders["rule", count] = decisions, by_rule(jobs, backfill)
            contenders["seen", count] = decisions, seen(jobs, backfill)
        speeds = in_turns(contenders, sizes.rounds)
        table.add_row(mode, "plain Python", *cells(speeds["plain"], speeds["plain"]), "-", "-")
        for count in sizes.environments:
            row = [cells(speeds[way, count], speeds["plain"]) for way in ("rule", "seen")]
            table.add_row(mode, f"{count:,}", *row[0], *row[1])
            console.print(f"scheduling, {mode} backfilling: {count} together {row}")
    return table


def by_rule(jobs: Jobs, backfill: bool) -> Callable[[], object]:
    return lambda: schedule(jobs, heuristics.sjf, backfill=backfill)


def seen(jobs: Jobs, backfill: bool) -> Callable[[], object]:
    return lambda: stepped(jobs, backfill)


def in_turns(contenders: dict, rounds: int) -> dict[object, np.ndarray]:
    """Returns the decisions a second of each contender in each round."""
    speeds = [
        [decisions / seconds_of(run) for decisions, run in contenders.values()]
        for _ in range(rounds)
    ]
    return dict(zip(contenders, np.transpose(speeds), strict=True))


def cells(speeds: np.ndarray, plain: np.ndarray) -> tuple[str, str]:
    return f"{np.median(speeds):,.0f}", f"{np.median(speeds / plain):.3g}"
