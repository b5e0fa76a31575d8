"""PointGoal navigation as a task to learn: many agents in step with each other."""

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from keras_sharp.arguments import integer, optional_integer
from keras_sharp.rl.navigation import task
from keras_sharp.rl.navigation.random_draws import draw
from keras_sharp.rl.navigation.scene import Scene, SceneRecipe
from keras_sharp.rl.navigation.scene_buffers import SceneBuffers
from keras_sharp.rl.navigation.task import ACTIONS, NavigationState
from keras_sharp.tracing import traced

Info = dict[str, tf.Tensor]


class PointGoalEnvironment:
    """Agents that look for a goal in unknown rooms, all of them in one compiled program.

    An agent knows where its goal is as the crow flies, sees how far walls are, and goes there.

    | | |
    |---|---|
    | actions | 0 stop, 1 forward 0.25 m, 2 left 10 degrees, 3 right 10 degrees |
    | depth | `(environments, size, size, 1)` float32: over 10 m, at most 1 |
    | goal | `(environments, 2)` float32: distance in metres; angle to the *left*, radians |
    | end | after a stop, and when a count of steps that begins at 1 reaches `max_steps` |
    | success | geodesic distance to the goal below 0.2 m at the end, whatever ended it |
    | SPL | success x d0 / max(d0, way walked), d0 the geodesic distance at the start |
    | reward | -0.01, plus what the geodesic distance has shrunk by; at the end 2.5 x SPL instead |

    A move into a wall slides along it. A last move that the limit of steps ends is not counted in
    the way walked. An environment that ends begins its next episode in the same step: reward, end
    and `info` are of the episode that ended, what is observed is of the new one.

    What an environment does depends on its seed, its number, its scene and its actions alone:
    neither the number of environments nor the others change it, as long as no maps are exchanged. A
    map is replaced when all environments in it have left it, so when depends on the others.
    Environment i plays in scene i modulo `scenes`; with fewer environments than scenes, in scene i,
    and the other scenes do not exist.

    Note:
        The world is simpler than the scanned buildings of the original: rooms of 2.5 m height on a
        grid of 0.25 m, an agent that is a square of 0.2 m, distances as in `geodesic_fields`.
        Figures cannot be compared with those on Gibson or Matterport3D.

        The limit of steps is an end as any other, also for `gae`: nothing is expected after it.

    Args:
        environments: Number of environments; a multiple of `scenes`, or less than that.
        scenes: Number of maps.
        seed: Of maps and episodes, from 0 to 2**64 - 1.
        size: Rows and columns of an image.
        max_steps: One more than the actions an episode may take.
        swap_every: `step` calls `swap_scenes` once in so many steps. Not by default.
        jit_compile: Whether XLA compiles the steps.
        **recipe: What maps are like, see `SceneRecipe`: `cells`, `room`, `door`, `goals`,
            `episodes`, `distances`.

    Raises:
        ValueError: If an argument is out of range, or environments cannot be distributed evenly
            over scenes.

    Attributes:
        state: The `NavigationState` that `step` has reached; None before the first `reset`.
        step_state: `step_state(state, actions)` is `step` without a memory: a compiled function, to
            be called by others too. Returns the next state, depth, goal, reward, done and info. It
            does not check its actions.
        advance: `advance(state, actions)`, the first half of it: returns the state before new
            episodes begin, reward, done and info.
        observe: `observe(state)` returns depth and goal.

    Example:
    ```python
    environment = PointGoalEnvironment(64)
    depth, goal = environment.reset()
    for _ in range(100):
        actions = np.where(np.abs(goal[:, 1]) < 0.1, 1, np.where(goal[:, 1] > 0, 2, 3))
        depth, goal, reward, done, info = environment.step(actions)
    ```

    References:
        Shacklett et al. 2021, "Large Batch Simulation for Deep Reinforcement Learning",
        arXiv 2103.07013.
        Anderson et al. 2018, "On Evaluation of Embodied Navigation Agents", arXiv 1807.06757: SPL.
    """

    def __init__(
        self,
        environments: int,
        *,
        scenes: int = 16,
        seed: int = 0,
        size: int = 64,
        max_steps: int = 500,
        swap_every: int | None = None,
        jit_compile: bool = True,
        **recipe: Any,
    ):
        self.environments = integer("environments", environments)
        self.seed = _checked_seed(seed)
        self.size = integer("size", size)
        self.max_steps = integer("max_steps", max_steps, least=2)
        self.swap_every = optional_integer("swap_every", swap_every)
        self.recipe = SceneRecipe(**recipe)
        groups = min(integer("scenes", scenes), self.environments)
        if self.environments % groups:
            raise ValueError(
                "`environments` must be a multiple of `scenes`, or less. Received: "
                f"environments={environments}, scenes={scenes}"
            )
        self.state: NavigationState | None = None
        self._steps = tf.Variable(0, dtype="int64")
        self._groups = groups
        make = functools.partial(_make_scene, self.recipe, self.seed)
        self._buffers = SceneBuffers(make, groups)
        # Happens once, which is not worth XLA's time.
        self._begin = traced(self._begin_all)
        self.advance = traced(self._advance, jit_compile=jit_compile)
        self.observe = traced(self._observe, jit_compile=jit_compile)
        self.step_state = traced(self._step_state, jit_compile=jit_compile)

    @property
    def scenes(self) -> Scene:
        """The maps: a `Scene` of variables, each with an axis in front for its place."""
        return self._buffers.scenes

    @property
    def variables(self) -> list[tf.Variable]:
        """The maps and how far their exchange is: with a state, all that happens depends on."""
        return [*self._buffers.variables, self._steps]

    def first_state(self, seed: int | None = None) -> tuple[NavigationState, tf.Tensor, tf.Tensor]:
        """Returns a state in which all first episodes begin, and what is observed in it.

        Args:
            seed: Of the episodes, instead of `self.seed`; maps remain.

        Returns:
            The state, depth and goal.

        Raises:
            ValueError: If the seed is negative, or 2**64 or more.
        """
        seed = self.seed if seed is None else _checked_seed(seed)
        words = [tf.constant(seed >> shift & 0xFFFFFFFF, "uint32") for shift in (0, 32)]
        state = self._begin(*words)
        return state, *self.observe(state)

    def reset(self, seed: int | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Begins all first episodes, the same for the same seed, and returns what is observed.

        The first maps are put back.

        Raises:
            ValueError: As `first_state`.
        """
        self._buffers.restart()
        self.state, depth, goal = self.first_state(seed)
        self._steps.assign(0)
        return depth, goal

    def step(
        self, actions: Any
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """Takes one action in every environment.

        Args:
            actions: `(environments,)` integers, numbers of `ACTIONS`. Those of a tensor, which may
                be on a GPU, are not looked at.

        Returns:
            `depth` and `goal`; `reward`, `(environments,)` float32; `done`, `(environments,)`
            bool; and `info`: `success`, bool, and `spl`, float32, of episodes that ended, False and
            0 elsewhere; `distance`, float32, to the goal after the action, of all.

        Raises:
            RuntimeError: Before the first `reset`.
            ValueError: If actions have another shape, are no integers or do not exist.
        """
        if self.state is None:
            raise RuntimeError("`reset` must be called before `step`.")
        if not tf.is_tensor(actions):
            actions = np.asarray(actions)
            good = actions.dtype.kind in "iu" and np.isin(actions, range(len(ACTIONS))).all()
        else:
            good = actions.dtype.is_integer
        if not good or tuple(actions.shape) != (self.environments,):
            raise ValueError(
                f"`actions` must be {self.environments} integers from 0 to {len(ACTIONS) - 1}. "
                f"Received: actions={actions!r}"
            )
        actions = tf.cast(actions, "int32")
        self.state, depth, goal, reward, done, info = self.step_state(self.state, actions)
        if self.swap_every and self._steps.assign_add(1) % self.swap_every == 0:
            self.swap_scenes()
        return depth, goal, reward, done, info

    def swap_scenes(self, state: NavigationState | None = None) -> bool:
        """Goes on with the exchange of maps; to be called now and then, as between rollouts.

        The first call begins to make a map, in a thread; the next one waits for it and lets it in.
        From then on each environment of one of the old maps goes on in the new one when it begins
        an episode. The first call after all of them have moved begins to make a map for the next
        group.

        Args:
            state: Where the environments are, if not in `self.state`.

        Returns:
            Whether a map was let in.

        Raises:
            RuntimeError: Without a state, before the first `reset`.
        """
        state = self.state if state is None else state
        if state is None:
            raise RuntimeError("`reset` must be called before `swap_scenes`.")
        return self._buffers.exchange(state.scene)

    def _begin_all(self, low: tf.Tensor, high: tf.Tensor) -> NavigationState:
        numbers = tf.range(self.environments)
        none = tf.zeros_like(numbers)
        length = tf.zeros([self.environments])
        state = NavigationState(
            stream=draw(low, high, numbers),
            group=numbers % self._groups,
            scene=none,
            episode=none - 1,
            steps=none,
            position=tf.zeros([self.environments, 2]),
            heading=none,
            goal=none,
            distance=length,
            first_distance=length,
            travelled=length,
        )
        return task.begin(state, tf.fill([self.environments], True), *self._tensors())

    def _advance(
        self, state: NavigationState, actions: tf.Tensor
    ) -> tuple[NavigationState, tf.Tensor, tf.Tensor, Info]:
        return task.advance(state, actions, self._tensors()[0], self.max_steps)

    def _observe(self, state: NavigationState) -> tuple[tf.Tensor, tf.Tensor]:
        return task.observe(state, self._tensors()[0], self.size)

    def _step_state(
        self, state: NavigationState, actions: tf.Tensor
    ) -> tuple[NavigationState, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, Info]:
        state, reward, done, info = self._advance(state, actions)
        state = task.begin(state, done, *self._tensors())
        return state, *self._observe(state), reward, done, info

    def _tensors(self) -> tuple[Scene, tf.Tensor]:
        return Scene(*(each.value() for each in self.scenes)), self._buffers.places.value()


def _checked_seed(seed: int) -> int:
    seed = integer("seed", seed, least=0)
    if seed >= 2**64:
        raise ValueError(f"`seed` must be below 2**64. Received: seed={seed}")
    return seed


def _make_scene(recipe: SceneRecipe, seed: int, group: int, number: int) -> Scene:
    return recipe.make([seed, group, number])
