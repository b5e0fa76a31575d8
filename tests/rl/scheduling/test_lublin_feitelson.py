import numpy as np
import pytest
import scipy.stats

from keras_sharp.rl.scheduling import lublin_feitelson

JOBS = 40_000
# A test of the right distribution fails once in a thousand seeds, and the seed is fixed.
LEAST = 1e-3


def chi_square(counts, probabilities):
    """The p-value, with all cells where fewer than five are expected taken as one."""
    expected = np.asarray(probabilities) * counts.sum()
    rare = expected < 5
    return scipy.stats.chisquare(
        [*counts[~rare], counts[rare].sum()], [*expected[~rare], expected[rare].sum() + 1e-9]
    ).pvalue


@pytest.fixture(scope="module")
def trace():
    return lublin_feitelson(JOBS, processors=128, seed=4)


def test_sizes(trace):
    def share(low, high):
        # The published two-stage uniform distribution for 128 processors.
        return np.diff(np.interp([low, high], [0.8, 4.5, 7], [0, 0.86, 1]))[0]

    expected = np.zeros(129)
    expected[1] = 0.244
    for exponent in range(1, 8):
        expected[2**exponent] = 0.576 * share(exponent - 0.5, exponent + 0.5)
    for size in range(2, 129):
        expected[size] += (1 - 0.244 - 0.576) * share(*np.log2([size - 0.5, size + 0.5]))
    counts = np.bincount(trace.processors, minlength=129)
    assert chi_square(counts, expected) > LEAST


@pytest.mark.parametrize("size", [1, 8, 64, 128])
def test_run_times(trace, size):
    found = trace.run[trace.processors == size]
    first = min(1, max(0, 0.78 - 0.0054 * size))

    def cdf(seconds):
        def mixture(y):
            gamma = scipy.stats.gamma.cdf
            return first * gamma(y, 4.2, scale=0.94) + (1 - first) * gamma(y, 312, scale=0.03)

        return mixture(np.log(seconds)) / mixture(12)

    # Whole seconds: compare the shares between quantiles, not the single values.
    edges = np.unique(np.round(np.exp(np.linspace(1, 12, 30))))
    counts, _ = np.histogram(found, [*edges[:-1], np.exp(12)])
    expected = np.diff(cdf(edges[:-1]), append=1)
    counts = np.append(counts, (found < edges[0]).sum())
    assert chi_square(counts, np.append(expected, cdf(edges[0]))) > LEAST


def test_submit_times(trace):
    # The rate at every second of the day: the weight of its half hour over the mean weight.
    half_hour = np.arange(48) + 1
    half_hour = np.where(half_hour < 11, half_hour + 48, half_hour)
    gamma = scipy.stats.gamma(8.1737, scale=3.9631)
    weight = gamma.cdf(half_hour + 0.5) - gamma.cdf(half_hour - 0.5)
    passed = np.append(0, np.cumsum(np.repeat(weight / weight.mean(), 1800)))
    day, second = np.divmod(trace.submit.astype(int), 86400)
    points = day * 86400 + passed[second]
    gaps = np.diff(points)
    # Submit times are cut to whole seconds; far below the gaps of e^4 s and more compared here.
    log_gap = scipy.stats.gamma(10.2303 * 1.0225, scale=0.4871)
    edges = np.linspace(4, 9, 26)
    counts, _ = np.histogram(np.log(np.maximum(gaps, 1)), [-1, *edges, 13])
    expected = np.diff(log_gap.cdf([0, *edges, 13])) / log_gap.cdf(13)
    assert chi_square(counts, expected) > LEAST


def test_seeds_and_sizes_of_machines():
    first = lublin_feitelson(50, seed=3)
    for name in ("submit", "run", "processors"):
        again = getattr(lublin_feitelson(50, seed=3), name)
        np.testing.assert_array_equal(getattr(first, name), again)
        assert not np.array_equal(again, getattr(lublin_feitelson(50, seed=4), name))
    # Rounding the exponent up would give 128.
    assert lublin_feitelson(5000, processors=100).processors.max() <= 100
    with pytest.raises(ValueError, match="`processors` must be an integer of at least 16"):
        lublin_feitelson(50, processors=8)
