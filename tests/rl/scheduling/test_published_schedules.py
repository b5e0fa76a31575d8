"""Table V and VI of RLScheduler, the rows of Lublin-1: ten sequences of 1,024 jobs."""

import functools
import math
import os
import pathlib

import numpy as np
import pytest

from keras_sharp.rl.scheduling import Jobs, heuristics, read_swf, schedule, scores

# The sequences the authors' program draws with seed 1.
STARTS = [1981, 2756, 4299, 8850, 3316, 2714, 5228, 7762, 4022, 7085]


@functools.cache
def lublin_1():
    default = pathlib.Path(__file__).parents[3].parent / "shared" / "traces"
    path = pathlib.Path(os.environ.get("KERAS_SHARP_TRACES", default)) / "lublin_256.swf"
    if not path.is_file():
        pytest.skip("KERAS_SHARP_TRACES is unset or holds no lublin_256.swf")
    return read_swf(path)


def waits_since_minus_one(rule):
    """The authors' mistake: a job that waits has the start time -1, from which they count."""
    return lambda submit, requested, processors, now: rule(submit, requested, processors, -1.0)


@pytest.mark.parametrize(
    ("rule", "slowdown", "utilization"),
    [
        (heuristics.fcfs, 7273.77, 0.657),
        (heuristics.sjf, 277.35, 0.762),
        (heuristics.f1, 258.37, 0.816),
        (heuristics.wfp3, 337.34, None),
        (heuristics.unicep, 381.71, None),
        (waits_since_minus_one(heuristics.wfp3), 19753.53, 0.747),
        (waits_since_minus_one(heuristics.unicep), 22274.74, 0.691),
    ],
    ids=["FCFS", "SJF", "F1", "WFP3", "UNICEP", "published WFP3", "published UNICEP"],
)
def test_without_backfilling(rule, slowdown, utilization):
    jobs = lublin_1().sequences(STARTS, 1024)
    starts = schedule(jobs, rule)
    assert scores.bounded_slowdown(jobs, starts).mean() == pytest.approx(slowdown, abs=0.01)
    if utilization:
        assert scores.utilization(jobs, starts).mean() == pytest.approx(utilization, abs=5e-4)


def cut(trace, start, length):
    part = slice(start, start + length)
    return Jobs.of(trace.machine, trace.submit[part], trace.run[part], trace.processors[part])


def one_event_at_a_time(jobs, rule):
    """The authors' backfilling: at the same second, submits come first, and then one job ends.

    Whether another job may be backfilled is asked after each of them, before those that happen at
    the same second are known.
    """
    submit, run, processors = jobs.submit.tolist(), jobs.run.tolist(), jobs.processors.tolist()
    now, free, arrived = submit[0], jobs.machine, 1
    queue, running, starts = [0], [], [None] * len(submit)

    def launch(job):
        nonlocal free
        starts[job] = now
        free -= processors[job]
        running.append(job)
        running.sort(key=lambda job: starts[job] + run[job])
        queue.remove(job)

    def next_event():
        nonlocal now, free, arrived
        end = starts[running[0]] + run[running[0]] if running else math.inf
        if arrived < len(submit) and submit[arrived] <= end:
            now = max(now, submit[arrived])
            queue.append(arrived)
            arrived += 1
        else:
            now = max(now, end)
            free += processors[running.pop(0)]

    while queue:
        chosen = min(queue, key=lambda job: rule(submit[job], run[job], processors[job], now))
        available, fit = free, -math.inf
        for job in running:
            if available >= processors[chosen]:
                break
            available += processors[job]
            fit = starts[job] + run[job]
        while free < processors[chosen]:
            for job in sorted(queue):
                if now + run[job] < fit and processors[job] <= free:
                    launch(job)
            next_event()
        launch(chosen)
        while not queue and arrived < len(submit):
            next_event()
    return starts


def cubed(submit, requested, processors, now):
    return ((1 + submit) / requested) ** 3 * processors


def divided(submit, requested, processors, now):
    return (1 + submit) / (math.log2(processors + 1e-15) * requested)


@pytest.mark.parametrize(
    ("rule", "plain", "slowdown", "utilization"),
    [
        (heuristics.fcfs, lambda s, r, n, now: s, 235.82, 0.868),
        (heuristics.sjf, lambda s, r, n, now: r, 73.31, 0.778),
        (heuristics.f1, lambda s, r, n, now: math.log10(r) * n + 870 * math.log10(s), 75.07, 0.840),
        (waits_since_minus_one(heuristics.wfp3), cubed, 133.87, 0.864),
        (waits_since_minus_one(heuristics.unicep), divided, 307.23, 0.883),
    ],
    ids=["FCFS", "SJF", "F1", "published WFP3", "published UNICEP"],
)
def test_with_backfilling(rule, plain, slowdown, utilization):
    trace = lublin_1()
    jobs = trace.sequences(STARTS, 1024)
    theirs = np.array([one_event_at_a_time(cut(trace, start, 1024), plain) for start in STARTS])
    assert scores.bounded_slowdown(jobs, theirs).mean() == pytest.approx(slowdown, abs=0.01)
    # What happens at the same second happens together here: another order of a few jobs.
    ours = schedule(jobs, rule, backfill=True)
    assert scores.bounded_slowdown(jobs, ours).mean() == pytest.approx(slowdown, rel=2e-3)
    assert scores.utilization(jobs, ours).mean() == pytest.approx(utilization, abs=5e-4)
