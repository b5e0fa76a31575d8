"""Which sequences of jobs a policy should learn from first."""

from collections.abc import Sequence

import numpy as np

from keras_sharp.arguments import integer, one_of
from keras_sharp.rl.scheduling.heuristics import sjf
from keras_sharp.rl.scheduling.jobs import Jobs
from keras_sharp.rl.scheduling.schedule import schedule
from keras_sharp.rl.scheduling.scores import SCORES

# So many at once: a queue of thousands in step holds hundreds of megabytes.
_AT_ONCE = 500


def sjf_scores(
    trace: Jobs,
    starts: Sequence[int],
    length: int,
    *,
    backfill: bool = False,
    score: str = "bounded_slowdown",
) -> np.ndarray:
    """Returns how the shortest job first does on sequences of a trace.

    Args:
        trace: The trace.
        starts: Number of each sequence's first job, counted from 0.
        length: Jobs in each.
        backfill: Whether to backfill.
        score: A name in `scores.SCORES`.

    Returns:
        `(sequences,)` float64.
    """
    length = integer("length", length)
    compute, _ = SCORES[one_of("score", score, sorted(SCORES))]
    found = []
    for first in range(0, len(starts), _AT_ONCE):
        jobs = trace.sequences(starts[first : first + _AT_ONCE], length)
        found.append(compute(jobs, schedule(jobs, sjf, backfill=backfill)))
    return np.concatenate(found) if found else np.zeros(0)


def filter_sequences(
    starts: Sequence[int], scores: Sequence[float], low: float = 10, high: float = 150
) -> np.ndarray:
    """Returns the sequences that are neither trivial nor hopeless.

    Where hardly any job waits all choices are alike, and a few sequences in which thousands of
    times the run time is waited drown all others. A policy learns from the rest first, and then
    from all.

    Args:
        starts: Number of each sequence's first job.
        scores: Of the shortest job first, `sjf_scores`.
        low: Only sequences with a larger score are kept.
        high: Only sequences with a smaller score are kept.

    Returns:
        Those of `starts` that are kept, int64.

    Raises:
        ValueError: If none is.

    References:
        Zhang et al. 2020, "RLScheduler", SC20; the bounds as in its code, for bounded slowdowns.
    """
    starts, scores = np.asarray(starts, "int64"), np.asarray(scores, "float64")
    if starts.shape != scores.shape or not starts.size:
        raise ValueError(
            "`starts` and `scores` must be of the same sequences, one or more. Received: "
            f"shapes {starts.shape} and {scores.shape}"
        )
    kept = starts[(scores > low) & (scores < high)]
    if not kept.size:
        raise ValueError(
            f"Some score must lie between `low` and `high`. Received: low={low}, high={high}, "
            f"and scores from {scores.min():.4g} to {scores.max():.4g}, "
            f"half of them below {np.median(scores):.4g}"
        )
    return kept
