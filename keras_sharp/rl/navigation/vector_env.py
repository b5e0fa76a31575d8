"""PointGoal navigation for Gymnasium's agents; `pip install keras-sharp[rl]` adds Gymnasium.

Importing this registers `"keras_sharp/PointGoal-v0"` with Gymnasium.
"""

from typing import Any

import gymnasium
import numpy as np
import tensorflow as tf
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from keras_sharp.rl.navigation.environment import PointGoalEnvironment
from keras_sharp.rl.navigation.geometry import CELL
from keras_sharp.rl.navigation.task import ACTIONS, NavigationState

Observation = dict[str, np.ndarray]

# Last observations are rendered in batches of one size, so that XLA compiles one program for them.
_AT_ONCE = 16


class PointGoalVectorEnv(gymnasium.vector.VectorEnv):
    """A `PointGoalEnvironment` as Gymnasium's vector environment.

    An observation is a dictionary of `depth` and `goal`. An episode is terminated by a stop and
    truncated by the limit of steps. The next one begins in the same step; `infos` then has the last
    observation in `final_obs` and `success`, `spl` and `distance` in `final_info`, each with its
    mask, as Gymnasium's own vector environments do.

    Note:
        A seed given to `reset` is one of episodes. Maps come from that given here.

    Args:
        num_envs: Number of environments.
        **arguments: Of `PointGoalEnvironment`.

    Attributes:
        environment: The `PointGoalEnvironment`.

    Example:
    ```python
    import keras_sharp.rl.navigation.vector_env

    vector = gymnasium.make_vec("keras_sharp/PointGoal-v0", 64, "vector_entry_point", size=32)
    ```
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}

    def __init__(self, num_envs: int, **arguments: Any):
        self.environment = PointGoalEnvironment(num_envs, **arguments)
        self.num_envs = num_envs
        self.single_action_space, self.single_observation_space = _spaces(self.environment)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins an episode in every environment.

        Raises:
            ValueError: If `options` asks for some environments only.
        """
        super().reset(seed=seed)
        if options and "reset_mask" in options:
            raise ValueError(
                "`options` must not have a `reset_mask`: environments begin anew by themselves. "
                f"Received: options={options}"
            )
        return _observation(*self.environment.reset(_episode_seed(self))), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes one action in every environment; those that end begin anew.

        Raises:
            RuntimeError: Before the first `reset`.
            ValueError: If actions have another shape, are no integers or do not exist.
        """
        before = self.environment.state
        depth, goal, reward, done, info = self.environment.step(actions)
        done = done.numpy()
        terminated = done & (np.asarray(actions) == ACTIONS.index("stop"))
        infos: dict[str, Any] = {}
        if done.any():
            ended = np.flatnonzero(done)
            last = self._last_observations(before, actions, ended)
            info = {name: value.numpy() for name, value in info.items()}
            for row, number in enumerate(ended):
                final = {
                    "final_obs": {name: value[row] for name, value in last.items()},
                    "final_info": {name: value[number] for name, value in info.items()},
                }
                infos = self._add_info(infos, final, number)
        return _observation(depth, goal), reward.numpy(), terminated, done & ~terminated, infos

    def _last_observations(
        self, before: NavigationState, actions: np.ndarray, ended: np.ndarray
    ) -> Observation:
        """Returns what was seen at the end of episodes, before the next ones began."""
        count = min(_AT_ONCE, self.num_envs)
        padded = np.resize(ended, -(-len(ended) // count) * count)
        observations = []
        for rows in padded.reshape(-1, count):
            state = tf.nest.map_structure(lambda each, rows=rows: tf.gather(each, rows), before)
            state, *_ = self.environment.advance(state, tf.gather(actions, rows))
            observations.append(_observation(*self.environment.observe(state)))
        return {
            name: np.concatenate([each[name] for each in observations])[: len(ended)]
            for name in observations[0]
        }


class PointGoalEnv(gymnasium.Env):
    """One environment of a `PointGoalEnvironment` as Gymnasium's single environment.

    To look at one agent, and for what wants a single environment. Many of them may share one
    `PointGoalEnvironment`, its map and its compiled programs: each has a state of its own. The map
    stays what it is.

    Args:
        environment: Of one environment, without `swap_every`.

    Raises:
        ValueError: If it is of more, or exchanges its maps.

    Attributes:
        state: The `NavigationState` that `step` has reached; None before the first `reset`.

    Example:
    ```python
    environment = PointGoalEnvironment(1)
    one_by_one = gymnasium.vector.SyncVectorEnv([lambda: PointGoalEnv(environment)] * 8)
    ```
    """

    metadata = {"render_modes": []}

    def __init__(self, environment: PointGoalEnvironment):
        if environment.environments != 1:
            raise ValueError(
                "`environment` must be of a single environment. Received one of "
                f"environments={environment.environments}"
            )
        if environment.swap_every:
            raise ValueError(
                "`environment` must be without `swap_every`: its map is that of all who share it. "
                f"Received one of swap_every={environment.swap_every}"
            )
        self.environment = environment
        self.state: NavigationState | None = None
        self.action_space, self.observation_space = _spaces(environment)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins an episode."""
        super().reset(seed=seed)
        self.state, *observed = self.environment.first_state(_episode_seed(self))
        return _first(_observation(*observed)), {}

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Takes one action.

        Raises:
            RuntimeError: Before the first `reset`.
            ValueError: If there is no such action.
        """
        if self.state is None:
            raise RuntimeError("`reset` must be called before `step`.")
        if action not in self.action_space:
            raise ValueError(
                f"`action` must be an integer from 0 to {len(ACTIONS) - 1}. Received: "
                f"action={action!r}"
            )
        actions = tf.constant([action], "int32")
        self.state, reward, done, info = self.environment.advance(self.state, actions)
        done = bool(done[0])
        terminated = done and action == ACTIONS.index("stop")
        info = {name: value.numpy()[0] for name, value in info.items()} if done else {}
        observation = _first(_observation(*self.environment.observe(self.state)))
        return observation, float(reward[0]), terminated, done and not terminated, info


def single_env(**arguments: Any) -> PointGoalEnv:
    """Returns a `PointGoalEnv` of its own `PointGoalEnvironment`, which takes the arguments."""
    return PointGoalEnv(PointGoalEnvironment(1, **arguments))


def _spaces(environment: PointGoalEnvironment) -> tuple[gymnasium.Space, gymnasium.Space]:
    size = environment.size
    diagonal = np.sqrt(2) * CELL * environment.recipe.cells
    lowest, highest = np.float32([0, -np.pi]), np.float32([diagonal, np.pi])
    spaces = {
        "depth": gymnasium.spaces.Box(0, 1, (size, size, 1), "float32"),
        "goal": gymnasium.spaces.Box(lowest, highest, dtype="float32"),
    }
    return gymnasium.spaces.Discrete(len(ACTIONS)), gymnasium.spaces.Dict(spaces)


def _episode_seed(env: gymnasium.Env | gymnasium.vector.VectorEnv) -> int:
    # Without a seed Gymnasium goes on with the generator that the last one began.
    return int(env.np_random.integers(2**63))


def _observation(depth: tf.Tensor, goal: tf.Tensor) -> Observation:
    return {"depth": depth.numpy(), "goal": goal.numpy()}


def _first(observation: Observation) -> Observation:
    return {name: value[0] for name, value in observation.items()}


gymnasium.register(
    "keras_sharp/PointGoal-v0",
    entry_point=f"{__name__}:{single_env.__name__}",
    vector_entry_point=f"{__name__}:{PointGoalVectorEnv.__name__}",
)
