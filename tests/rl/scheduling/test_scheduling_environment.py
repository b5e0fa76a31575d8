import numpy as np
import pytest

from keras_sharp.rl.scheduling import (
    Jobs,
    SchedulingEnvironment,
    heuristics,
    lublin_feitelson,
    schedule,
    scores,
)

MOST = 1 - 1e-5


def test_what_is_seen_by_hand():
    jobs = Jobs.of(8, [0, 60, 60, 90], [100, 200, 50, 40], [6, 4, 2, 8], [100, 300, 60, 40])
    environment = SchedulingEnvironment(jobs.sequences([0], 4), queue=3)
    features, mask = environment.reset()
    empty = [0, 1, 1, 1, 1, 1, 1, 0]
    np.testing.assert_array_equal(mask, [[True, False, False]])
    # The longest run time is 200 s.
    first = [0, 0.5, 0.75, 1, 1, 1, 1, MOST]
    np.testing.assert_allclose(features, [[first, empty, empty]], rtol=1e-6)
    (features, mask), reward, done = environment.step([0])
    # Now 60: if all others started as they come, nobody would wait.
    assert (reward[0], done[0]) == (-1, False)
    # At 60 two processors are free: enough for one of the two jobs.
    second = [0, MOST, 0.5, 1, 1, 1, 1, 1e-5]
    third = [0, 0.3, 0.25, 1, 1, 1, 1, MOST]
    np.testing.assert_allclose(features, [[second, third, empty]], rtol=1e-6)
    with pytest.raises(ValueError, match=r"slots that hold a job. Received: choices\[0\]=2"):
        environment.step([2])
    with pytest.raises(ValueError, match=r"choices\[0\]=3"):
        environment.step([3])
    # The first of them begins at 100 and runs until 300; by then the last has come.
    (features, mask), reward, _ = environment.step([0])
    # The one of 50 s has waited for 40, the one of 40 s for 10.
    assert reward == pytest.approx(-(240 / 200 + 90 / 50 + 50 / 40 - 3) / 4)
    wait = [40 / 43200, 0.3, 0.25, 1, 1, 1, 1, MOST]
    last = [10 / 43200, 0.2, MOST, 1, 1, 1, 1, 1e-5]
    np.testing.assert_allclose(features, [[wait, last, empty]], rtol=1e-6)
    _, reward, done = environment.step([1])
    # It waits until 300, and so does the other.
    assert reward == pytest.approx(-(200 / 50 + 200 / 40) / 4)
    assert not done[0]
    (features, mask), reward, done = environment.step([0])
    # Forty more. Starts 0, 100, 340, 300: slowdowns 1, 240 / 200, 330 / 50, 250 / 40.
    assert reward == pytest.approx(-(40 / 50) / 4)
    assert done[0] and not mask.any()


def test_a_long_queue_shows_the_shortest_and_the_smallest_in_turn():
    run = [1, 5, 60, 10, 30, 20, 40, 50]
    size = [8, 8, 1, 7, 6, 2, 3, 4]
    jobs = Jobs.of(8, np.zeros(8), run, size)
    environment = SchedulingEnvironment(jobs.sequences([0, 0], 8), queue=5)
    (features, mask) = environment.reset()
    # In turn: 0 and 2, 1 and 5, 3 and (6).
    assert mask.all()
    shown = np.array(run)[[0, 1, 2, 3, 5]] / 60
    np.testing.assert_allclose(features[:, :, 1], [np.minimum(shown, MOST)] * 2, rtol=1e-6)
    environment.step([4, 4])
    assert (environment.simulator.starts[:, 5] == 0).all()


@pytest.mark.parametrize("backfill", [False, True])
@pytest.mark.parametrize("score", ["utilization", "bounded_slowdown"])
def test_first_slot_is_first_come_first_served(backfill, score):
    jobs = lublin_feitelson(300, seed=2).sequences([0, 100, 200], 100)
    environment = SchedulingEnvironment(jobs, backfill=backfill, score=score, queue=128)
    for _ in range(2):
        _, mask = environment.reset()
        total, ends, steps = np.zeros(3), np.zeros(3), 0
        while mask.any():
            (_, mask), rewards, done = environment.step(mask.argmax(axis=1))
            assert not mask[done].any() and mask[~done].any(axis=1).all()
            assert (rewards[ends > 0] == 0).all()
            total += rewards
            steps += 1
            ends[done & (ends == 0)] = steps
        starts = schedule(jobs, heuristics.fcfs, backfill=backfill)
        np.testing.assert_array_equal(environment.simulator.starts, starts)
        sign = 1 if score == "utilization" else -1
        np.testing.assert_allclose(total, sign * getattr(scores, score)(jobs, starts), rtol=1e-12)
        # With backfilling a decision may start several jobs.
        assert (ends < 100).any() if backfill else (ends == 100).all()


def test_utilization_while_no_time_has_passed():
    environment = SchedulingEnvironment(
        Jobs.of(4, [5, 5, 5], [10, 10, 10], [2, 2, 2]).sequences([0], 3), score="utilization"
    )
    environment.reset()
    rewards = [environment.step([0])[1][0] for _ in range(3)]
    # Sixty processor-seconds of four processors, until the last job starts at 15.
    assert rewards == [0, 0, 60 / 40]


def test_arguments():
    jobs = lublin_feitelson(20).sequences([0], 20)
    with pytest.raises(ValueError, match="`score` must be one of"):
        SchedulingEnvironment(jobs, score="makespan")
    with pytest.raises(ValueError, match="`queue` must be"):
        SchedulingEnvironment(jobs, queue=0)
