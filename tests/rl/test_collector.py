from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp.optimizers import LAMB
from keras_sharp.rl import PPO
from keras_sharp.rl.collector import Collector
from keras_sharp.rl.navigation_policy import NavigationPolicy

STEPS, COUNT = 5, 4
TINY = {"size": 8, "width": 2, "hidden": 6, "units": 5, "layers": 1}


class State(NamedTuple):
    cell: tf.Tensor
    steps: tf.Tensor


class Hall:
    """Four cells. Action 1 leads on, others stay; an episode lasts at most three steps."""

    def reset(self):
        self.state = State(tf.range(COUNT) % 2, tf.zeros(COUNT, tf.int32))
        return self.seen(self.state)

    def step_state(self, state, actions):
        cell = state.cell + tf.cast(actions == 1, tf.int32)
        steps = state.steps + 1
        done = (cell == 3) | (steps == 3)
        reward = tf.cast(cell, tf.float32) - 0.5 * tf.cast(actions, tf.float32)
        info = {"success": cell == 3, "spl": tf.cast(steps, tf.float32), "distance": reward}
        state = State(tf.where(done, 0, cell), tf.where(done, 0, steps))
        return (state, *self.seen(state), reward, done, info)

    def seen(self, state):
        cell, steps = tf.cast(state.cell, tf.float32), tf.cast(state.steps, tf.float32)
        depth = tf.tile(cell[:, None, None, None] / 4, [1, 8, 8, 1])
        return depth, tf.stack([cell, steps], axis=1)


@pytest.fixture(scope="module")
def played():
    """A collector, and two rollouts that follow each other."""
    keras.utils.set_random_seed(0)
    policy = NavigationPolicy(**TINY)
    policy.logits.kernel.assign(100 * policy.logits.kernel)  # so that what is seen matters
    collector = Collector(policy, Hall(), STEPS, seed=7, watch=["cell"])
    start = collector.begin()
    first, outcomes, between = collector.collect(start)
    second, _, _ = collector.collect(between)
    return collector, start, first, outcomes, second


def test_it_is_what_a_python_loop_does(played):
    collector, _, first, outcomes, second = played
    hall, policy = collector.environment, collector.policy
    depth, goal = hall.reset()
    state, previous, memory = hall.state, np.zeros(COUNT, "int32"), np.zeros((COUNT, 1, 2, 5))
    for step in range(2 * STEPS):
        rollout, now = (first, step) if step < STEPS else (second, step - STEPS)
        if now == 0:
            np.testing.assert_allclose(rollout.observations["memory"], memory, atol=1e-6)
        seen = {"depth": depth, "goal": goal, "previous": tf.constant(previous)}
        for name, each in seen.items():
            np.testing.assert_array_equal(rollout.observations[name][:, now], each)
        seen = {name: each[:, None] for name, each in seen.items()}
        logits, values, memory = policy({**seen, "memory": memory})
        actions = tf.random.stateless_categorical(logits[:, 0], 1, [7, step], tf.int32)[:, 0]
        np.testing.assert_array_equal(rollout.actions[:, now], actions)
        logs = np.log(keras.ops.softmax(logits[:, 0]))[np.arange(COUNT), actions]
        np.testing.assert_allclose(rollout.log_probabilities[:, now], logs, atol=1e-5)
        np.testing.assert_allclose(rollout.values[:, now], values[:, 0], atol=1e-6)
        cell = state.cell
        state, depth, goal, reward, done, info = hall.step_state(state, actions)
        np.testing.assert_array_equal(rollout.rewards[:, now], reward)
        np.testing.assert_array_equal(rollout.ends[:, now], done)
        if step < STEPS:
            np.testing.assert_array_equal(outcomes["success"][:, now], info["success"])
            np.testing.assert_array_equal(outcomes["cell"][:, now], cell)
        previous = np.where(done, 0, actions + 1)
        if now == STEPS - 1:
            seen = {"depth": depth, "goal": goal, "previous": tf.constant(previous)}
            seen = {name: each[:, None] for name, each in seen.items()}
            last = policy({**seen, "memory": memory})[1][:, 0]
            np.testing.assert_allclose(rollout.last_values, last, atol=1e-6)
    assert first.ends.numpy().any(axis=1).all() and first.taken.numpy().all()
    assert len(set(np.ravel(first.actions))) > 1


def test_replayed_actions_bring_the_same(played):
    collector, start, first, _, _ = played
    brought, depth = collector.replay(start, first.actions)
    np.testing.assert_allclose(brought, np.sum(first.rewards, axis=1), rtol=1e-6)
    assert depth.shape == (COUNT, 8, 8, 1)


@pytest.fixture
def eager():
    """Tracing takes seconds for what runs milliseconds here."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def lamb():
    return LAMB(1e-2, phi=(0, 10), trust_bounds=(0.01, 100), global_clipnorm=1.0)


def test_replicas_learn_what_one_does(played, replicas, eager):
    start, weights = played[0].policy.get_weights(), []
    for count in (1, 2):
        with replicas(count).scope():
            policy = NavigationPolicy(**TINY)
            policy.set_weights(start)
            # Of two, one and one environment: in two of them the second replica has none.
            agent = PPO(policy, lamb(), minibatches=3)
        rollout, _, _ = Collector(policy, Hall(), 2).collect(Collector(policy, Hall(), 2).begin())
        agent.update(rollout)
        weights.append(policy.get_weights())
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-6)
    assert (
        max(np.abs(one - begun).max() for one, begun in zip(weights[0], start, strict=True)) > 1e-3
    )


def test_half_precision_learns_and_goes_on(played, eager):
    agents = []
    for _ in range(2):
        policy = NavigationPolicy(**TINY, dtype="mixed_float16")
        agents.append(PPO(policy, keras.optimizers.LossScaleOptimizer(lamb()), minibatches=1))
    agent, other = agents
    reports = [agent.update(played[2])]
    assert agent.optimizer.inner_optimizer.iterations.numpy() == 1
    for variable, value in zip(other.variables, agent.variables, strict=True):
        variable.assign(value)
    reports += [each.update(played[4]) for each in agents]
    assert all(np.isfinite(list(each.values())).all() for each in reports)
    assert reports[1] == reports[2] != reports[0]
    for one, two in zip(agent.variables, other.variables, strict=True):
        np.testing.assert_array_equal(one, two)
    assert agent.optimizer.inner_optimizer.iterations.numpy() == 2


def test_learning_begins_where_the_actions_were_chosen(played):
    collector, _, _, _, second = played
    agent = PPO(collector.policy, keras.optimizers.SGD(0.0), minibatches=1)
    # From memory and observations, environment by environment, the same probabilities come again.
    report = agent.update(second)
    assert report["kl"] == pytest.approx(0, abs=1e-6) and report["clipped"] == 0
    # The mean of the parts' gradients is that of the whole.
    whole, parts = agent.gradients(second, 1)[0], agent.gradients(second, 2)
    for one, *both in zip(whole, *parts, strict=True):
        np.testing.assert_allclose(one, np.mean(both, axis=0), rtol=1e-3, atol=1e-6)
    assert any(np.abs(one - other).max() > 1e-4 for one, other in zip(*parts, strict=True))
    with pytest.raises(ValueError, match="multiple of 3 environments"):
        agent.gradients(second, 3)
