import numpy as np
import scipy.sparse.csgraph
import tensorflow as tf

from keras_sharp.rl.navigation import geodesic_fields, room_map
from keras_sharp.rl.navigation.geodesics import geodesic_distances


def test_in_the_open_it_is_a_closed_form():
    free = np.ones((21, 21), bool)
    field = geodesic_fields(free, [[10, 10]])[0]
    rows, columns = np.abs(np.indices(free.shape) - 10)
    far, near = np.maximum(rows, columns), np.minimum(rows, columns)
    # Knight's moves, and straight ones or diagonals for the rest.
    flat = near * np.sqrt(5) + (far - 2 * near)
    steep = (far - near) * np.sqrt(5) + (2 * near - far) * np.sqrt(2)
    np.testing.assert_allclose(field, 0.25 * np.where(2 * near <= far, flat, steep), rtol=1e-6)
    straight = 0.25 * np.hypot(rows, columns)
    assert (field >= straight - 1e-6).all() and (field <= 1.028 * straight + 1e-6).all()


def plain_graph(free):
    """Returns the lengths of all moves, every cell looked at by itself."""
    height, width = free.shape
    lengths = np.full((free.size, free.size), np.inf)
    for row, column in np.argwhere(free):
        for down in range(-2, 3):
            for across in range(-2, 3):
                to = row + down, column + across
                if np.gcd(down, across) != 1 or not (0 <= to[0] < height and 0 <= to[1] < width):
                    continue
                top, bottom = sorted((row, to[0]))
                left, right = sorted((column, to[1]))
                if free[top : bottom + 1, left : right + 1].all():
                    number = to[0] * width + to[1]
                    lengths[row * width + column, number] = 0.25 * np.hypot(down, across)
    return lengths


def test_shortest_ways_by_another_algorithm_and_walked_they_shrink():
    free = room_map(16, room=6, door=2, seed=3)
    lengths = plain_graph(free)
    distances, before = scipy.sparse.csgraph.shortest_path(
        lengths, method="FW", return_predecessors=True
    )
    goals = np.argwhere(free)[[0, 40, -1]]
    numbers = goals @ [16, 1]
    fields = geodesic_fields(free, goals)
    np.testing.assert_allclose(fields.reshape(3, -1), distances[numbers], rtol=1e-6)
    assert np.isinf(fields[:, ~free]).all() and np.isfinite(fields[:, free]).all()

    # Walk the longest way in steps of 0.25 m: each comes nearer by about as much.
    goal = 0
    walk = [int(np.argmax(np.where(free.ravel(), distances[numbers[goal]], -1)))]
    while walk[-1] != numbers[goal]:
        walk.append(before[numbers[goal], walk[-1]])
    corners = (np.stack(np.divmod(walk, 16), axis=1)[:, ::-1] + 0.5) * 0.25
    passed = np.append(0, np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1)))
    at = np.arange(0, passed[-1], 0.25)
    positions = np.stack([np.interp(at, passed, each) for each in corners.T], axis=1)
    count = len(positions)
    assert count > 15
    looked_up = geodesic_distances(
        tf.constant(fields[None]),
        tf.zeros(count, "int32"),
        tf.fill([count], goal),
        tf.constant(np.float32([corners[-1]] * count)),
        tf.constant(positions, "float32"),
    ).numpy()
    np.testing.assert_allclose(looked_up, passed[-1] - at, atol=0.06)
    shrunk = -np.diff(looked_up)
    assert shrunk.min() > 0.18 and shrunk.max() < 0.32


def test_near_the_goal_it_is_the_straight_line():
    free = np.ones((9, 9), bool)
    fields = tf.constant(geodesic_fields(free, [[4, 4]])[None])
    goal = np.float32([[1.125, 1.125]])
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    zeros = tf.zeros(16, "int32")
    for radius in (0.0, 0.1, 0.2, 0.24):
        positions = tf.constant(goal + radius * circle, "float32")
        near = geodesic_distances(fields, zeros, zeros, goal, positions)
        np.testing.assert_allclose(near, np.full(16, radius), atol=1e-6)
