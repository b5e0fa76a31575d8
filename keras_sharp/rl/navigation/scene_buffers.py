"""The scenes that environments share, and their exchange while episodes run."""

import concurrent.futures
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_sharp.rl.navigation.scene import Scene


class SceneBuffers:
    """Scenes on the device, one for each group of environments, and room for one more.

    The next scene is made in a thread. When it is let in, its group goes on with it, each
    environment at its next reset; when all of them have, the place of the scene they left is free.
    Groups take turns. The scenes of a group depend on its number and their order alone.

    Args:
        make: Returns the scene of a number of a group: 0 for its first, 1 for the one after it...
        groups: Number of groups.

    Attributes:
        scenes: `Scene` of variables, each with an axis of `groups + 1` places in front.
        places: `(groups,)` int64 variable, where each group begins its episodes.
        progress: int64 variable, 2 for each exchange, and 1 for a scene that is being made.
        variables: All of these, which is what an exact continuation needs.
    """

    def __init__(self, make: Callable[[int, int], Scene], groups: int):
        first = [make(group, 0) for group in range(groups)]
        stacked = [np.stack([*each, np.zeros_like(each[0])]) for each in zip(*first, strict=True)]
        self._first = [*stacked, np.arange(groups), np.int64(0)]
        self.variables = [tf.Variable(each, trainable=False) for each in self._first]
        *scenes, self.places, self.progress = self.variables
        self.scenes = Scene(*scenes)
        self._make = make
        self._groups = groups
        self._next: concurrent.futures.Future | None = None
        self._made: tuple[int, int] | None = None  # what that is: group and number
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "scenes")

    def restart(self) -> None:
        """Puts the first scenes back."""
        for variable, value in zip(self.variables, self._first, strict=True):
            variable.assign(value)
        self._made = None

    def exchange(self, occupied: tf.Tensor) -> bool:
        """Goes on with the exchange of scenes, as far as it can.

        One call begins to make a scene, the next one waits for it and lets it in, and then nothing
        happens until all environments of its group have moved. So which scene is where depends on
        the calls and not on the speed of the thread.

        Args:
            occupied: `(environments,)` integers, in which place each environment is.

        Returns:
            Whether a scene was let in.
        """
        left = self._groups * (self._groups + 1) // 2 - int(sum(self.places.numpy()))
        if np.any(np.asarray(occupied) == left):
            return False
        exchanges, being_made = divmod(int(self.progress.numpy()), 2)
        turn, group = divmod(exchanges, self._groups)
        wanted = group, turn + 1
        if self._made != wanted:  # also where the variables were given values that were saved
            self._next, self._made = self._thread.submit(self._make, *wanted), wanted
        if being_made:
            for variable, value in zip(self.scenes, self._next.result(), strict=True):
                variable[left].assign(value)
            self.places[group].assign(left)
        self.progress.assign_add(1)
        return bool(being_made)
