"""One map, and what to do in it."""

from typing import NamedTuple

import numpy as np

from keras_sharp.arguments import integer
from keras_sharp.rl.navigation.geodesics import geodesic_fields
from keras_sharp.rl.navigation.geometry import CELL
from keras_sharp.rl.navigation.room_map import room_map

_MAPS = 100  # drawn for a scene before it is given up


class Scene(NamedTuple):
    """A map and its episodes, from which environments draw uniformly.

    Attributes:
        free: `(cells, cells)` bool, rows by columns, where the floor is free.
        goals: `(goals, 2)` float32, x and y, metres.
        fields: `(goals, cells, cells)` float32, metres, `geodesic_fields` of these goals.
        starts: `(episodes, 2)` float32, x and y, metres, where an episode begins.
        targets: `(episodes,)` int64, the number of its goal.
    """

    free: np.ndarray
    goals: np.ndarray
    fields: np.ndarray
    starts: np.ndarray
    targets: np.ndarray


class SceneRecipe(NamedTuple):
    """What all scenes of an environment have in common.

    Attributes:
        cells: Side of a map, in cells of 0.25 m.
        room: Least side of a room, in cells.
        door: Width of a door, in cells.
        goals: Goals in a map, each the centre of a cell that touches no wall.
        episodes: Episodes in a map, each a goal and the centre of a free cell to start from.
        distances: Least and largest geodesic distance from start to goal, metres; above 0.
    """

    cells: int = 40
    room: int = 8
    door: int = 4
    goals: int = 32
    episodes: int = 1024
    distances: tuple[float, float] = (1.0, 30.0)

    def make(self, seed: int | list[int]) -> Scene:
        """Returns the scene of a seed: on the first map drawn that has room for it.

        Raises:
            ValueError: If an argument is out of range, or each of a hundred maps has too few cells
                for the goals, or no start at such a distance.
        """
        count, episodes = integer("goals", self.goals), integer("episodes", self.episodes)
        least, most = self.distances
        # From a distance of 0 the SPL would be 0 / 0.
        if not 0 < least <= most:
            raise ValueError(
                "`distances` must be above 0, the first not above the second. Received: "
                f"distances={self.distances}"
            )
        random = np.random.default_rng(seed)
        roomiest = 0
        for _ in range(_MAPS):
            free = room_map(self.cells, room=self.room, door=self.door, seed=random)
            goals = _clear_cells(free)
            roomiest = max(roomiest, len(goals))
            if len(goals) < count:
                continue
            goals = random.choice(goals, count, replace=False)
            fields = geodesic_fields(free, goals)
            targets, rows, columns = np.nonzero((fields >= least) & (fields <= most))
            if targets.size:
                chosen = random.integers(targets.size, size=episodes)
                starts = np.stack([columns, rows], axis=1)[chosen]
                return Scene(
                    free, _centres(goals[:, ::-1]), fields, _centres(starts), targets[chosen]
                )
        if roomiest < count:
            raise ValueError(
                "`goals` must be at most the number of cells that touch no wall, "
                f"{roomiest} in the roomiest of {_MAPS} maps. Received: goals={self.goals}"
            )
        raise ValueError(
            "`distances` must be such that an episode fits into a map. Received: "
            f"distances={self.distances} with cells={self.cells}"
        )


def _clear_cells(free: np.ndarray) -> np.ndarray:
    """Returns row and column of the cells whose eight neighbours are free too."""
    around = np.lib.stride_tricks.sliding_window_view(free, (3, 3))
    return np.argwhere(around.all(axis=(2, 3))) + 1


def _centres(cells: np.ndarray) -> np.ndarray:
    return ((cells + 0.5) * CELL).astype("float32")
