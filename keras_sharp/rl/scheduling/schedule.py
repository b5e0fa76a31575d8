"""Schedules sequences of jobs by one rule throughout."""

from collections.abc import Callable

import numpy as np

from keras_sharp.rl.scheduling.jobs import Jobs
from keras_sharp.rl.scheduling.simulator import Simulator


def schedule(jobs: Jobs, rule: Callable[..., np.ndarray], *, backfill: bool = False) -> np.ndarray:
    """Returns when every job starts if a rule picks the next one each time.

    The queue is ordered anew at every decision; of equals the job that came first goes first.

    Args:
        jobs: Sequences of jobs, `Jobs.sequences`.
        rule: One of `heuristics`, or a function of its own with the same arguments: arrays
            `submit`, `requested` and `processors`, all `(sequences, n)`, and `now`,
            `(sequences, 1)`. It returns finite numbers, the lowest for the job to go first.
        backfill: Whether other jobs may start while the chosen one waits; see `Simulator`.

    Returns:
        `(sequences, n)` float64, seconds.

    Example:
    ```python
    from keras_sharp.rl import scheduling

    jobs = scheduling.lublin_feitelson(2000, seed=1).sequences([0, 500, 1000], length=256)
    starts = scheduling.schedule(jobs, scheduling.heuristics.sjf)
    scheduling.scores.bounded_slowdown(jobs, starts)  # one number a sequence
    ```
    """
    simulator = Simulator(jobs, backfill=backfill)
    while not simulator.done.all():
        priority = rule(jobs.submit, jobs.requested, jobs.processors, simulator.now[:, None])
        simulator.start(np.where(simulator.waiting, priority, np.inf).argmin(axis=1))
    return simulator.starts
