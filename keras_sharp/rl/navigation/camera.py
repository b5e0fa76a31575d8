"""What agents see: images of depth."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_sharp.rl.navigation.geometry import CAMERA_HEIGHT, CELL, FARTHEST, HEADINGS

# Within sight a ray crosses no more lines in one direction: a ray to the edge of the image is
# sqrt(2) times as long as it is deep.
_LINES = int(np.ceil(FARTHEST * np.sqrt(2) / CELL)) + 1
# So many lines in a turn of the loop, which spares memory traffic.
_AT_ONCE = 4


def depth_images(
    free: tf.Tensor, scenes: tf.Tensor, positions: tf.Tensor, headings: tf.Tensor, size: int
) -> tf.Tensor:
    """Returns what a camera at every agent measures, between floor, ceiling and walls.

    Depth is perpendicular: that along the axis of the camera, which is horizontal, half-way up and
    sees 90 degrees to both sides together. A pixel shows the centre of its area.

    Args:
        free: `(scenes, rows, columns)` bool, square maps enclosed by walls.
        scenes: `(n,)` int32, where each agent is.
        positions: `(n, 2)` float32, x and y, metres, on free floor.
        headings: `(n,)` int32, from x towards y, in steps of 10 degrees.
        size: Rows and columns of an image.

    Returns:
        `(n, size, size, 1)` float32: depth over 10 m, at most 1. Columns run from left to right,
        which is from x towards y.
    """
    walls = wall_depths(free, scenes, positions, headings, size)
    planes = CAMERA_HEIGHT / np.maximum(np.abs(_tangents(size)), 1e-9)
    planes = np.minimum(planes, FARTHEST).astype("float32")
    return (tf.minimum(walls[:, None, :], planes[:, None]) / FARTHEST)[..., None]


def wall_depths(
    free: tf.Tensor, scenes: tf.Tensor, positions: tf.Tensor, headings: tf.Tensor, size: int
) -> tf.Tensor:
    """Returns the perpendicular depth of the wall in every column of an image.

    Exact: a ray enters a wall where it crosses a line of the grid. The first lines of both
    directions are looked up, the second, and so on, in all images at once; the nearest that leads
    into a wall is the one.

    Returns:
        `(n, size)` float32, metres; may be infinite beyond 10 m.
    """
    forward = tf.gather(HEADINGS, headings)
    right = tf.stack([-forward[:, 1], forward[:, 0]], axis=1)
    tangents = _tangents(size).astype("float32")
    # One unit of such a ray is one of depth.
    rays = forward[:, None] + tangents[:, None] * right[:, None]
    cells = free.shape[-1]
    x, y = tf.unstack(positions[:, None] / CELL, axis=-1)
    along, across = tf.unstack(rays / CELL, axis=-1)
    first = scenes[:, None] * (cells * cells)
    directions = [
        _crossings(first, x, y, along, across, 1, cells),
        _crossings(first, y, x, across, along, cells, 1),
    ]
    beyond = tf.reshape(tf.where(free, np.float32(np.inf), 0), [-1])

    def nearer(line: tf.Tensor, nearest: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        for _ in range(_AT_ONCE):
            for crossings in directions:
                depth, cell = crossings.at(line)
                # What a ray reaches after it left the map lies behind a wall: any cell will do.
                cell = tf.clip_by_value(cell, 0, beyond.shape[0] - 1)
                nearest = tf.minimum(nearest, depth + tf.gather(beyond, cell))
            line += 1
        return line, nearest

    return tf.while_loop(
        lambda line, nearest: line < min(cells - 1, _LINES),
        nearer,
        (0, tf.fill(along.shape, np.float32(np.inf))),
    )[1]


class _Crossings(NamedTuple):
    """Where rays cross the lines of one direction: all `(n, size)`, in cells but for the depth."""

    depth: tf.Tensor
    depth_apart: tf.Tensor
    row: tf.Tensor
    row_apart: tf.Tensor
    row_stride: int
    cell: tf.Tensor
    cell_apart: tf.Tensor

    def at(self, line: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the depth of the crossing of a line, and the cell that is entered there."""
        times = tf.cast(line, "float32")
        row = tf.cast(tf.floor(self.row + times * self.row_apart), "int32")
        cell = self.cell + line * self.cell_apart + row * self.row_stride
        return self.depth + times * self.depth_apart, cell


def _crossings(
    first: tf.Tensor,
    x: tf.Tensor,
    y: tf.Tensor,
    along: tf.Tensor,
    across: tf.Tensor,
    x_stride: int,
    y_stride: int,
) -> _Crossings:
    along = tf.where(tf.abs(along) < 1e-5, 1e-5, along)
    column = tf.floor(x)
    apart = 1 / tf.abs(along)
    depth = (tf.where(along < 0, column, column + 1) - x) / along
    sign = tf.where(along < 0, -1, 1)
    return _Crossings(
        depth=depth,
        depth_apart=apart,
        row=y + depth * across,
        row_apart=apart * across,
        row_stride=y_stride,
        cell=first + (tf.cast(column, "int32") + sign) * x_stride,
        cell_apart=sign * x_stride,
    )


def _tangents(size: int) -> np.ndarray:
    return (2 * np.arange(size) + 1) / size - 1
