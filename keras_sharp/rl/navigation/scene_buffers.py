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
    """

    def __init__(self, make: Callable[[int, int], Scene], groups: int):
        first = [make(group, 0) for group in range(groups)]
        stacked = (np.stack([*each, np.zeros_like(each[0])]) for each in zip(*first, strict=True))
        self.scenes = Scene(*(tf.Variable(each, trainable=False) for each in stacked))
        self.places = tf.Variable(np.arange(groups), trainable=False, dtype="int64")
        self._make = make
        self._groups = groups
        self._exchanges = 0
        self._left = groups
        self._next: concurrent.futures.Future | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "scenes")

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
        if np.any(np.asarray(occupied) == self._left):
            return False
        turn, group = divmod(self._exchanges, self._groups)
        if self._next is None:
            self._next = self._thread.submit(self._make, group, turn + 1)
            return False
        scene = self._next.result()
        for variable, value in zip(self.scenes, scene, strict=True):
            variable[self._left].assign(value)
        left = int(self.places[group])
        self.places[group].assign(self._left)
        self._left = left
        self._exchanges += 1
        self._next = None
        return True
