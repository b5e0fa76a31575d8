"""Plays one episode in each of many environments."""

import functools
from typing import Any, Protocol

import numpy as np
from keras import tree

from keras_sharp.arguments import integer
from keras_sharp.rl.ppo import PPO
from keras_sharp.rl.rollout import Rollout


class Environments(Protocol):
    """Many environments in step; those whose episode is over wait for the others.

    `SchedulingEnvironment` is one.
    """

    def reset(self) -> Any:
        """Begins an episode in each, and returns what is seen, `(environments, ...)`."""

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray]:
        """Returns what is seen, `(environments,)` rewards, and whether each episode is over."""


def play_episodes(
    agent: PPO, environments: Environments, steps: int, *, seed: int | None = None
) -> Rollout:
    """Plays an episode in every environment.

    Args:
        agent: Chooses the actions.
        environments: The environments.
        steps: The most steps of an episode. One that is longer is broken off, and what it would
            have brought is what the agent expects. Rollouts have this many steps, taken or not.
        seed: Of the actions that are drawn. Defaults to None: the likeliest ones are taken.

    Returns:
        The rollout. `rollout.rewards.sum(axis=1)` is what each episode brought.
    """
    steps = integer("steps", steps)
    seen = environments.reset()
    observations, columns, over = None, {}, False
    for step in range(steps):
        actions, log_probabilities, values = agent.act(seen, None if seed is None else (seed, step))
        if observations is None:
            observations = tree.map_structure(functools.partial(_room, steps), seen)
            columns = {
                name: np.zeros((len(actions), steps), kind) for name, kind in _COLUMNS.items()
            }
            over = np.zeros(len(actions), bool)
        _put(observations, seen, step)
        before = over
        seen, rewards, over = environments.step(actions)
        now = {
            "actions": actions,
            "log_probabilities": log_probabilities,
            "values": values,
            "rewards": np.where(before, 0, rewards),
            "ends": over & ~before,
            "taken": ~before,
        }
        _put(columns, now, step)
        if over.all():
            break
    return Rollout(observations, last_values=agent.act(seen)[2], **columns)


_COLUMNS = {
    "actions": "int32",
    "log_probabilities": "float32",
    "values": "float32",
    "rewards": "float32",
    "ends": "bool",
    "taken": "bool",
}


def _room(steps: int, seen: np.ndarray) -> np.ndarray:
    return np.zeros((len(seen), steps, *seen.shape[1:]), seen.dtype)


def _put(columns: Any, now: Any, step: int) -> None:
    for column, each in zip(tree.flatten(columns), tree.flatten(now), strict=True):
        column[:, step] = each
