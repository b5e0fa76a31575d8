import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp.optimizers import LAMB
from keras_sharp.rl import PPO, Rollout, play_episodes
from keras_sharp.rl.ppo import policy_loss

HALF = math.log(0.5)


def networks(features, start="zeros", joint=False, dtype="float32"):
    """Linear in what is seen: two logits, and a value."""
    seen = keras.Input((None, features))
    like = {"use_bias": False, "dtype": dtype}
    logits = keras.layers.Dense(2, kernel_initializer=start, **like)(seen)
    value = keras.layers.Dense(1, kernel_initializer="zeros", **like)(seen)[..., 0]
    if joint:
        return keras.Model(seen, (logits, value)), None
    return keras.Model(seen, logits), keras.Model(seen, value)


def kernels(policy, value):
    by_outputs = {each.shape[1]: each.numpy() for each in policy.weights + value.weights}
    return by_outputs[2], by_outputs[1]


def bandit(actions, rewards, taken):
    """Episodes of one step each, seen as a 1, chosen by a fair coin."""
    actions, taken = np.array(actions, "int32"), np.array(taken)
    # Where nothing was done there may be anything, and the ratio would overflow.
    likely = np.where(taken, HALF, -1e4).astype("float32")
    return Rollout(
        observations=np.ones((*actions.shape, 1), "float32"),
        actions=actions,
        log_probabilities=likely,
        values=np.zeros(actions.shape, "float32"),
        rewards=np.array(rewards, "float32"),
        ends=taken,
        taken=taken,
        last_values=np.full(len(actions), 9, "float32"),
    )


def test_the_loss_by_hand():
    ratio = tf.Variable([1.5, 1.5, 0.5, 0.5, 1.1])
    advantages = tf.constant([2.0, -1.0, 1.0, -1.0, 3.0])
    with tf.GradientTape() as tape:
        loss = policy_loss(ratio, advantages, 0.2)
    # -min(3, 2.4), -min(-1.5, -1.2), -min(0.5, 0.8), -min(-0.5, -0.8), -3.3
    np.testing.assert_allclose(loss, [-2.4, 1.5, -0.5, 0.8, -3.3], rtol=1e-6)
    # Nothing pulls further what has gone far enough.
    np.testing.assert_allclose(tape.gradient(loss, ratio), [0, 1, -1, 0, -3], rtol=1e-6)


@pytest.mark.parametrize(("joint", "micro_batch"), [(True, 1), (False, None)])
def test_an_update_by_hand(joint, micro_batch):
    policy, value = networks(1, joint=joint)
    agent = PPO(
        policy,
        keras.optimizers.SGD(1.0),
        value=value,
        value_optimizer=None if joint else keras.optimizers.SGD(1.0),
        minibatches=1,
        micro_batch=micro_batch,
        entropy_weight=0.0,
    )
    rollout = bandit([[0, 1], [0, 0]], [[2, 0], [1, 50]], [[True, True], [True, False]])
    report = agent.update(rollout)
    # Advantages and returns are 2, 0 and 1, all ratios 1.
    assert report["policy_loss"] == pytest.approx(-(2 + 0 + 1) / 3)
    assert report["value_loss"] == pytest.approx(0.5 * (4 + 0 + 1) / 3)
    assert report["entropy"] == pytest.approx(math.log(2))
    assert (report["kl"], report["clipped"], report["steps"]) == (0, 0, 1)
    # d log p(0) / d logits = (0.5, -0.5): the gradient is -(2 + 1) (0.5, -0.5) / 3; of the values,
    # half of -(2 + 0 + 1) / 3.
    of_logits, of_value = kernels(policy, value or policy)
    np.testing.assert_allclose(of_logits, [[0.5, -0.5]], rtol=1e-6)
    np.testing.assert_allclose(of_value, [[0.5]], rtol=1e-6)
    # Now p(0) = 1 / (1 + exp(-1)), all ratios are out of bounds, and the policy stays.
    report = agent.update(rollout)
    likely = 1 / (1 + math.exp(-1))
    logs = np.log([2 * likely, 2 * (1 - likely), 2 * likely])
    assert report["policy_loss"] == pytest.approx(-1.2 * (2 + 0 + 1) / 3)
    assert report["kl"] == pytest.approx(-logs.mean(), rel=1e-5)
    assert report["clipped"] == 1
    np.testing.assert_allclose(kernels(policy, value or policy)[0], [[0.5, -0.5]], rtol=1e-6)


def test_the_entropy_s_share_by_hand():
    policy, _ = networks(1, joint=True)
    logits = next(each for each in policy.weights if each.shape == (1, 2))
    logits.assign([[math.log(3), 0]])
    agent = PPO(policy, keras.optimizers.SGD(1.0), minibatches=1, entropy_weight=0.1)
    report = agent.update(bandit([[0, 1], [1, 0]], np.zeros((2, 2)), np.ones((2, 2)) > 0))
    # p is 3/4 and 1/4, H = 0.56234, and dH / d logits = -p (log p + H) = -0.20599, +0.20599.
    assert report["entropy"] == pytest.approx(0.56234, rel=1e-4)
    np.testing.assert_allclose(logits, [[math.log(3) - 0.020599, 0.020599]], atol=2e-6)


def test_normalized_advantages_by_hand():
    policy, _ = networks(1, joint=True)
    agent = PPO(policy, keras.optimizers.SGD(1.0), minibatches=1, normalize_advantages=True)
    agent.update(bandit([[0, 0], [1, 0]], [[2, 1], [0, 50]], [[True, True], [True, False]]))
    # Of 2, 1 and 0 the deviation is sqrt(2/3): advantages are sqrt(3/2), 0 and -sqrt(3/2), for
    # actions 0, 0 and 1, and returns are what they were.
    of_logits, of_value = kernels(policy, policy)
    move = 2 * math.sqrt(1.5) * 0.5 / 3
    np.testing.assert_allclose(of_logits, [[move, -move]], rtol=1e-5)
    np.testing.assert_allclose(of_value, [[0.5]], rtol=1e-6)


def test_every_environment_is_in_one_minibatch():
    # Each sees a row of the kernel that is its own.
    rollout = bandit([[0], [1], [0], [1]], [[1], [2], [3], [4]], np.ones((4, 1)) > 0)
    rollout = dataclasses.replace(rollout, observations=np.eye(4, dtype="float32")[:, None])
    policy, _ = networks(4, joint=True)
    agent = PPO(policy, keras.optimizers.SGD(1.0), minibatches=2)
    assert agent.update(rollout)["steps"] == 2
    # Means are of two, and the logits' gradient is the advantage times (0.5, -0.5) or less that.
    of_logits, of_values = kernels(policy, policy)
    signs = np.array([[1, -1], [-1, 1], [1, -1], [-1, 1]])
    np.testing.assert_allclose(of_logits, signs * np.arange(1, 5)[:, None] / 4, rtol=1e-6)
    np.testing.assert_allclose(of_values, np.arange(1, 5)[:, None] / 4, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2])
def test_scaled_losses(replicas, count):
    actions, rewards = [[0, 1], [0, 0], [1, 0]] * 3, [[2, 0], [1, 0], [0, 5]] * 3
    rollout = bandit(actions, rewards, np.ones((9, 2)) > 0)
    single, _ = networks(1, joint=True)
    PPO(single, keras.optimizers.SGD(0.1), minibatches=1).update(rollout)
    with replicas(count).scope():
        half, _ = networks(1, joint=True, dtype="mixed_float16")
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), 2.0**127)
        agent = PPO(half, optimizer, minibatches=1)
        orders, pieces = [], agent._pieces
        agent._pieces = lambda rows: orders.append(list(rows)) or pieces(rows)
    agent.update(rollout)
    # The scaled gradient is infinite: no step, and yet the next order is another.
    assert optimizer.iterations.numpy() == 0 and not np.any(kernels(half, half)[0])
    agent.update(rollout)
    assert len(orders) == 2 and orders[0] != orders[1]
    assert agent.variables[-1].numpy() == 2
    optimizer.dynamic_scale.assign(1024.0)
    agent.update(rollout)
    assert optimizer.iterations.numpy() == 1
    for found, expected in zip(kernels(half, half), kernels(single, single), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_replicas_share_the_environments_of_a_minibatch(replicas):
    # Gradients are so large that the norm is clipped, which replicas must not do on their own.
    rollout = bandit([[0, 1], [0, 0], [1, 0]], [[200, 0], [100, 0], [0, 50]], np.ones((3, 2)) > 0)
    found = []
    for count in (1, 2):
        with replicas(count).scope():
            policy, _ = networks(1, joint=True)
            optimizer = LAMB(0.1, global_clipnorm=1.0, weight_decay=0.01)
            agent = PPO(policy, optimizer, minibatches=1, epochs=2)
            if count == 2:
                with pytest.raises(RuntimeError, match="outside of the strategy's scope"):
                    agent.update(rollout)
        report = agent.update(rollout)
        found.append([*(each.numpy() for each in policy.weights), list(report.values())])
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-7)
    assert np.abs(found[0][0]).max() > 0.05


def test_a_training_that_diverges_says_where():
    policy, _ = networks(1, joint=True)
    agent = PPO(policy, keras.optimizers.SGD(3e38), minibatches=1)
    with pytest.raises(FloatingPointError, match="`value_loss` is inf in update 1: .* lower"):
        agent.update(bandit([[0]], [[1e30]], [[True]]))
    # The weights are those that found it.
    assert not any(each.any() for each in policy.get_weights())
    # A loss that is finite, and a step that is not: (200, -200) / 2 times the rate.
    with pytest.raises(FloatingPointError, match="weights are not finite in update 1"):
        agent.update(bandit([[0]], [[200]], [[True]]))


@pytest.mark.parametrize(("limit", "steps"), [(0.1, 1), (0.2, 5)])
def test_the_limit_stops_the_policy_but_not_the_values(limit, steps):
    policy, value = networks(1)
    value_optimizer = keras.optimizers.SGD(0.1)
    agent = PPO(
        policy,
        keras.optimizers.SGD(1.0),
        value=value,
        value_optimizer=value_optimizer,
        minibatches=1,
        epochs=5,
        entropy_weight=0.0,
        kl_limit=limit,
    )
    report = agent.update(bandit([[0], [1]], [[1], [-1]], [[True], [True]]))
    # One step leads to logits of (0.5, -0.5), 0.120 away, and there both ratios are clipped.
    assert report["steps"] == steps
    np.testing.assert_allclose(policy.weights[0], [[0.5, -0.5]], rtol=1e-6)
    assert int(value_optimizer.iterations) == 5


class Corridor:
    """Five cells; action 1 leads to the right, and the last cell ends the episode with a 1."""

    def __init__(self, count):
        self.count = count

    def reset(self):
        self.cells = np.zeros(self.count, int)
        return self.seen()

    def step(self, actions):
        over = self.cells == 4
        self.cells = np.where(over, 4, np.clip(self.cells + 2 * actions - 1, 0, 4))
        done = self.cells == 4
        return self.seen(), (done & ~over).astype("float32"), done

    def seen(self):
        return np.eye(5, dtype="float32")[self.cells]


def large_batch_simulation():
    policy, _ = networks(5, keras.initializers.RandomNormal(stddev=0.1, seed=0), joint=True)
    optimizer = LAMB(
        0.5, epsilon=1e-5, phi=(0, 10), trust_bounds=(0.01, 100), decay_bias_and_norm=True
    )
    return PPO(policy, optimizer, discount=0.9)


def rl_scheduler():
    policy, value = networks(5)
    return PPO(
        policy,
        keras.optimizers.Adam(0.05),
        value=value,
        value_optimizer=keras.optimizers.Adam(0.1),
        discount=0.9,
        epochs=10,
        minibatches=1,
        kl_limit=0.1,
        normalize_advantages=True,
    )


@pytest.mark.parametrize("make", [large_batch_simulation, rl_scheduler])
def test_a_policy_learns_a_corridor(make):
    agent, corridor = make(), Corridor(64)
    # No policy is better than four steps to the right.
    lengths = []
    for update in range(30):
        rollout = play_episodes(agent, corridor, 20, seed=update)
        assert (rollout.ends.sum(axis=1) <= 1).all()
        assert (rollout.rewards.sum(axis=1) == rollout.ends.any(axis=1)).all()
        lengths.append(rollout.taken.sum(axis=1).mean())
        agent.update(rollout)
    assert lengths[0] > 10
    best = play_episodes(agent, corridor, 20)
    assert (best.taken.sum(axis=1) == 4).all() and (best.ends[:, 3]).all()
    assert lengths[-1] < 6


def test_arguments():
    policy, value = networks(1)
    sgd = keras.optimizers.SGD(1.0)
    with pytest.raises(ValueError, match="must be given together"):
        PPO(policy, sgd, value=value)
    with pytest.raises(ValueError, match="`kl_limit` must be positive"):
        PPO(*networks(1, joint=True)[:1], sgd, kl_limit=0)
    for name in ("discount", "decay"):
        with pytest.raises(ValueError, match=f"`{name}` must be from 0 to 1"):
            PPO(*networks(1, joint=True)[:1], sgd, **{name: 1.1})
    agent = PPO(*networks(1, joint=True)[:1], keras.optimizers.SGD(1.0), minibatches=2)
    with pytest.raises(ValueError, match="at least 2 environments"):
        agent.update(bandit([[0]], [[1]], [[True]]))
    with pytest.raises(ValueError, match="steps that were taken"):
        agent.update(bandit([[0], [0]], [[1], [1]], [[False], [False]]))
