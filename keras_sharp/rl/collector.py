"""Plays on in many environments for a fixed number of steps, as one compiled program."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from keras_sharp.arguments import integer
from keras_sharp.rl.categorical import choose, log_probability
from keras_sharp.rl.navigation_policy import NavigationPolicy
from keras_sharp.rl.rollout import Rollout

_OUTCOMES = ("success", "spl", "distance")


class Navigation(Protocol):
    """Environments that begin anew by themselves; `PointGoalEnvironment` is one.

    Attributes:
        state: Where they are, tensors in any structure, after `reset`.
    """

    state: Any

    def reset(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Begins an episode in each, and returns depth images and goals."""

    def step_state(self, state: Any, actions: tf.Tensor) -> tuple[Any, ...]:
        """Returns state, depth, goals, rewards, which episodes ended, and how; changes nothing."""


class Moment(NamedTuple):
    """Where a rollout ends, and the next one begins.

    Attributes:
        state: The environments' own, tensors in any structure.
        depth: `(environments, size, size, 1)`.
        goal: `(environments, 2)`.
        previous: `(environments,)` int32, the previous action + 1, 0 where an episode begins.
        memory: The policy's.
        step: A scalar, int64: how many steps were taken before.
    """

    state: Any
    depth: tf.Tensor
    goal: tf.Tensor
    previous: tf.Tensor
    memory: tf.Tensor
    step: tf.Tensor


class Collector:
    """Chooses actions and takes them, many steps in a row, without leaving the device.

    Args:
        policy: Chooses the actions.
        environment: Where they are taken.
        steps: Steps of a rollout.
        seed: Of the actions that are drawn. None: the likeliest ones are taken.
        watch: Attributes of the environments' state that are to be kept, as before each step.

    Example:
    ```python
    collector = Collector(policy, environment, steps=32)
    moment = collector.begin()
    while True:
        rollout, outcomes, moment = collector.collect(moment)
        agent.update(rollout)
    ```
    """

    def __init__(
        self,
        policy: NavigationPolicy,
        environment: Navigation,
        steps: int,
        *,
        seed: int | None = 0,
        watch: Sequence[str] = (),
    ):
        self.policy = policy
        self.environment = environment
        self.steps = integer("steps", steps)
        self.seed = None if seed is None else integer("seed", seed, least=0)
        self.watch = tuple(watch)

    def begin(self) -> Moment:
        """Begins an episode in every environment."""
        depth, goal = self.environment.reset()
        environments = depth.shape[0]
        return Moment(
            self.environment.state,
            depth,
            goal,
            tf.zeros(environments, tf.int32),
            self.policy.forget(environments),
            tf.constant(0, tf.int64),
        )

    def collect(self, moment: Moment) -> tuple[Rollout, dict[str, tf.Tensor], Moment]:
        """Plays on.

        Returns:
            The rollout; `(environments, steps)` float32 `"success"`, `"spl"` and `"distance"`, of
            use where `rollout.ends`, and what is to be kept, `(environments, steps, ...)`; and
            where to go on.
        """
        observations, columns, outcomes, last_values, after = self._collect(moment)
        taken = tf.ones_like(columns["ends"])
        return (
            Rollout(observations, **columns, taken=taken, last_values=last_values),
            outcomes,
            after,
        )

    @tf.function(autograph=False)
    def replay(self, moment: Moment, actions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Takes the actions of a rollout again, to see how long that takes without choosing them.

        Args:
            moment: Where the rollout began.
            actions: `(environments, steps)`.

        Returns:
            What they brought, `(environments,)`, and the last depth images.
        """

        def step(number, state, total, _):
            state, depth, _, reward, _, _ = self.environment.step_state(state, actions[:, number])
            return number + 1, state, total + reward, depth

        count = tf.shape(actions)[1]
        total = tf.zeros(tf.shape(actions)[:1])
        start = 0, moment.state, total, moment.depth
        _, _, total, depth = tf.while_loop(lambda number, *_: number < count, step, start)
        return total, depth

    @tf.function(autograph=False)
    def _collect(self, moment: Moment) -> tuple[Any, ...]:
        def step(number, moment, columns):
            logits, values, memory = self._look(moment)
            actions = self._choose(logits, moment.step)
            state, depth, goal, reward, done, info = self.environment.step_state(
                moment.state, actions
            )
            now = {
                "depth": moment.depth,
                "goal": moment.goal,
                "previous": moment.previous,
                "actions": actions,
                "log_probabilities": log_probability(logits, actions),
                "values": values,
                "rewards": reward,
                "ends": done,
                **{name: tf.cast(info[name], tf.float32) for name in _OUTCOMES},
                **{name: getattr(moment.state, name) for name in self.watch},
            }
            columns = {name: columns[name].write(number, now[name]) for name in now}
            previous = tf.where(done, 0, actions + 1)
            after = Moment(state, depth, goal, previous, memory, moment.step + 1)
            return number + 1, after, columns

        kinds = {name: getattr(moment.state, name).dtype for name in self.watch}
        columns = {
            name: tf.TensorArray(kind, self.steps) for name, kind in {**_COLUMNS, **kinds}.items()
        }
        _, after, columns = tf.while_loop(
            lambda number, *_: number < self.steps,
            step,
            (0, moment, columns),
            maximum_iterations=self.steps,
        )
        columns = {name: _rows(each.stack()) for name, each in columns.items()}
        seen = {name: columns.pop(name) for name in ("depth", "goal", "previous")}
        outcomes = {name: columns.pop(name) for name in (*_OUTCOMES, *self.watch)}
        last_values = self._look(after)[1]
        return {**seen, "memory": moment.memory}, columns, outcomes, last_values, after

    def _look(self, moment: Moment) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        seen = {name: getattr(moment, name)[:, None] for name in ("depth", "goal", "previous")}
        logits, values, memory = self.policy({**seen, "memory": moment.memory})
        return logits[:, 0], values[:, 0], memory

    def _choose(self, logits: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        if self.seed is None:
            return choose(logits, None)
        return choose(logits, tf.stack([tf.constant(self.seed, tf.int64), step]))


_COLUMNS = {
    "depth": tf.float32,
    "goal": tf.float32,
    "previous": tf.int32,
    "actions": tf.int32,
    "log_probabilities": tf.float32,
    "values": tf.float32,
    "rewards": tf.float32,
    "ends": tf.bool,
    **dict.fromkeys(_OUTCOMES, tf.float32),
}


def _rows(steps: tf.Tensor) -> tf.Tensor:
    """Turns steps of environments into environments of steps."""
    return tf.transpose(steps, [1, 0, *range(2, len(steps.shape))])
