"""Auto-PGD in balls where the highest point is known."""

import numpy as np
import pytest

from keras_sharp.measures.auto_pgd import Ball, checkpoints, climb

BALLS = [Ball("l2", 0.7), Ball("linf", 0.7)]


def norm(ball, u):
    return np.linalg.norm(u, np.inf if ball.norm == "linf" else 2)


@pytest.mark.parametrize("ball", BALLS)
def test_geometry(ball):
    random = np.random.default_rng(0)
    gradient = random.normal(size=6)
    steepest = ball.steepest(gradient)
    assert norm(ball, steepest) == pytest.approx(1)
    assert ball.rise(gradient) == pytest.approx(ball.radius * gradient @ steepest)
    assert not ball.steepest(np.zeros(6)).any()
    outside = 3 * random.normal(size=6)
    nearest = ball.nearest(outside)
    assert norm(ball, nearest) == pytest.approx(0.7)
    np.testing.assert_array_equal(ball.nearest(0.01 * outside), 0.01 * outside)
    # No other point of the ball is nearer.
    others = np.array([ball.nearest(nearest + 0.1 * random.normal(size=6)) for _ in range(100)])
    assert np.all(np.linalg.norm(others - outside, axis=1) >= np.linalg.norm(nearest - outside))


@pytest.mark.parametrize("ball", BALLS)
def test_random_points_fill_the_ball_evenly(ball):
    random = np.random.default_rng(1)
    lengths = np.array([norm(ball, ball.random(random, 3)) for _ in range(2000)]) / ball.radius
    assert lengths.max() <= 1
    # The share of the volume within a radius r is r cubed.
    for radius in (0.4, 0.7, 0.9):
        share, expected = np.mean(lengths < radius), radius**3
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 2000)


@pytest.mark.parametrize("ball", BALLS)
def test_a_linear_function_rises_to_the_edge(ball):
    slope, points = np.array([3.0, -1.0, 0.0, 0.2]), []

    def evaluate(u):
        points.append(u)
        return slope @ u, slope

    highest = climb(evaluate, ball, np.zeros(4), 0.0, slope, 10)
    assert highest[-1] == pytest.approx(ball.rise(slope), rel=1e-12)
    assert len(points) == 10 and len(highest) == 11 and highest == sorted(highest)
    assert max(norm(ball, u) for u in points) <= 0.7 * (1 + 1e-12)
    # By hand: the first step is whole, twice the radius long, and ends at the edge.
    assert highest[1] == pytest.approx(ball.rise(slope))


@pytest.mark.parametrize("ball", BALLS)
def test_a_maximum_inside_is_found_by_halving_the_step(ball):
    top = np.array([0.11, -0.23, 0.05])

    def evaluate(u):
        return -np.sum((u - top) ** 2), -2 * (u - top)

    start = np.array([-0.4, 0.1, 0.3])
    short = climb(evaluate, ball, start, *evaluate(start), 20)[-1]
    long = climb(evaluate, ball, start, *evaluate(start), 200)[-1]
    assert short <= long <= 0 and long > -1e-4
    assert evaluate(start)[0] < 100 * long


def test_checkpoints_by_hand():
    # The intervals are 22, 19, 16, 13, 10, 7 and from then on 6 percent.
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99, 105]
    assert sorted(checkpoints(20)) == [5, 9, 12, 14, 16, 18, 19, 20, 21]
    assert min(checkpoints(1)) == 1


class Line:
    """No ball at all: a step of one dimension goes as far as it is long."""

    radius = 1.0

    def steepest(self, gradient):
        return gradient

    def nearest(self, u):
        return u


@pytest.mark.parametrize(
    ("second", "tenth"),
    [
        ([4.5, 4.6, 4.7, 6.0], 20.0),  # all of them rise: steps stay 2 long
        ([4.5, 4.4, 4.3, 4.2], 2.75),  # one of four does: from the best point, 3/4 of half a step
    ],
)
def test_a_step_counts_if_it_is_higher_than_the_one_before(second, tenth):
    # Of 20 steps the first 5 are looked at, and the next 4. Four of the first five rise: enough,
    # though one alone is the best so far.
    values, points = iter([5.0, 1.0, 2.0, 3.0, 4.0, *second, *range(11)]), []

    def evaluate(u):
        points.append(u[0])
        return next(values), np.ones(1)

    climb(evaluate, Line(), np.zeros(1), 0.0, np.ones(1), 20)
    assert points[:9] == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0]
    assert points[9] == pytest.approx(tenth)
