import numpy as np
import tensorflow as tf

from keras_sharp.rl.navigation.motion import slide

# A wall across a room, with a door: cells of 0.25 m, rows are y.
FREE = np.array(
    [
        [cell == "." for cell in row]
        for row in ("########", "#...#..#", "#......#", "#...#..#", "########")
    ]
)


def moved(position, step):
    return slide(
        tf.constant(FREE[None]), tf.zeros(1, "int32"), np.float32([position]), np.float32([step])
    ).numpy()[0]


def test_free_steps_and_walls_by_hand():
    np.testing.assert_array_equal(moved([0.5, 0.5], [0.125, 0.0625]), [0.625, 0.5625])
    np.testing.assert_array_equal(moved([0.5, 0.5], [0, 0]), [0.5, 0.5])
    # The wall begins at x = 1: an agent of 0.1 m stops at 0.9, and slides along y.
    np.testing.assert_allclose(moved([0.85, 0.5], [0.2, 0.15]), [0.9, 0.65], atol=2e-4)
    np.testing.assert_allclose(moved([0.85, 0.4], [0.25, 0]), [0.9, 0.4], atol=2e-4)
    # From the other side it ends at 1.25, and the outer walls at 0.25.
    np.testing.assert_allclose(moved([1.45, 0.4], [-0.25, 0]), [1.35, 0.4], atol=2e-4)
    np.testing.assert_allclose(moved([0.4, 0.4], [-0.1, -0.2]), [0.35, 0.35], atol=2e-4)
    # Through the door, from y = 0.5 to 0.75, only where all of the agent fits.
    np.testing.assert_allclose(moved([0.85, 0.62], [0.25, 0]), [1.1, 0.62], atol=1e-6)
    np.testing.assert_allclose(moved([0.85, 0.66], [0.25, 0]), [0.9, 0.66], atol=2e-4)


def test_no_walk_gets_into_a_wall_or_leaves_one_it_leans_on():
    random = np.random.default_rng(0)
    count = 200
    step = tf.function(lambda *moves: slide(tf.constant(FREE[None]), *moves))
    positions = tf.constant(np.float32([[0.6, 0.6]] * count))
    for _ in range(50):
        angles = random.uniform(0, 2 * np.pi, count)
        steps = 0.25 * np.stack([np.cos(angles), np.sin(angles)], axis=1).astype("float32")
        before = positions.numpy()
        positions = step(tf.zeros(count, "int32"), positions, steps)
        for corner in ([-0.1, -0.1], [-0.1, 0.1], [0.1, -0.1], [0.1, 0.1]):
            x, y = ((positions.numpy() + np.float32(corner)) / 0.25).astype(int).T
            assert FREE[y, x].all()
        walked = np.abs(positions - before)
        assert (walked <= np.abs(steps) + 2e-4).all()
    assert (positions.numpy()[:, 0] > 1.35).any()  # some went through the door
