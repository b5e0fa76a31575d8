"""The rules of thumb by which schedulers order a queue; the job with the lowest number goes first.

Each takes what is known of the waiting jobs, as arrays of any one shape or as scalars:

    submit: Seconds since the trace began.
    requested: Requested time in seconds.
    processors: Processors.
    now: Seconds since the trace began.

References:
    Tang et al. 2009, "Fault-aware, utility-based job scheduling on Blue Gene/P systems" (WFP3,
    UNICEP).
    Carastan-Santos & de Camargo 2017, "Obtaining dynamic scheduling policies with simulation and
    machine learning", SC17 (F1 to F4).
    Zhang et al. 2020, "RLScheduler", SC20.
"""

import numpy as np
from numpy.typing import ArrayLike


def fcfs(
    submit: ArrayLike, requested: ArrayLike, processors: ArrayLike, now: ArrayLike
) -> np.ndarray:
    """First come, first served."""
    return np.asarray(submit)


def sjf(
    submit: ArrayLike, requested: ArrayLike, processors: ArrayLike, now: ArrayLike
) -> np.ndarray:
    """Shortest requested time first; of equals, the first that came."""
    return np.asarray(requested)


def wfp3(
    submit: ArrayLike, requested: ArrayLike, processors: ArrayLike, now: ArrayLike
) -> np.ndarray:
    """`-(wait / requested)^3 * processors`: long waits for short or wide jobs end first."""
    return -(((now - np.asarray(submit)) / requested) ** 3) * processors


def unicep(
    submit: ArrayLike, requested: ArrayLike, processors: ArrayLike, now: ArrayLike
) -> np.ndarray:
    """`-wait / (log2(processors) * requested)`.

    For one processor the logarithm is 0: such jobs go first once they have waited at all, those
    with the largest `wait / requested` before the others.
    """
    # 1e-15 as in the RLScheduler environment: the quotient stays finite, and so an order.
    width = np.log2(np.asarray(processors) + 1e-15)
    return -(now - np.asarray(submit) + 1e-15) / (width * requested)


def f1(
    submit: ArrayLike, requested: ArrayLike, processors: ArrayLike, now: ArrayLike
) -> np.ndarray:
    """`log10(requested) * processors + 870 log10(submit)`."""
    return _log10(requested) * processors + 870 * _log10(submit)


def f2(
    submit: ArrayLike, requested: ArrayLike, processors: ArrayLike, now: ArrayLike
) -> np.ndarray:
    """`sqrt(requested) * processors + 25600 log10(submit)`."""
    return np.sqrt(requested) * processors + 25600 * _log10(submit)


def f3(
    submit: ArrayLike, requested: ArrayLike, processors: ArrayLike, now: ArrayLike
) -> np.ndarray:
    """`requested * processors + 6.86e6 log10(submit)`."""
    return np.asarray(requested) * processors + 6.86e6 * _log10(submit)


def f4(
    submit: ArrayLike, requested: ArrayLike, processors: ArrayLike, now: ArrayLike
) -> np.ndarray:
    """`requested * sqrt(processors) + 5.3e5 log10(submit)`."""
    return requested * np.sqrt(processors) + 5.3e5 * _log10(submit)


def _log10(seconds: ArrayLike) -> np.ndarray:
    # A trace may begin at second 0.
    return np.log10(np.where(np.asarray(seconds) > 0, seconds, 0.1))


HEURISTICS = {
    "FCFS": fcfs,
    "SJF": sjf,
    "WFP3": wfp3,
    "UNICEP": unicep,
    "F1": f1,
    "F2": f2,
    "F3": f3,
    "F4": f4,
}
