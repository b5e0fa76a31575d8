"""Synthetic jobs that look like those of a parallel computer."""

import math
from collections.abc import Callable

import numpy as np
import scipy.stats

from keras_sharp.arguments import integer
from keras_sharp.rl.scheduling.jobs import Jobs

_HALF_HOUR = 1800
_HALF_HOURS = 48
_DAY_START = 11  # the half hour with which the model's day begins


def lublin_feitelson(jobs: int, *, processors: int = 256, seed: int = 0) -> Jobs:
    """Draws a trace from the workload model of Lublin and Feitelson.

    - Size: 1 processor with probability 0.244. Else `2^x` with `x` uniform on `[0.8, m]` with
      probability 0.86 and on `[m, h]` otherwise, `h = log2(processors)`, `m = h - 2.5`; with
      probability 0.576 (of all jobs) `x` is rounded, and the size is a power of two.
    - Run time: `exp(y)` seconds, `y` from Gamma(4.2, 0.94) with probability
      `p = 0.78 - 0.0054 size`, kept within 0 and 1, else from Gamma(312, 0.03): large jobs run for
      longer. Drawn again while `y > 12`, about 45 hours.
    - Submit: the gaps are `exp(z)` seconds, `z` from Gamma(10.2303 * 1.0225, 0.4871), drawn again
      while `z > 13`, in a time that passes faster when more jobs come: half hour `i` of the day has
      the weight that Gamma(8.1737, 3.9631) gives to `[i - 0.5, i + 0.5]`, `i = 11 ... 58`, over the
      mean weight. The trace begins at midnight.

    Gammas are given by shape and scale; the constants are those for jobs of all kinds together.
    Times are whole seconds. Users ask for exactly the time they need.

    Note:
        On a machine whose size is no power of two, rounding up could exceed it; such jobs get the
        largest power of two that fits.

    Args:
        jobs: How many.
        processors: Size of the machine, 16 or more: the model has no smaller ones.
        seed: Seed of `numpy.random.default_rng`.

    Returns:
        The trace.

    References:
        Lublin & Feitelson 2003, "The workload on parallel supercomputers: modeling the
        characteristics of rigid jobs", JPDC 63(11). Constants and truncation as in the authors'
        program, `m_lublin99.c` of the Parallel Workloads Archive.
    """
    jobs = integer("jobs", jobs)
    processors = integer("processors", processors, least=16)
    rng = np.random.default_rng(seed)
    size = _sizes(rng, jobs, processors)
    first = np.clip(0.78 - 0.0054 * size, 0, 1)
    run = np.exp(_below(12, lambda which: _log_run_times(rng, first[which]), jobs))
    gaps = np.exp(_below(13, lambda which: rng.gamma(10.2303 * 1.0225, 0.4871, len(which)), jobs))
    submit = _time_of_day(np.cumsum(gaps))
    return Jobs.of(processors, np.floor(submit), np.floor(run), size)


def _sizes(rng: np.random.Generator, jobs: int, processors: int) -> np.ndarray:
    high = math.log2(processors)
    middle = high - 2.5
    small = rng.random(jobs) <= 0.86
    exponent = np.where(small, rng.uniform(0.8, middle, jobs), rng.uniform(middle, high, jobs))
    kind = rng.random(jobs)
    power = np.minimum(np.floor(exponent + 0.5), math.floor(high))
    exponent = np.where(kind <= 0.244 + 0.576, power, exponent)
    return np.where(kind <= 0.244, 1, np.floor(2**exponent + 0.5)).astype("int64")


def _log_run_times(rng: np.random.Generator, first: np.ndarray) -> np.ndarray:
    short = rng.random(len(first)) <= first
    return rng.gamma(np.where(short, 4.2, 312), np.where(short, 0.94, 0.03))


def _below(limit: float, draw: Callable[[np.ndarray], np.ndarray], number: int) -> np.ndarray:
    values = np.full(number, np.inf)
    while (which := np.flatnonzero(values > limit)).size:
        values[which] = draw(which)
    return values


def _time_of_day(seconds: np.ndarray) -> np.ndarray:
    """Turns seconds at the mean rate into seconds since midnight of the first day."""
    half_hours = np.arange(_DAY_START, _DAY_START + _HALF_HOURS)
    edges = np.append(half_hours - 0.5, half_hours[-1] + 0.5)
    weights = np.diff(scipy.stats.gamma.cdf(edges, 8.1737, scale=3.9631))
    # The model counts the half hours of a day from 1.
    weights = np.roll(weights / weights.mean(), _DAY_START - 1)
    passed = np.append(0, np.cumsum(weights)) * _HALF_HOUR
    clock = np.arange(_HALF_HOURS + 1) * _HALF_HOUR
    days, rest = np.divmod(seconds, _HALF_HOURS * _HALF_HOUR)
    return days * _HALF_HOURS * _HALF_HOUR + np.interp(rest, passed, clock)
