import warnings

import numpy as np
import pytest
import tensorflow as tf

gymnasium = pytest.importorskip("gymnasium", reason="Gymnasium is not installed")

from gymnasium.utils.env_checker import check_env, data_equivalence  # noqa: E402
from gymnasium.vector import AutoresetMode, SyncVectorEnv  # noqa: E402
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics  # noqa: E402

from keras_sharp.rl.navigation import PointGoalEnvironment  # noqa: E402
from keras_sharp.rl.navigation.vector_env import PointGoalEnv, PointGoalVectorEnv  # noqa: E402

SMALL = {
    **{"cells": 14, "room": 5, "door": 2, "goals": 4, "episodes": 32, "size": 4},
    **{"scenes": 1, "seed": 1, "max_steps": 9, "jit_compile": False},
}


@pytest.fixture(scope="module")
def vector():
    return PointGoalVectorEnv(18, **SMALL)


@pytest.fixture(scope="module")
def single():
    return PointGoalEnvironment(1, **SMALL)


def test_gymnasium_s_checks_of_an_environment_pass(single):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # It says that it could not try other render modes, of which there are none.
        warnings.filterwarnings("ignore", message=".*alternative render modes.*")
        check_env(PointGoalEnv(single), skip_render_check=True)


def test_it_is_what_gymnasium_makes_of_single_environments(vector, single):
    """More of them end at once than are rendered at once.

    Gymnasium's tests of vector environments are written for CartPole and its own vectors; what they
    check is checked here.
    """
    synchronous = SyncVectorEnv(
        [lambda: PointGoalEnv(single)] * 18, autoreset_mode=AutoresetMode.SAME_STEP
    )
    assert synchronous.single_observation_space == vector.single_observation_space
    assert synchronous.observation_space == vector.observation_space
    assert synchronous.action_space == vector.action_space
    assert synchronous.metadata["autoreset_mode"] == vector.metadata["autoreset_mode"]
    synchronous.reset(seed=0)
    observation, infos = vector.reset(seed=0)
    assert observation in vector.observation_space and infos == {}
    for i, env in enumerate(synchronous.envs):
        env.state = tf.nest.map_structure(
            lambda each, i=i: each[i : i + 1], vector.environment.state
        )
    ended = np.zeros(18, bool)
    for actions in np.random.default_rng(0).choice(4, p=[0.04, 0.5, 0.23, 0.23], size=(8, 18)):
        ours, theirs = vector.step(actions), synchronous.step(actions)
        assert ours[0] in vector.observation_space
        # Where an episode has begun, Gymnasium's draws of it are others: until then all agree.
        alive = ~ended
        for one, other in zip(ours[1:4], theirs[1:4], strict=True):
            np.testing.assert_allclose(one[alive], other[alive], atol=1e-6)
        done = ours[2] | ours[3]
        assert ("final_obs" in ours[4]) == done.any()
        if alive.all():
            assert data_equivalence(ours[4], theirs[4])
        if done.any():
            for name in ("_final_obs", "_final_info"):
                np.testing.assert_array_equal(ours[4][name], done)
            for i, final in enumerate(ours[4]["final_obs"]):
                assert final in vector.single_observation_space if done[i] else final is None
        for i in np.flatnonzero(alive & done):
            final, expected = ours[4]["final_obs"][i], theirs[4]["final_obs"][i]
            assert data_equivalence(final, expected)
            for name in ("success", "spl", "distance"):
                ours_final, theirs_final = (each[4]["final_info"] for each in (ours, theirs))
                np.testing.assert_allclose(ours_final[name][i], theirs_final[name][i], atol=1e-6)
                assert ours_final[f"_{name}"][i]
        ended |= done
        for name in ("depth", "goal"):
            one, other = ours[0][name], theirs[0][name]
            np.testing.assert_allclose(one[~ended], other[~ended], atol=1e-6)
    assert ended.sum() == 18


def test_seeds_as_gymnasium_wants_them(vector):
    observed = [vector.reset(seed=5)[0], vector.reset()[0], vector.reset(seed=5)[0]]
    again = vector.reset()[0]
    np.testing.assert_array_equal(observed[0]["depth"], observed[2]["depth"])
    np.testing.assert_array_equal(observed[1]["depth"], again["depth"])
    assert not np.array_equal(observed[0]["depth"], observed[1]["depth"])
    actions = np.random.default_rng(1).choice(4, p=[0.1, 0.5, 0.2, 0.2], size=(10, 18))
    for _ in range(2):
        happened = [vector.reset(seed=5), *(vector.step(each) for each in actions)]
        observed.append(happened)
    assert any("final_obs" in each[-1] for each in happened)
    assert data_equivalence(*observed[-2:], exact=True)
    with pytest.raises(ValueError, match="`reset_mask`"):
        vector.reset(options={"reset_mask": np.ones(18, bool)})


def test_gymnasium_s_wrappers_count_steps_and_rewards(vector):
    wrapped = DictInfoToList(RecordEpisodeStatistics(vector))
    wrapped.reset(seed=0)
    rewards = np.zeros(18)
    for _ in range(8):
        _, reward, _, truncated, infos = wrapped.step(np.full(18, 2))
        rewards += reward
    assert truncated.all()
    np.testing.assert_array_equal([each["episode"]["l"] for each in infos], np.full(18, 8))
    np.testing.assert_allclose([each["episode"]["r"] for each in infos], rewards, rtol=1e-5)
    assert all(each["final_obs"] in vector.single_observation_space for each in infos)
    assert all(each["final_info"].keys() == {"success", "spl", "distance"} for each in infos)


def test_made_by_name_as_gymnasium_s_others():
    name = "keras_sharp/PointGoal-v0"
    single = gymnasium.make(name, **SMALL)
    assert isinstance(single.unwrapped, PointGoalEnv) and name in single.spec.to_json()
    assert single.reset(seed=0)[0] in single.observation_space
    vector = gymnasium.make_vec(name, 3, "vector_entry_point", **SMALL)
    assert isinstance(vector.unwrapped, PointGoalVectorEnv) and vector.spec.id == name
    assert vector.reset(seed=0)[0] in vector.observation_space
    one_by_one = gymnasium.make_vec(name, 2, "sync", **SMALL)
    assert one_by_one.reset(seed=0)[0] in one_by_one.observation_space


def test_what_a_single_environment_does_not_take(single):
    with pytest.raises(ValueError, match="`environment` must be of a single environment"):
        PointGoalEnv(PointGoalEnvironment(2, **SMALL))
    with pytest.raises(ValueError, match="`environment` must be without `swap_every`"):
        gymnasium.make("keras_sharp/PointGoal-v0", swap_every=10, **SMALL)
    environment = PointGoalEnv(single)
    with pytest.raises(RuntimeError, match="`reset` must be called before"):
        environment.step(0)
    environment.reset(seed=0)
    with pytest.raises(ValueError, match="`action` must be an integer from 0 to 3. .*action=7"):
        environment.step(7)
