"""How well a navigation policy does in rooms that it has never seen."""

import dataclasses
import math

import numpy as np

from keras_sharp.rl.collector import Collector
from keras_sharp.rl.navigation import PointGoalEnvironment
from keras_sharp.rl.navigation_policy import NavigationPolicy


@dataclasses.dataclass(frozen=True)
class Episode:
    """One that was watched.

    Attributes:
        free: `(cells, cells)` bool, the map, rows along y.
        path: `(steps, 2)`, x and y before each action, metres.
        goal: `(2,)`, metres.
        success: Whether it ended at the goal.
        spl: Its SPL.
        depth: `(steps, size, size)`, what was seen.
    """

    free: np.ndarray
    path: np.ndarray
    goal: np.ndarray
    success: bool
    spl: float
    depth: np.ndarray


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The first episode of every environment.

    Attributes:
        success: `(episodes,)`, 0 or 1.
        spl: `(episodes,)`.
        lengths: `(episodes,)`, actions.
        watched: Some of the episodes.
    """

    success: np.ndarray
    spl: np.ndarray
    lengths: np.ndarray
    watched: list[Episode]

    def summary(self) -> dict[str, float]:
        """Returns means and their standard errors."""
        root = math.sqrt(len(self.spl))
        return {
            "success": float(self.success.mean()),
            "success_error": float(self.success.std(ddof=1) / root),
            "spl": float(self.spl.mean()),
            "spl_error": float(self.spl.std(ddof=1) / root),
            "episode_length": float(self.lengths.mean()),
        }


def evaluate(
    policy: NavigationPolicy,
    environment: PointGoalEnvironment,
    *,
    steps: int = 32,
    seed: int | None = 0,
    watch: int = 4,
) -> Evaluation:
    """Plays until every environment has finished its first episode; only that one counts.

    To count whatever ends first would favour short episodes.

    Args:
        policy: The policy.
        environment: On maps it has not learned from.
        steps: Of a rollout.
        seed: Of the actions that are drawn. None: the likeliest ones are taken.
        watch: How many episodes are kept as a whole, those of the first environments.
    """
    collector = Collector(policy, environment, steps, seed=seed, watch=["position"])
    moment = collector.begin()
    scenes, goals = (np.asarray(each) for each in (moment.state.scene, moment.state.goal))
    count, watch = environment.environments, min(watch, environment.environments)
    over, lengths = np.zeros(count, bool), np.zeros(count, int)
    success, spl = np.zeros(count), np.zeros(count)
    path, depth = [[] for _ in range(watch)], [[] for _ in range(watch)]
    while not over.all():
        rollout, outcomes, moment = collector.collect(moment)
        ends = np.asarray(rollout.ends)
        ended = ends.any(axis=1) & ~over
        played = np.where(over, 0, np.where(ended, ends.argmax(axis=1) + 1, steps))
        lengths += played
        for found, name in ((success, "success"), (spl, "spl")):
            found[ended] = np.asarray(outcomes[name])[ended, played[ended] - 1]
        for number in range(watch):
            path[number].append(np.asarray(outcomes["position"][number, : played[number]]))
            seen = rollout.observations["depth"][number, : played[number], :, :, 0]
            depth[number].append(np.asarray(seen))
        over |= ended
    free, points = (
        np.asarray(each) for each in (environment.scenes.free, environment.scenes.goals)
    )
    watched = [
        Episode(
            free[scenes[number]],
            np.concatenate(path[number]),
            points[scenes[number], goals[number]],
            bool(success[number]),
            float(spl[number]),
            np.concatenate(depth[number]),
        )
        for number in range(watch)
    ]
    return Evaluation(success, spl, lengths, watched)
