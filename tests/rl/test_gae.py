import numpy as np
import pytest

from keras_sharp.rl import gae

REWARDS, VALUES, LAST = [1.0, 2.0, 3.0], [0.5, 1.0, 1.5], 2.0


def test_by_hand():
    # delta_2 = 3 + 0.5 * 2 - 1.5 = 2.5        A_2 = 2.5
    # delta_1 = 2 + 0.5 * 1.5 - 1 = 1.75       A_1 = 1.75 + 0.25 * 2.5 = 2.375
    # delta_0 = 1 + 0.5 * 1 - 0.5 = 1          A_0 = 1 + 0.25 * 2.375 = 1.59375
    going_on = [1.59375, 2.375, 2.5]
    # The first step ends an episode, and A_0 = 1 - 0.5.
    two_episodes = [0.5, 2.375, 2.5]
    # delta_1 = 2 - 1, delta_0 = 1 + 0.5 * 1 - 0.5: A_0 = 1 + 0.25 * 1.
    ended_early = [1.25, 1, 0]
    # delta_0 = 1 + 0.5 * 4 - 0.5, with what is expected after it.
    broken_off = [2.5, 0, 0]
    # Step 2 follows step 0: delta_0 = 1 + 0.5 * 1.5 - 0.5 = 1.25, A_0 = 1.25 + 0.25 * 2.5.
    gap = [1.875, 0, 2.5]
    expected = np.array([going_on, two_episodes, ended_early, broken_off, gap])
    ends, taken = np.zeros((5, 3), bool), np.ones((5, 3), bool)
    rewards, values = np.tile(REWARDS, (5, 1)), np.tile(VALUES, (5, 1))
    last = np.full(5, LAST)
    ends[1, 0] = True
    ends[2, 1] = True
    taken[2, 2] = taken[3, 1] = taken[3, 2] = taken[4, 1] = False
    # What was not taken may hold anything.
    rewards[~taken], values[~taken] = 99, np.inf
    last[2:4] = 77, 4
    advantages, returns = gae(rewards, values, ends, last, taken, discount=0.5, decay=0.5)
    np.testing.assert_allclose(advantages, expected, rtol=1e-6)
    whole = np.where(taken, expected + np.tile(VALUES, (5, 1)), 0)
    np.testing.assert_allclose(returns, whole, rtol=1e-6)


def test_the_two_extremes():
    arguments = np.array([REWARDS]), np.array([VALUES]), np.zeros((1, 3), bool), np.array([LAST])
    # Trusting the rewards, what came until the end and then what is expected.
    _, returns = gae(*arguments, discount=1.0, decay=1.0)
    np.testing.assert_allclose(returns, [[1 + 2 + 3 + 2, 2 + 3 + 2, 3 + 2]], rtol=1e-6)
    # Trusting the values, one step and then what is expected.
    _, returns = gae(*arguments, discount=1.0, decay=0.0)
    np.testing.assert_allclose(returns, [[1 + 1, 2 + 1.5, 3 + 2]], rtol=1e-6)


def test_arguments():
    arguments = [np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3), bool), np.zeros(2)]
    with pytest.raises(ValueError, match="`discount` must be from 0 to 1"):
        gae(*arguments, discount=1.1)
    with pytest.raises(ValueError, match="`decay` must be from 0 to 1"):
        gae(*arguments, decay=-0.1)
    with pytest.raises(ValueError, match="must have one shape"):
        gae(*arguments[:3], np.zeros(3))
