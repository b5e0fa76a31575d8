import keras
import numpy as np
import pytest

from keras_sharp.rl import PPO, play_episodes
from keras_sharp.rl.categorical import entropy
from keras_sharp.rl.scheduling import (
    SchedulingEnvironment,
    kernel_policy,
    lublin_feitelson,
    scores,
    value_network,
)


@pytest.fixture(scope="module")
def policy():
    keras.utils.set_random_seed(3)
    return kernel_policy()


@pytest.fixture
def seen():
    rng = np.random.default_rng(0)
    return rng.random((2, 3, 6, 8), "float32"), rng.random((2, 3, 6)) < 0.6


def test_the_network_is_applied_to_each_job(policy, seen):
    features, waiting = seen
    # From -1 for nothing to 1, by equal steps for equal ratios.
    times = np.interp(np.log(features[..., :2] + 1e-5), [np.log(1e-5), 0], [-1, 1])
    x = np.concatenate([times, features[..., 2:]], axis=-1)
    kernels = [each.numpy() for each in policy.weights]
    assert [each.shape[0] for each in kernels[::2]] == [8, 32, 16, 8]
    for kernel, bias in zip(kernels[:-2:2], kernels[1:-2:2], strict=True):
        x = np.maximum(x @ kernel + bias, 0)
    expected = (x @ kernels[-2] + kernels[-1])[..., 0]
    logits = policy(seen).numpy()
    np.testing.assert_allclose(logits[waiting], expected[waiting], rtol=1e-5, atol=1e-5)
    assert (logits[~waiting] == -1e6).all()


def test_order_length_and_neighbours_do_not_matter(policy, seen):
    features, waiting = seen
    logits = policy(seen).numpy()
    order = np.random.default_rng(1).permutation(6)
    permuted = policy((features[:, :, order], waiting[:, :, order])).numpy()
    np.testing.assert_allclose(permuted, logits[:, :, order], rtol=1e-6, atol=1e-6)
    longer = np.pad(features, [(0, 0), (0, 0), (0, 4), (0, 0)], constant_values=np.nan)
    longer = policy((longer, np.pad(waiting, [(0, 0), (0, 0), (0, 4)]))).numpy()
    np.testing.assert_allclose(longer[:, :, :6], logits, rtol=1e-6, atol=1e-6)
    assert (longer[:, :, 6:] == -1e6).all()


def test_no_jobs_at_all(policy):
    nothing = np.zeros((1, 2, 4, 8), "float32"), np.zeros((1, 2, 4), bool)
    np.testing.assert_array_equal(policy(nothing), np.full((1, 2, 4), -1e6))


def test_half_precision_everywhere_else(policy, seen):
    features, waiting = seen
    waiting = waiting.copy()
    waiting[0, 0] = False
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = kernel_policy()
        values = value_network(6)((features, waiting))
    finally:
        keras.config.set_dtype_policy("float32")
    half.set_weights(policy.get_weights())
    logits = half((features, waiting)).numpy()
    np.testing.assert_array_equal(logits, policy((features, waiting)))
    assert logits.dtype == "float32" and (logits[~waiting] == -1e6).all()
    assert np.isfinite(entropy(logits)).all() and np.isfinite(values).all()


def test_values_depend_on_the_jobs_and_their_slots_alone(seen):
    features, waiting = seen
    value = value_network(6)
    values = value(seen).numpy()
    assert values.shape == (2, 3)
    other = np.where(waiting[..., None], features, 7)
    np.testing.assert_allclose(value((other, waiting)), values, rtol=1e-6)


def test_saved_and_loaded(policy, seen, tmp_path):
    policy.save(tmp_path / "policy.keras")
    again = keras.saving.load_model(tmp_path / "policy.keras")
    np.testing.assert_array_equal(again(seen), policy(seen))


@pytest.fixture(scope="module")
def agent(policy):
    return PPO(
        policy,
        keras.optimizers.Adam(3e-4),
        value=value_network(6),
        value_optimizer=keras.optimizers.Adam(1e-3),
        minibatches=1,
        normalize_advantages=True,
    )


def test_empty_slots_are_never_chosen(agent):
    rng = np.random.default_rng(2)
    waiting = rng.random((5000, 6)) < 0.3
    waiting[np.arange(5000), rng.integers(6, size=5000)] = True
    seen = rng.random((5000, 6, 8), "float32"), waiting
    for seed in (None, (0, 0), (0, 1)):
        actions, log_probabilities, _ = agent.act(seen, seed)
        assert waiting[np.arange(5000), actions].all()
        # A queue of one job leaves no choice.
        assert (log_probabilities[waiting.sum(axis=1) == 1] == 0).all()
    # Of two alike, each is chosen about half of the time: 5 sd are 0.035.
    two = np.zeros((5000, 6), bool)
    two[:, [1, 4]] = True
    alike = np.ones((5000, 6, 8), "float32"), two
    assert abs((agent.act(alike, (1, 0))[0] == 4).mean() - 0.5) < 0.036


@pytest.mark.parametrize("backfill", [False, True])
def test_episodes_that_end_at_different_steps(agent, backfill):
    jobs = lublin_feitelson(120, seed=2).sequences([0, 40, 80], 40)
    environment = SchedulingEnvironment(jobs, backfill=backfill, queue=6)
    rollout = play_episodes(agent, environment, 40, seed=5)
    again = play_episodes(agent, environment, 40, seed=5)
    np.testing.assert_array_equal(rollout.actions, again.actions)
    # The environment refuses a slot without a job.
    features, waiting = rollout.observations
    assert (waiting.any(axis=2) == rollout.taken).all()
    assert (rollout.ends.sum(axis=1) == 1).all()
    brought = -scores.bounded_slowdown(jobs, environment.simulator.starts)
    np.testing.assert_allclose(again.rewards.sum(axis=1), brought, rtol=1e-5)
    assert (rollout.rewards[~rollout.taken] == 0).all()
    last = rollout.taken.sum(axis=1) - 1
    assert rollout.ends[np.arange(3), last].all()
    assert all(np.isfinite(each) for each in agent.update(rollout).values())
