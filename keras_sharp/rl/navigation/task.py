"""The rules of PointGoal navigation."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_sharp.rl.navigation.camera import depth_images
from keras_sharp.rl.navigation.geodesics import geodesic_distances, lengths
from keras_sharp.rl.navigation.geometry import HEADINGS, STEP, TURNS
from keras_sharp.rl.navigation.motion import slide
from keras_sharp.rl.navigation.random_draws import draw
from keras_sharp.rl.navigation.scene import Scene

ACTIONS = ("stop", "forward", "left", "right")
SUCCESS_DISTANCE = 0.2
_SUCCESS_REWARD = 2.5
_COST_OF_A_STEP = 0.01
_FORWARD = 1
_TURNED = np.array([0, 0, -1, 1], "int32")
# `(TURNS, 2)` float32, metres.
_STEPS = STEP * HEADINGS


class NavigationState(NamedTuple):
    """Where every environment is; one row each, so rows can be cut and put together at will.

    Attributes:
        stream: `(n,)` uint32, what an environment's random draws begin with.
        group: `(n,)` int32, which of the groups that share a scene it belongs to.
        scene: `(n,)` int32, place of the scene it is in.
        episode: `(n,)` int32, number of the episode, from 0.
        steps: `(n,)` int32, one more than the actions that were taken in the episode.
        position: `(n, 2)` float32, x and y, metres.
        heading: `(n,)` int32, from x towards y, in steps of 10 degrees.
        goal: `(n,)` int32, number of the goal in its scene.
        distance: `(n,)` float32, geodesic distance to the goal, metres.
        first_distance: `(n,)` float32, the same where the episode began.
        travelled: `(n,)` float32, metres that were walked.
    """

    stream: tf.Tensor
    group: tf.Tensor
    scene: tf.Tensor
    episode: tf.Tensor
    steps: tf.Tensor
    position: tf.Tensor
    heading: tf.Tensor
    goal: tf.Tensor
    distance: tf.Tensor
    first_distance: tf.Tensor
    travelled: tf.Tensor


def begin(
    state: NavigationState, where: tf.Tensor, scenes: Scene, places: tf.Tensor
) -> NavigationState:
    """Returns the state with the next episode begun in some environments.

    Args:
        state: Of `n` environments.
        where: `(n,)` bool, in which.
        scenes: Tensors, each with one scene after the other along its first axis.
        places: `(groups,)` int64, in which scene each group begins its episodes.
    """
    scene = tf.cast(tf.gather(places, state.group), "int32")
    episode = state.episode + 1
    draws = [tf.cast(draw(state.stream, episode, purpose), "int64") for purpose in (0, 1)]
    which = tf.stack([scene, tf.cast(draws[0] % scenes.targets.shape[1], "int32")], axis=1)
    position = tf.gather_nd(scenes.starts, which)
    goal = tf.cast(tf.gather_nd(scenes.targets, which), "int32")
    goal_position = tf.gather_nd(scenes.goals, tf.stack([scene, goal], axis=1))
    distance = geodesic_distances(scenes.fields, scene, goal, goal_position, position)
    new = state._replace(
        scene=scene,
        episode=episode,
        steps=tf.ones_like(state.steps),
        position=position,
        heading=tf.cast(draws[1] % TURNS, "int32"),
        goal=goal,
        distance=distance,
        first_distance=distance,
        travelled=tf.zeros_like(distance),
    )
    return NavigationState(*(_select(where, *pair) for pair in zip(new, state, strict=True)))


def advance(
    state: NavigationState, actions: tf.Tensor, scenes: Scene, max_steps: int
) -> tuple[NavigationState, tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
    """Takes one action in every environment; an episode that ends stays where it ended.

    Args:
        state: Of `n` environments.
        actions: `(n,)` integers, numbers of `ACTIONS`.
        scenes: Tensors, each with one scene after the other along its first axis.
        max_steps: An episode ends when `state.steps` is as many.

    Returns:
        The state; rewards; which episodes ended; and `success`, `spl` and `distance` as
        `PointGoalEnvironment` returns them.
    """
    actions = tf.cast(actions, "int32")
    forward = actions == _FORWARD
    step = tf.where(forward[:, None], tf.gather(_STEPS, state.heading), 0)
    position = slide(scenes.free, state.scene, state.position, step)
    goal_position = tf.gather_nd(scenes.goals, tf.stack([state.scene, state.goal], axis=1))
    distance = geodesic_distances(scenes.fields, state.scene, state.goal, goal_position, position)
    # The field is looked up after a move only, so that turning costs exactly what a step costs.
    distance = tf.where(forward, distance, state.distance)
    steps = state.steps + 1
    done = (actions == 0) | (steps >= max_steps)
    success = done & (distance < SUCCESS_DISTANCE)
    # The last move of an episode that runs out of time is not counted, as in the original.
    shortest = state.first_distance / tf.maximum(state.first_distance, state.travelled)
    spl = tf.where(success, shortest, 0)
    gain = tf.where(done, _SUCCESS_REWARD * spl, state.distance - distance)
    walked = lengths(position - state.position)
    state = state._replace(
        steps=steps,
        position=position,
        heading=(state.heading + tf.gather(_TURNED, actions)) % TURNS,
        distance=distance,
        travelled=tf.where(done, state.travelled, state.travelled + walked),
    )
    info = {"success": success, "spl": spl, "distance": distance}
    return state, gain - _COST_OF_A_STEP, done, info


def observe(state: NavigationState, scenes: Scene, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the depth image and the goal as seen from every agent."""
    depth = depth_images(scenes.free, state.scene, state.position, state.heading, size)
    goal = tf.gather_nd(scenes.goals, tf.stack([state.scene, state.goal], axis=1))
    # XLA's float32 functions of one number and of many differ in the last bit: float64 hides that.
    x, y = tf.unstack(tf.cast(goal - state.position, "float64"), axis=1)
    headings = tf.cast(tf.gather(HEADINGS, state.heading), "float64")
    cosine, sine = tf.unstack(headings, axis=1)
    angle = tf.atan2(y * cosine - x * sine, x * cosine + y * sine)
    return depth, tf.cast(tf.stack([tf.sqrt(x**2 + y**2), -angle], axis=1), "float32")


def _select(where: tf.Tensor, new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
    return tf.where(tf.reshape(where, [-1] + [1] * (len(new.shape) - 1)), new, old)
