import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_sharp.rl.navigation import PointGoalEnvironment
from keras_sharp.rl.navigation.geometry import CELL, HEADINGS
from keras_sharp.rl.navigation.scene import SceneRecipe
from keras_sharp.rl.navigation.task import NavigationState

SMALL = {"cells": 14, "room": 5, "door": 2, "goals": 4, "episodes": 32, "size": 4}


# Where they are in what `play` returns: behind depth and goal.
EPISODE, POSITION = (2 + NavigationState._fields.index(each) for each in ("episode", "position"))


def small(environments, **arguments):
    return PointGoalEnvironment(environments, **{"max_steps": 15, **SMALL, **arguments})


@pytest.fixture(scope="module")
def environment():
    return small(4, scenes=2, seed=3)


def arrays(structure):
    return [each.numpy() for each in tf.nest.flatten(structure)]


def play(environment, actions):
    """Returns all that happened, each an array of steps by environments."""
    happened = [arrays((environment.reset(), environment.state))]
    for action in actions:
        results = environment.step(action)
        happened.append(arrays((results[:2], environment.state, results[2:])))
    observed = len(happened[0])
    begun = [np.stack([each[i] for each in happened]) for i in range(observed)]
    results = [np.stack([each[i] for each in happened[1:]]) for i in range(observed, len(results))]
    return begun + results


def same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_rewards_success_and_spl_by_hand(environment):
    """Four agents one step from their goal, in the open, looking at it along x."""
    state, *_ = environment.first_state()
    scenes = [each.numpy() for each in environment.scenes]
    goals = scenes[1][state.scene, state.goal]
    # 0.15 m and 0.4 m before the goal; the third runs out of time; the fourth only turns.
    ahead = np.float32([0.15, 0.4, 0.4, 0.1])
    state = state._replace(
        position=tf.constant(goals - np.stack([ahead, 0 * ahead], axis=1)),
        heading=tf.zeros(4, "int32"),
        distance=tf.constant(ahead),
        first_distance=tf.constant([3.0, 4.0, 4.0, 5.0]),
        travelled=tf.constant([4.0, 1.0, 5.0, 2.0]),
        steps=tf.constant([7, 7, 14, 14]),
    )
    moved, reward, done, info = environment.advance(state, tf.constant([0, 1, 1, 3]))
    np.testing.assert_array_equal(done, [True, False, True, True])
    np.testing.assert_array_equal(info["success"], [True, False, True, True])
    # The last move of an episode that runs out of time is not counted in the way walked.
    spl = np.array([3 / 4, 0, 4 / 5, 1])
    np.testing.assert_allclose(info["spl"], spl, rtol=1e-6)
    np.testing.assert_allclose(info["distance"], [0.15, 0.15, 0.15, 0.1], atol=1e-6)
    np.testing.assert_allclose(reward, [-0.01 + 2.5 * 0.75, 0.24, 1.99, 2.49], atol=1e-5)
    np.testing.assert_allclose(moved.travelled, [4, 1.25, 5, 2], atol=1e-6)
    np.testing.assert_array_equal(moved.heading, [0, 0, 0, 1])
    # Stopping too far away fails, and so does running out of time there.
    far = state._replace(distance=tf.fill([4], 0.2))
    _, reward, done, info = environment.advance(far, tf.constant([0, 0, 2, 2]))
    assert done.numpy().all() and not info["success"].numpy().any()
    np.testing.assert_allclose(reward, [-0.01] * 4, atol=1e-7)
    # A turn costs a step: what the distance is, is not looked up again.
    _, reward, *_ = environment.advance(far._replace(steps=tf.ones(4, "int32")), [2, 3, 2, 3])
    np.testing.assert_array_equal(reward, np.float32([-0.01] * 4))


def test_the_goal_is_seen_from_the_agent(environment):
    state, _, goal = environment.first_state()
    x, y = (environment.scenes.goals.numpy()[state.scene, state.goal] - state.position).numpy().T
    forward = HEADINGS[state.heading]
    # Complex numbers turn by division; to the left of an agent that looks along x, y is negative.
    relative = (x + 1j * y) / (forward[:, 0] + 1j * forward[:, 1])
    np.testing.assert_allclose(goal[:, 0], np.abs(relative), rtol=1e-5)
    np.testing.assert_allclose(goal[:, 1], -np.angle(relative), atol=1e-5)
    left = environment.observe(state._replace(heading=(state.heading - 1) % 36))[1]
    turned = (goal[:, 1] - left[:, 1] + np.pi) % (2 * np.pi) - np.pi
    np.testing.assert_allclose(turned, np.full(4, np.pi / 18), atol=1e-5)


def test_an_episode_that_ends_is_followed_by_the_next_in_the_same_step(environment):
    depth, goal = environment.reset()
    before = environment.state
    observed = environment.step([0, 2, 2, 0])
    state = environment.state
    np.testing.assert_array_equal(observed[3], [True, False, False, True])
    np.testing.assert_array_equal(state.episode, [1, 0, 0, 1])
    np.testing.assert_array_equal(state.steps, [1, 2, 2, 1])
    scenes = [each.numpy() for each in environment.scenes]
    for i in (0, 3):
        assert state.travelled[i] == 0 and state.distance[i] == state.first_distance[i]
        starts, targets = scenes[3][state.scene[i]], scenes[4][state.scene[i]]
        assert (
            (starts == state.position[i].numpy()).all(axis=1) & (targets == state.goal[i].numpy())
        ).any()
    same(arrays(environment.observe(state)), arrays(observed[:2]))
    # After 499 actions of 500, or 14 of 15, time is out.
    for _ in range(12):
        *_, done, _ = environment.step([2, 2, 2, 2])
        assert not done.numpy().any()
    *_, done, _ = environment.step([2, 2, 2, 2])
    np.testing.assert_array_equal(done, [False, True, True, False])
    assert not np.array_equal(before.position, environment.state.position)


def test_one_environment_or_a_thousand_of_them():
    actions = np.random.default_rng(0).choice(4, p=[0.05, 0.55, 0.2, 0.2], size=(40, 1024))
    many = play(small(1024, scenes=16), actions)
    assert many[EPISODE].max() > 3  # many have begun anew
    for count in (1, 16):
        few = play(small(count, scenes=16), actions[:, :count])
        same(few, [each[:, :count] for each in many])


@pytest.mark.slow
def test_one_or_a_thousand_as_users_have_them_compiled():
    """The tests' own XLA does not optimize, and what it optimizes may differ in the last bit."""
    test = f"{__file__}::{test_one_environment_or_a_thousand_of_them.__name__}"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", test]
    done = subprocess.run(command, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True)
    assert done.returncode == 0, done.stdout.decode()


def test_several_of_them_make_tensorflow_warn_of_nothing(caplog):
    caplog.set_level("WARNING", logger="tensorflow")  # scripts lower it
    for number in range(1, 7):
        small(number, scenes=1, jit_compile=False).reset()
    assert "retracing" not in caplog.text


def test_seeds_repeat_and_without_a_compiler_it_is_the_same(environment):
    actions = np.random.default_rng(1).integers(1, 4, size=(20, 4))
    once = play(environment, actions)
    same(once, play(environment, actions))
    plain = small(4, scenes=2, seed=3, jit_compile=False)
    again = play(plain, actions)
    same(again, play(small(4, scenes=2, seed=3, jit_compile=False), actions))
    same(arrays(plain.scenes), arrays(environment.scenes))
    for one, other in zip(once, again, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)
    maps = [each.numpy() for each in environment.scenes]
    assert not np.array_equal(maps[0][0], maps[0][1])
    other, *_ = environment.first_state(4)
    assert not np.array_equal(other.position, once[POSITION][0])
    with pytest.raises(ValueError, match="`seed` must be below 2"):
        environment.first_state(2**64)


def test_stepping_inside_another_compiled_loop(environment):
    @tf.function
    def three_steps(state):
        rewards = tf.zeros([0, 4])
        for _ in tf.range(3):
            tf.autograph.experimental.set_loop_options(
                shape_invariants=[(rewards, tf.TensorShape([None, 4]))]
            )
            state, _, _, reward, _, _ = environment.step_state(state, tf.constant([1, 1, 2, 3]))
            rewards = tf.concat([rewards, reward[None]], axis=0)
        return state, rewards

    environment.reset()
    state, rewards = three_steps(environment.state)
    for reward in rewards:
        np.testing.assert_array_equal(environment.step([1, 1, 2, 3])[2], reward)
    same(arrays(environment.state), arrays(state))


def test_maps_are_exchanged_while_episodes_run(environment):
    environment.reset()
    maps = environment.scenes.free.numpy()
    assert not environment.swap_scenes()  # begins to make a map
    assert environment.swap_scenes()
    new = environment.scenes.free.numpy()
    np.testing.assert_array_equal(new[:2], maps[:2])
    assert not np.array_equal(new[2], maps[2]) and not np.array_equal(new[2], maps[0])
    environment.step([0, 0, 2, 2])
    # Of the first group, environments 0 and 2, one has begun an episode.
    np.testing.assert_array_equal(environment.state.scene, [2, 1, 0, 1])
    assert not environment.swap_scenes() and not environment.swap_scenes()
    environment.step([2, 0, 0, 0])
    np.testing.assert_array_equal(environment.state.scene, [2, 1, 2, 1])
    assert not environment.swap_scenes()
    assert environment.swap_scenes()
    environment.step([0, 0, 0, 0])
    np.testing.assert_array_equal(environment.state.scene, [2, 0, 2, 0])
    rows = environment.scenes.goals.numpy()[environment.state.scene, environment.state.goal]
    assert environment.scenes.free.numpy()[(environment.state.scene.numpy(), *cells(rows))].all()
    # The same calls on another environment let the same maps in.
    other = small(4, scenes=2, seed=3, swap_every=1, jit_compile=False)
    copied = small(4, scenes=2, seed=3)
    found = []
    for _ in range(2):  # and after a reset, which puts the first maps back
        other.reset(5)
        same([each[:2] for each in arrays(other.scenes)[:1]], [maps[:2]])
        seen = [other.step(actions) for actions in ([2] * 4, [2] * 4, [0] * 4)]
        for variable, value in zip(copied.variables, other.variables, strict=True):
            variable.assign(value)  # while a map is being made
        assert copied.swap_scenes(other.state)
        seen.append(other.step([2] * 4))
        found.append(arrays(seen))
        for each in (other, copied):
            same(arrays(each.scenes), arrays(environment.scenes))
    same(*found)


def cells(positions):
    return (positions[:, ::-1] / 0.25).astype(int).T


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"environments": 20}, "`environments` must be a multiple of `scenes`"),
        ({"environments": 0}, "`environments` must be an integer"),
        ({"environments": 1, "goals": 1000}, "`goals` must be at most"),
        ({"environments": 1, "distances": (90, 91)}, "`distances` must be such"),
        ({"environments": 1, "distances": (0, 5)}, "`distances` must be above 0"),
        ({"environments": 1, "distances": (2, 1)}, "`distances` must be above 0"),
        ({"environments": 1, "door": 6}, "`door` must be at most `room`"),
        ({"environments": 1, "seed": 2**64}, "`seed` must be below 2"),
    ],
)
def test_bad_arguments_say_so(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


def test_maps_without_room_for_the_goals_are_passed_over():
    """Of these maps one in twelve has 46 cells that touch no wall, the others have 25."""
    scenes = [SceneRecipe(cells=12, room=4, door=2, goals=40).make(seed) for seed in range(5)]
    for scene in scenes:
        columns, rows = (scene.goals / CELL).astype(int).T
        around = [
            scene.free[r - 1 : r + 2, c - 1 : c + 2] for r, c in zip(rows, columns, strict=True)
        ]
        assert len({*zip(rows, columns, strict=True)}) == 40 and np.all(around)


def test_episodes_begin_as_far_away_as_asked():
    recipe = SceneRecipe(cells=14, room=5, door=2, goals=4, episodes=64, distances=(1.0, 1.5))
    scene = recipe.make(0)
    columns, rows = (scene.starts / CELL).astype(int).T
    distances = scene.fields[scene.targets, rows, columns]
    assert np.all((distances >= 1.0) & (distances <= 1.5)) and np.ptp(distances) > 0


def test_an_exchange_by_the_step_goes_on_where_it_was_saved():
    whole, parts = (small(2, scenes=1, swap_every=3, jit_compile=False) for _ in range(2))
    for each in (whole, parts):
        each.reset()
    for _ in range(4):
        whole.step([2, 2])
    for variable, value in zip(parts.variables, whole.variables, strict=True):
        variable.assign(value)
    parts.state = whole.state
    for _ in range(6):
        same(arrays(parts.step([0, 0])), arrays(whole.step([0, 0])))
        same(arrays(parts.scenes), arrays(whole.scenes))
    assert whole.state.scene.numpy().any()  # a map was let in


def test_bad_actions_say_so(environment):
    fresh = small(1)
    for name, call in {"step": lambda: fresh.step([0]), "swap_scenes": fresh.swap_scenes}.items():
        with pytest.raises(RuntimeError, match=f"`reset` must be called before `{name}`"):
            call()
    environment.reset()
    wrong = [[0, 1, 2], [0, 1, 2, 4], [0, 1, -1, 0], [0.0, 1.0, 2.0, 3.0], [True] * 4]
    wrong += [tf.zeros(3, "int32"), tf.zeros(4)]
    for actions in wrong:
        with pytest.raises(ValueError, match="`actions` must be 4 integers from 0 to 3"):
            environment.step(actions)
    environment.step(tf.constant([2, 2, 3, 3]))
