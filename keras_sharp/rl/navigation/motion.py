"""One step of every agent, along walls where it is not free."""

from collections.abc import Callable

import tensorflow as tf

from keras_sharp.rl.navigation.geometry import CELL, RADIUS

# What is left between an agent and the wall it walked into, in metres: more than rounding.
_GAP = 1e-4


def slide(free: tf.Tensor, scenes: tf.Tensor, positions: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
    """Returns where agents are after a step of less than two cells' width.

    The way along x is walked first, then that along y; either ends at the first wall, so what is
    left of an oblique step slides along it. An agent occupies a square, as wide as twice `RADIUS`.

    Args:
        free: `(scenes, rows, columns)` bool, where the floor is free.
        scenes: `(n,)` int32, where each agent is.
        positions: `(n, 2)` float32, x and y, metres.
        steps: `(n, 2)` float32, metres; along each axis at most a cell.

    Returns:
        `(n, 2)` float32, metres.
    """
    x, y = tf.unstack(positions, axis=1)
    along, across = tf.unstack(steps, axis=1)

    def is_free(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        cells = [tf.cast(tf.floor(each / CELL), "int32") for each in (y, x)]
        return tf.gather_nd(free, tf.stack([scenes, *cells], axis=1))

    x = _walk(x, along, lambda x: is_free(x, y - RADIUS) & is_free(x, y + RADIUS))
    y = _walk(y, across, lambda y: is_free(x - RADIUS, y) & is_free(x + RADIUS, y))
    return tf.stack([x, y], axis=1)


def _walk(begin: tf.Tensor, step: tf.Tensor, is_free: Callable) -> tf.Tensor:
    end = begin + step
    ahead = tf.where(step < 0, -RADIUS, RADIUS)
    cell = tf.floor((end + ahead) / CELL)
    wall = tf.where(step < 0, (cell + 1) * CELL + _GAP, cell * CELL - _GAP)
    return tf.where(is_free(end + ahead), end, wall - ahead)
