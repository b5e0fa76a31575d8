import numpy as np
import tensorflow as tf
from pointnav_evaluation import evaluate

from keras_sharp.rl.navigation import PointGoalEnvironment

COUNT = 6


class Greedy:
    """Walks towards the goal until it is there, or has walked and turned for long enough."""

    def forget(self, environments):
        return tf.zeros((environments, 1))

    def __call__(self, seen):
        distance, angle = tf.unstack(seen["goal"], axis=-1)
        turn = tf.where(angle > 0, 2, 3)
        action = tf.where(tf.abs(angle) < 0.1, 1, turn)
        action = tf.where((distance < 0.19) | (seen["memory"] > 16), 0, action)
        return tf.one_hot(action, 4), distance, seen["memory"] + 1


def test_it_is_what_a_python_loop_finds():
    policy = Greedy()
    arguments = {"size": 4, "cells": 14, "room": 5, "door": 2, "goals": 4, "max_steps": 15}
    environment = PointGoalEnvironment(
        COUNT, scenes=3, seed=5, distances=(0.3, 2.0), jit_compile=False, **arguments
    )
    _, goal = environment.reset()
    scenes, goals = environment.scenes, environment.state.goal.numpy()
    targets = scenes.goals.numpy()[environment.state.scene, goals]
    memory = policy.forget(COUNT)
    over, lengths = np.zeros(COUNT, bool), np.zeros(COUNT, int)
    success, spl, paths = np.zeros(COUNT), np.zeros(COUNT), [[] for _ in range(COUNT)]
    while not over.all():
        logits, _, memory = policy({"goal": goal[:, None], "memory": memory})
        actions = np.argmax(logits[:, 0], axis=1)
        for number in np.flatnonzero(~over):
            paths[number].append(environment.state.position[number].numpy())
        lengths += ~over
        _, goal, _, done, info = environment.step(actions)
        done = done.numpy()
        first = done & ~over
        success[first], spl[first] = info["success"].numpy()[first], info["spl"].numpy()[first]
        over |= done
    # Some end within a rollout and others later, and not all in one way.
    assert lengths.min() < 5 < lengths.max() and 0 < success.sum() < COUNT
    found = evaluate(policy, environment, steps=5, seed=None, watch=COUNT)
    np.testing.assert_array_equal(found.lengths, lengths)
    np.testing.assert_array_equal(found.success, success)
    np.testing.assert_allclose(found.spl, spl, rtol=1e-5)
    for number, (episode, path) in enumerate(zip(found.watched, paths, strict=True)):
        np.testing.assert_allclose(episode.path, path, atol=1e-5)
        assert episode.depth.shape == (lengths[number], 4, 4)
        assert (episode.success, episode.spl) == (success[number], found.spl[number])
        np.testing.assert_array_equal(episode.goal, targets[number])
    assert found.summary()["success"] == success.mean()
    assert found.summary()["spl_error"] == np.std(found.spl, ddof=1) / np.sqrt(COUNT)
