import copy
import dataclasses
import math

import numpy as np
import pytest

from keras_sharp.rl.scheduling import (
    Jobs,
    Simulator,
    heuristics,
    lublin_feitelson,
    plain_schedule,
    schedule,
    scores,
)

SUBMIT = [100, 101, 102, 103, 110]
RUN = [20, 50, 5, 30, 4]
PROCESSORS = [6, 8, 4, 2, 2]


def crowded(seed, sequences=40, length=30, exact=False):
    """Small whole numbers: many jobs at the same second, and wrong requests unless `exact`."""
    rng = np.random.default_rng(seed)
    size = (sequences, length)
    run = rng.integers(1, 30, size).astype(float)
    return Jobs(
        machine=8,
        submit=np.sort(rng.integers(0, 150, size), axis=1).astype(float),
        run=run,
        requested=run if exact else np.maximum(1, run + rng.integers(-5, 20, size)),
        processors=np.maximum(1, rng.integers(1, 9, size) // rng.integers(1, 4, size)),
        features=np.zeros((*size, 6), "float32"),
    )


def one_sequence(jobs, row):
    names = ("submit", "run", "requested", "processors", "features")
    return dataclasses.replace(jobs, **{name: getattr(jobs, name)[row] for name in names})


def by_hand(backfill, rule):
    jobs = Jobs.of(8, SUBMIT, RUN, PROCESSORS).sequences([0], 5)
    return schedule(jobs, rule, backfill=backfill)[0]


def test_first_come_by_hand():
    # Job 1 needs the whole machine: it waits for job 0, and all others for job 1.
    np.testing.assert_array_equal(by_hand(False, heuristics.fcfs), [100, 120, 170, 170, 170])


def test_backfilling_by_hand():
    # Job 1 will fit at 120, and two processors are free until then. Job 2 is too wide and job 3
    # too long; job 4 ends at 114.
    np.testing.assert_array_equal(by_hand(True, heuristics.fcfs), [100, 120, 170, 170, 110])


def test_a_choice_is_a_reservation():
    # Job 1 is alone in the queue when it is chosen, at 101; that shorter ones come later does not
    # matter. Only then the rule chooses among the others, which all fit.
    np.testing.assert_array_equal(by_hand(False, heuristics.sjf), [100, 120, 170, 170, 170])


RULES = {
    "FCFS": lambda s, r, n, now: s,
    "SJF": lambda s, r, n, now: r,
    "WFP3": lambda s, r, n, now: -(((now - s) / r) ** 3) * n,
    "F1": lambda s, r, n, now: math.log10(r) * n + 870 * math.log10(s if s > 0 else 0.1),
}


@pytest.mark.parametrize("backfill", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_many_at_once_are_one_after_the_other_event_by_event(name, backfill):
    jobs = crowded(seed=1)
    starts = schedule(jobs, heuristics.HEURISTICS[name], backfill=backfill)
    for row, found in enumerate(starts):
        expected = plain_schedule(one_sequence(jobs, row), RULES[name], backfill=backfill)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("backfill", [False, True])
def test_no_processor_is_held_twice(backfill):
    jobs = crowded(seed=2)
    starts = schedule(jobs, heuristics.unicep, backfill=backfill)
    assert (starts >= jobs.submit).all()
    running = (starts[:, :, None] <= starts[:, None]) & (
        starts[:, None] < (starts + jobs.run)[:, :, None]
    )
    assert (running * jobs.processors[:, :, None]).sum(axis=1).max() == jobs.machine


def test_backfilling_starts_others_and_costs_the_chosen_nothing_if_requests_are_exact():
    jobs = crowded(seed=3, exact=True)
    simulator = Simulator(jobs, backfill=True)
    filled = 0
    while not simulator.done.all():
        # The same machines, on which this once nothing else may start.
        alone = copy.deepcopy(simulator)
        alone.backfill = False
        rows = np.flatnonzero(~simulator.done)
        choices = simulator.waiting.argmax(axis=1)
        simulator.start(choices)
        alone.start(choices)
        filled += np.isfinite(simulator.starts).sum() - np.isfinite(alone.starts).sum()
        chosen = (rows, choices[rows])
        np.testing.assert_array_equal(simulator.starts[chosen], alone.starts[chosen])
    assert filled > 50


def test_only_jobs_that_wait_can_be_started():
    jobs = Jobs.of(8, SUBMIT, RUN, PROCESSORS)
    simulator = Simulator(jobs.sequences([0, 1], 3))
    for choices in ([0, 1], [0, -1], [3, 0]):
        with pytest.raises(ValueError, match="must be jobs that wait"):
            simulator.start(np.array(choices))
    simulator.start(np.array([0, 0]))
    with pytest.raises(ValueError, match=r"choices\[0\]=0"):
        simulator.start(np.array([0, 1]))
    with pytest.raises(ValueError, match="must be sequences"):
        Simulator(jobs)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([], [], []), "There must be jobs"),
        (([0, 1], [1], [1, 1]), "one length"),
        (([1, 0], [1, 1], [1, 1]), "before that of the job ahead. Received: job 1"),
        (([0, 1], [1, 0], [1, 1]), "run time that is not positive and finite. Received: job 1"),
        (([0, 1], [1, 1], [1, 1], [1, np.nan]), "requested time that is not finite. Received: job"),
        (([0, 1], [1, 1], [1, 1], None, [[1, 2]] * 2), r"`identity` must be \(2, 4\)"),
        (([0, np.nan], [1, 1], [1, 1]), "submit time that is not finite"),
        (([0, 1], [1, 1], [1, 1.5]), "part of a processor. Received: job 1"),
        (([0, 1], [1, 1], [0, 1]), "less than one processor. Received: job 0"),
        (([0, 1], [1, 1], [1, 9]), "more processors than the machine's 8. Received: job 1"),
    ],
)
def test_impossible_jobs_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        Jobs.of(8, *columns)


def test_sequences_are_cut_from_within_the_trace():
    jobs = lublin_feitelson(10, seed=0)
    np.testing.assert_array_equal(
        jobs.sequences([6, 0], 4).submit, [jobs.submit[6:], jobs.submit[:4]]
    )
    for kind in ("uint8", "uint64"):
        starts = np.array([6, 0], kind)
        np.testing.assert_array_equal(jobs.sequences(starts, 4).submit[1], jobs.submit[:4])
    for starts in ([7], [-1], [], [0.7], np.array([255], "uint8")):
        with pytest.raises(ValueError, match="Received"):
            jobs.sequences(starts, 4)


def test_heuristics_by_hand():
    submit, requested, processors, now = 1000.0, 100.0, 4, 1300.0
    expected = {
        "FCFS": 1000,
        "SJF": 100,
        "WFP3": -27 * 4,
        "UNICEP": -300 / (2 * 100),
        "F1": 2 * 4 + 870 * 3,
        "F2": 10 * 4 + 25600 * 3,
        "F3": 100 * 4 + 6.86e6 * 3,
        "F4": 100 * 2 + 5.3e5 * 3,
    }
    assert set(expected) == set(heuristics.HEURISTICS)
    for name, value in expected.items():
        rule = heuristics.HEURISTICS[name]
        assert rule(submit, requested, processors, now) == pytest.approx(value, rel=1e-12), name
        # A trace may begin at second 0, and a job may just have come.
        assert np.isfinite(rule(0.0, requested, 1, 0.0)), name
    # One processor goes first, and among those the longest wait for the time requested.
    order = heuristics.unicep(np.array([1299.0, 1000, 1298]), 100.0, np.array([1, 2, 1]), now)
    np.testing.assert_array_equal(np.argsort(order), [2, 0, 1])


def test_scores_by_hand():
    jobs = Jobs.of(10, [0, 10, 20], [100, 2, 50], [5, 10, 1]).sequences([0], 3)
    starts = np.array([[0.0, 100, 110]])
    assert scores.wait(jobs, starts) == pytest.approx([(0 + 90 + 90) / 3])
    assert scores.turnaround(jobs, starts) == pytest.approx([(100 + 92 + 140) / 3])
    assert scores.slowdown(jobs, starts) == pytest.approx([(1 + 92 / 2 + 140 / 50) / 3])
    assert scores.bounded_slowdown(jobs, starts) == pytest.approx([(1 + 92 / 10 + 140 / 50) / 3])
    assert scores.utilization(jobs, starts) == pytest.approx([(500 + 20 + 50) / (110 * 10)])
    # A job of 2 s that starts at once has the slowdown 1, not 0.2.
    short = Jobs.of(1, [0], [2], [1]).sequences([0], 1)
    assert scores.bounded_slowdown(short, np.zeros((1, 1))) == [1]
