import numpy as np
import pytest
import scipy.ndimage

from keras_sharp.rl.navigation import room_map


@pytest.mark.parametrize(
    ("cells", "room", "door"), [(12, 10, 2), (14, 5, 2), (40, 8, 4), (41, 5, 1)]
)
def test_rooms_are_enclosed_connected_and_as_large_as_asked(cells, room, door):
    for seed in range(20):
        free = room_map(cells, room=room, door=door, seed=seed)
        assert free.shape == (cells, cells) and free.dtype == bool
        edge = np.concatenate([free[[0, -1]], free[:, [0, -1]].T])
        assert not edge.any()
        assert scipy.ndimage.label(free)[1] == 1
        # Walls are one cell thick, so every free cell lies in a free line as long as a room,
        # unless it is in a door.
        squares = scipy.ndimage.binary_opening(free, np.ones((room, room)))
        assert (free & ~squares).sum() < free.sum() / 10
        # No two free cells touch by a corner alone.
        a, b, c, d = free[:-1, :-1], free[:-1, 1:], free[1:, :-1], free[1:, 1:]
        assert not (a & d & ~b & ~c).any() and not (b & c & ~a & ~d).any()


def test_a_plan_of_one_room_and_of_several():
    assert room_map(18, room=8).sum() == 16**2  # no place for a wall
    free = room_map(20, room=8, door=3, seed=0)
    _, count = scipy.ndimage.label(scipy.ndimage.binary_opening(free, np.ones((8, 8))))
    # One wall with a door in each half; then one in either part, 8 and 9 cells long, with a door.
    assert count == 4 and free.sum() == 18**2 - 18 - 8 - 9 + 4 * 3
    np.testing.assert_array_equal(free, room_map(20, room=8, door=3, seed=0))
    assert any((free != room_map(20, room=8, door=3, seed=seed)).any() for seed in (1, 2, 3))
