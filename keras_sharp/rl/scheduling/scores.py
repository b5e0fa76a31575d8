"""How good a schedule is: one number for every sequence of jobs."""

import numpy as np

from keras_sharp.rl.scheduling.jobs import Jobs


def wait(jobs: Jobs, starts: np.ndarray) -> np.ndarray:
    """Mean time in seconds from submit to start; lower is better.

    Args:
        jobs: Sequences of jobs.
        starts: `(sequences, n)` seconds, when each job starts.

    Returns:
        `(sequences,)` float64.
    """
    return (starts - jobs.submit).mean(axis=-1)


def turnaround(jobs: Jobs, starts: np.ndarray) -> np.ndarray:
    """Mean time in seconds from submit to end; lower is better. Arguments as for `wait`."""
    return (starts - jobs.submit + jobs.run).mean(axis=-1)


def slowdown(jobs: Jobs, starts: np.ndarray) -> np.ndarray:
    """Mean of turnaround over run time; lower is better. Arguments as for `wait`."""
    return ((starts - jobs.submit + jobs.run) / jobs.run).mean(axis=-1)


def bounded_slowdown(jobs: Jobs, starts: np.ndarray) -> np.ndarray:
    """Mean of `max(1, turnaround / max(run time, 10 s))`; lower is better.

    The ten seconds keep jobs that hardly run from outweighing all others. Arguments as for `wait`.
    """
    ratio = (starts - jobs.submit + jobs.run) / np.maximum(jobs.run, 10)
    return np.maximum(ratio, 1).mean(axis=-1)


def utilization(jobs: Jobs, starts: np.ndarray) -> np.ndarray:
    """Share of the machine's time that jobs used; higher is better. Arguments as for `wait`.

    Note:
        As in the RLScheduler environment the time runs from the first submit to the moment the
        last job *starts*. Work done after that counts too, so a late long job flatters and the
        share can exceed 1. Where all jobs start as the first is submitted it is infinite.
    """
    work = (jobs.run * jobs.processors).sum(axis=-1)
    span = starts.max(axis=-1) - jobs.submit[..., 0]
    with np.errstate(divide="ignore"):
        return work / (span * jobs.machine)


# By name, with the sign that makes more of it better.
SCORES = {
    "bounded_slowdown": (bounded_slowdown, -1),
    "slowdown": (slowdown, -1),
    "turnaround": (turnaround, -1),
    "utilization": (utilization, 1),
    "wait": (wait, -1),
}
