import numpy as np
import pytest

from keras_sharp.rl.scheduling import Jobs, filter_sequences, sjf_scores

# Three pairs of jobs, each of which takes the whole machine.
JOBS = Jobs.of(8, [0, 0, 100, 100, 2000, 2001], [20, 10, 1000, 10, 100, 10], [8] * 6)


def test_the_shortest_job_first_by_hand():
    # The first pair: 10 s at once, then 20 s after 10. The second: 1000 s after 10. In the third
    # nobody knows of the shorter job yet: 10 s after 99.
    expected = [(1 + 30 / 20) / 2, (1 + 1010 / 1000) / 2, (1 + 109 / 10) / 2]
    np.testing.assert_allclose(sjf_scores(JOBS, [0, 2, 4], 2), expected)
    waits = [10 / 2, 10 / 2, 99 / 2]
    np.testing.assert_allclose(sjf_scores(JOBS, [0, 2, 4], 2, score="wait"), waits)
    with pytest.raises(ValueError, match="`score` must be one of"):
        sjf_scores(JOBS, [0], 2, score="makespan")


def test_only_what_lies_between_is_kept():
    scores = sjf_scores(JOBS, [0, 2, 4], 2)
    np.testing.assert_array_equal(filter_sequences([0, 2, 4], scores, 1.1, 5), [0])
    # Of 10 and 150, by default, neither.
    kept = filter_sequences([5, 6, 7, 8, 9], [10, 10.1, 150, 149.9, 2000])
    np.testing.assert_array_equal(kept, [6, 8])
    with pytest.raises(ValueError, match="scores from 1.005 to 5.95"):
        filter_sequences([0, 2, 4], scores, 10, 150)
    with pytest.raises(ValueError, match="same sequences"):
        filter_sequences([0, 2], scores)
