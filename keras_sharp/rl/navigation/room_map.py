"""Rooms with doors, drawn at random."""

from typing import Any

import numpy as np

from keras_sharp.arguments import integer


def room_map(cells: int, *, room: int = 8, door: int = 4, seed: Any = 0) -> np.ndarray:
    r"""Returns a square floor plan: rooms inside an outer wall, each reached from every other.

    A wall across the longer side of the plan divides it in two, and so on with both parts, as long
    as each part keeps the least side of a room. A wall has a door, or one in each half where it is
    as long as two rooms, so there are ways round; and it never ends at a door of another, so every
    room is reached. No two free cells touch by a corner alone.

    Args:
        cells: Side of the plan, with its outer wall; a wall is one cell thick.
        room: Least side of a room.
        door: Width of a door.
        seed: What `numpy.random.default_rng` takes.

    Returns:
        `(cells, cells)` bool, rows by columns: where the floor is free.

    Raises:
        ValueError: If `door` is wider than a room, or a room does not fit.

    Example:
    ```python
    free = room_map(40, seed=1)
    print("\n".join("".join(" #"[not cell] for cell in row) for row in free))
    ```
    """
    room = integer("room", room)
    door = integer("door", door)
    if door > room:
        raise ValueError(f"`door` must be at most `room`. Received: door={door}, room={room}")
    cells = integer("cells", cells, least=room + 2)
    free = np.zeros((cells, cells), bool)
    free[1:-1, 1:-1] = True
    _divide(free, 1, cells - 1, 1, cells - 1, room, door, np.random.default_rng(seed))
    return free


def _divide(
    free: np.ndarray,
    top: int,
    bottom: int,
    left: int,
    right: int,
    room: int,
    door: int,
    random: np.random.Generator,
) -> None:
    if bottom - top < right - left:
        _divide(free.T, left, right, top, bottom, room, door, random)
        return
    places = np.arange(top + room, bottom - room)
    places = places[~free[places, left - 1] & ~free[places, right]]
    if not places.size:
        return
    row = random.choice(places)
    free[row, left:right] = False
    doors = 2 if right - left > 2 * room else 1
    for half in np.array_split(np.arange(left, right), doors):
        start = half[0] + random.integers(len(half) - door + 1)
        free[row, start : start + door] = True
    _divide(free, top, row, left, right, room, door, random)
    _divide(free, row + 1, bottom, left, right, room, door, random)
