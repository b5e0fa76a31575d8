import numpy as np
import tensorflow as tf

from keras_sharp.rl.navigation import room_map
from keras_sharp.rl.navigation.camera import depth_images

STEP = 0.004


def images(free, scenes, positions, headings, size, jit_compile=False):
    images = tf.function(lambda *poses: depth_images(free, *poses, size), jit_compile=jit_compile)
    poses = np.int32(scenes), np.float32(positions), np.int32(headings)
    return images(*(tf.constant(each) for each in poses)).numpy()


def marched(free, position, heading, size):
    """Returns an image in metres: points further and further along each ray, in three dimensions.

    Rows are looked at from above, columns from the left, 90 degrees from edge to edge.
    """
    angle = np.deg2rad(10 * heading)
    forward = np.array([np.cos(angle), np.sin(angle), 0])
    right = np.array([-np.sin(angle), np.cos(angle), 0])
    offsets = (np.arange(size) + 0.5) / size * 2 - 1
    rays = forward + offsets[None, :, None] * right - offsets[:, None, None] * [0, 0, 1]
    depths = np.arange(0, 10, STEP)
    x, y, z = np.moveaxis([*position, 1.25] + depths[:, None, None, None] * rays, -1, 0)
    # What is behind the outer wall does not matter.
    column, row = (np.clip(each // 0.25, 0, len(free) - 1).astype(int) for each in (x, y))
    hit = ~free[row, column] | (z < 0) | (z > 2.5)
    return np.where(hit.any(axis=0), depths[hit.argmax(axis=0)], 10)


def test_depth_is_what_marching_along_rays_finds():
    random = np.random.default_rng(0)
    free = np.stack([room_map(60, room=8, door=4, seed=seed) for seed in range(3)])
    size, count = 8, 30
    scenes = np.arange(count) % 3
    cells = [random.choice(np.argwhere(free[scene])) for scene in scenes]
    positions = (np.array(cells)[:, ::-1] + random.uniform(0.1, 0.9, (count, 2))) * 0.25
    headings = random.integers(36, size=count)
    headings[:4] = [0, 9, 18, 27]  # along the walls
    depth = images(free, scenes, positions, headings, size, jit_compile=True)
    assert depth.shape == (count, size, size, 1) and depth.dtype == np.float32
    found = np.stack(
        [
            marched(free[scene], position, heading, size)
            for scene, position, heading in zip(scenes, positions, headings, strict=True)
        ]
    )
    error = found - 10 * depth[..., 0]
    assert -1e-5 < error.min() and error.max() < STEP + 1e-5
    assert depth.max() > 0.6 and depth.min() < 0.1


def test_a_long_room_by_hand():
    """Walls 0.5 m to both sides of the axis, one 8 m ahead, one too far to be seen behind."""
    free = np.zeros((1, 90, 90), bool)
    free[0, 40:44, 2:88] = True  # x from 0.5 to 22, y from 10 to 11
    ahead, behind = images(free, [0, 0], [[14.0, 10.5]] * 2, [0, 18], 64)[..., 0] * 10
    tangents = (np.arange(64) + 0.5) / 32 - 1
    sides, planes = 0.5 / np.abs(tangents), 1.25 / np.abs(tangents)[:, None]
    np.testing.assert_allclose(ahead, np.minimum(np.minimum(sides, planes), 8), rtol=1e-5)
    np.testing.assert_allclose(behind, np.minimum(np.minimum(sides, planes), 10), rtol=1e-5)
    # Left is left: only the wall to the left, at smaller y, has a gap.
    free[0, 38:40, 60:] = True
    ahead = images(free, [0], [[14.0, 10.5]], [0], 64)[0, 32, :, 0] * 10
    assert (ahead[:32] > np.minimum(sides, planes[32])[:32] + 0.3).any()
    np.testing.assert_allclose(ahead[32:], np.minimum(np.minimum(sides, planes[32]), 8)[32:], 1e-5)
