import functools
import json
import math
import types

import agent_file
import compare_rl_batch
import keras
import matplotlib.figure
import numpy as np
import pointnav_settings
import pytest
import tensorflow as tf
import train_pointnav
from pointnav_evaluation import Episode
from pointnav_picture import draw_path, smooth
from pointnav_settings import make_agent, make_optimizer
from pointnav_training import PointNavTraining

from keras_sharp.rl.navigation import PointGoalEnvironment

TINY = ["--frames", "128", "--steps", "8", "--scenes", "2", "--cells", "16", "--goals", "4"]
TINY += ["--size", "8", "--width", "1", "--hidden", "4", "--units", "4", "--max-steps", "10"]
TINY += ["--distances", "0.5", "4", "--episodes", "4", "--save-every", "2"]


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch):
    """XLA takes seconds for what runs milliseconds here."""
    plain = functools.partial(PointGoalEnvironment, jit_compile=False)
    monkeypatch.setattr(pointnav_settings, "PointGoalEnvironment", plain)


@pytest.mark.slow
def test_a_stopped_training_goes_on_as_if_it_had_not_been(monkeypatch, tmp_path, capsys):
    command = [*TINY, "--environments", "4", "--output", str(tmp_path)]
    update, train, save = PointNavTraining._update, PointNavTraining._train, agent_file.save
    saved, restored, straight = [], [], []

    def weights(training):
        return [each.numpy() for each in training._agent.variables]

    with monkeypatch.context() as patch:

        def save_and_look(file, variables, history, world):
            save(file, variables, history, world)
            saved.extend(each.numpy() for each in variables)

        def stop(training, number, *arguments):
            moment = update(training, number, *arguments)
            if number == 3:
                straight.extend(weights(training))
                raise KeyboardInterrupt
            return moment

        patch.setattr(agent_file, "save", save_and_look)
        patch.setattr(PointNavTraining, "_update", stop)
        assert train_pointnav.main(command) == 130
    assert "the same command goes on" in capsys.readouterr().out
    *_, kept = np.load(tmp_path / "pointnav" / "trial-1" / "4-lamb.npz").values()
    with monkeypatch.context() as patch:

        def look_and_train(training):
            restored.extend(weights(training))
            train(training)

        patch.setattr(PointNavTraining, "_train", look_and_train)
        assert train_pointnav.main(command) == 0
    # Weights, moments, and how many updates there were: 2 of the 4 were saved.
    for one, other in zip(restored, saved, strict=True):
        np.testing.assert_array_equal(one, other)
    assert saved[-1] == 2
    # The other two were done again, in the same places and on the same maps.
    after = np.load(tmp_path / "pointnav" / "trial-1" / "4-lamb.npz").values()
    for one, other in zip(straight, after, strict=False):
        np.testing.assert_array_equal(one, other)
    printed = capsys.readouterr().out
    assert "success" in printed and "actions drawn" in printed
    text = (tmp_path / "pointnav.json").read_text()
    made, history = json.loads(text), json.loads(text)["training"]
    # The noise of the gradient was not measured.
    assert "NaN" not in text and all(each["noise_trace"] is None for each in history)
    assert made["evaluation"]["actions"] == "drawn"
    assert [each["frames"] for each in history] == [32, 64, 96, 128]
    before = np.array([list(each.values()) for each in history[:2]], float)
    np.testing.assert_array_equal(before, kept)
    # Frames cost what playing and learning cost, and playing is more than simulating.
    assert all(0 < each["simulate"] <= each["play"] for each in history if each["simulate"])
    seconds = [each["seconds"] for each in history]
    assert seconds[-1] == pytest.approx(sum(each["play"] + each["learn"] for each in history))
    # Minibatches are small, and the rate is not scaled: it falls to a hundredth.
    rates = [each["learning_rate"] for each in history]
    assert rates[0] > rates[2] > rates[3] == pytest.approx(2.5e-5, rel=0.01)
    found = made["evaluation"]
    assert 0 <= found["spl"] <= found["success"] <= 1
    assert 1 <= found["episode_length"] <= 9
    for name in ("pointnav.png", "pointnav/trial-1/4-lamb.keras"):
        assert (tmp_path / name).stat().st_size > 1000
    # Every update is there once, though two were done twice.
    files = sorted((tmp_path / "tensorboard" / "4-lamb").glob("events*"))
    events = [event for file in files for event in tf.compat.v1.train.summary_iterator(str(file))]
    steps = [each.step for each in events for value in each.summary.value if value.tag == "reward"]
    assert sorted(steps) == [32, 64, 96, 128]


def test_the_schedule_of_the_paper():
    # 512 environments, 32 steps, 2 minibatches of 8192 frames: 5.66 times the rate of 256.
    optimizer = make_optimizer("lamb", 5e-4, 8192, 1000)
    rate = [float(optimizer.learning_rate)]
    for step in (10, 20, 1010, 2000):
        optimizer.iterations.assign(step)
        rate.append(float(optimizer.learning_rate))
    peak = 5e-4 * math.sqrt(32)
    # Half-way through the rise, at its end, half-way through what is left, and at the end.
    middle = (peak + 5e-6) / 2
    np.testing.assert_allclose(rate, [peak / 2, 0.75 * peak, peak, middle, 5e-6], rtol=1e-4)
    assert make_optimizer("adam", None, 64, 10).learning_rate.numpy() == pytest.approx(1.25e-4)
    unscaled = make_optimizer("lamb-unscaled", 1e-3, 8192, 10)
    assert unscaled.learning_rate.numpy() == pytest.approx(5e-4)
    assert keras.optimizers.serialize(optimizer)["config"]["global_clipnorm"] == 1.0


def test_the_noise_by_hand():
    gradients = [[np.array([1.0]), np.array([[0.0]])], [np.array([3.0]), np.array([[0.0]])]]
    agent = types.SimpleNamespace(gradients=lambda rollout, parts: gradients[:parts])
    training = types.SimpleNamespace(
        environments=2, settings=types.SimpleNamespace(steps=4), _agent=agent
    )
    # The mean is (2, 0); four frames in each part are 1 away from it, squared: 8, of one degree of
    # freedom. |(2, 0)|^2 - 8 / 8 = 3.
    assert PointNavTraining._noise(training, None) == (8, 3)
    training.environments = 1
    assert np.isnan(PointNavTraining._noise(training, None)).all()


def test_curves_count_episodes_and_not_updates():
    columns = {
        "success": np.array([1.0, np.nan, 0.0, 0.5]),
        "episodes": np.array([3.0, 0.0, 1.0, 2.0]),
    }
    training = types.SimpleNamespace(column=columns.get)
    np.testing.assert_allclose(smooth(training, "success", 2), [1, 1, 0, 1 / 3])
    np.testing.assert_allclose(smooth(training, "success", 9), [1, 1, 3 / 4, 4 / 6])
    np.testing.assert_allclose(smooth(training, "success", 1), [1, np.nan, 0, 0.5])


def test_a_path_is_drawn_as_it_was_walked():
    """Who looks along x and turns right looks along y: to the right, and then down."""
    path, goal = np.array([[1.0, 1.0], [2.0, 1.0], [2.0, 2.0]]), np.array([2.0, 2.0])
    ax = matplotlib.figure.Figure().subplots()
    draw_path(ax, Episode(np.ones((16, 16), bool), path, goal, True, 1.0, np.zeros((3, 4, 4))))
    first, second, third = ax.transData.transform(ax.lines[0].get_xydata())
    assert second[0] > first[0] and third[1] < second[1]
    np.testing.assert_allclose(ax.transData.transform([goal]), [third])


def test_the_noise_scale_by_hand():
    columns = {
        "noise_trace": np.array([8.0, np.nan, 4.0, np.nan, 6.0, 2.0]),
        "noise_square": np.array([3.0, np.nan, 1.0, np.nan, -5.0, 1.0]),
    }
    training = types.SimpleNamespace(column=columns.get)
    # Two of the four that are known in each half: 6 / 2, and no noise scale where |G|^2 is -2.
    found = compare_rl_batch.noise_scale(training)
    assert (found["noise_early"], found["noise_late"], found["noise_late_error"]) == (3, None, None)
    # Without one of them it is 4 / 1 or 8 / 3, at 2 / 3 from their mean.
    np.testing.assert_allclose(found["noise_early_error"], 2 / 3)
    columns["noise_square"][4:] = 6.0, -1.0  # positive thanks to one of them alone
    assert compare_rl_batch.noise_scale(training)["noise_late"] is None
    training.column = lambda name: np.full(3, np.nan)
    assert set(compare_rl_batch.noise_scale(training).values()) == {None}


def test_cells_of_the_comparison():
    names = ["lamb", "lamb-unscaled", "adam"]
    command = ["--steps", "32", "--frames", "100000", "--environments", "16"]
    settings = compare_rl_batch.parse([*command, "64", "--optimizers", *names])
    # 16 environments, 32 steps, 2 minibatches: 256 frames, for which the rates are given.
    expected = [("lamb", 16), ("adam", 16), *((name, 64) for name in names)]
    assert compare_rl_batch.cells(settings) == expected
    settings = compare_rl_batch.parse([*command, "--optimizers", "lamb-unscaled"])
    assert compare_rl_batch.cells(settings) == [("lamb-unscaled", 16)]


@pytest.mark.slow
def test_comparison(monkeypatch, tmp_path, capsys):
    command = [*TINY, "--environments", "4"]
    monkeypatch.setattr(compare_rl_batch, "_NOISE", 2)
    train = PointNavTraining._train

    def diverge(training):
        if training.name == "4-adam":
            raise FloatingPointError("The weights are not finite in update 3.")
        train(training)

    with monkeypatch.context() as patch:
        patch.setattr(PointNavTraining, "_train", diverge)
        assert compare_rl_batch.main([*command, "--output", str(tmp_path)]) == 0
        assert "4-adam is left out: The weights" in capsys.readouterr().out
        assert "| adam |" not in (tmp_path / "rl-batch.md").read_text()
        alone = [*TINY, "--environments", "4", "--optimizer", "adam"]
        with pytest.raises(SystemExit, match="not finite in update 3. Choose a lower --learning"):
            train_pointnav.main([*alone, "--output", str(tmp_path / "alone")])
    assert compare_rl_batch.main([*command, "--output", str(tmp_path)]) == 0
    made = json.loads((tmp_path / "rl-batch.json").read_text())
    noise = [each["noise_trace"] for each in made["training"]["4-adam"]]
    assert [each is not None for each in noise] == [True, False, True, False]
    table = (tmp_path / "rl-batch.md").read_text()
    assert "| adam | 4 | 16 | 4 |" in table and "| lamb | 4 |" in table
    # It would be the same at such a batch.
    assert "lamb-unscaled" not in table and "one training each" in table
    assert (tmp_path / "rl-batch.png").stat().st_size > 1000
    assert compare_rl_batch.main([*command, "--output", str(tmp_path)]) == 0
    assert (tmp_path / "rl-batch.md").read_text() == table


def test_a_policy_that_is_trained_again_is_evaluated_again(monkeypatch, tmp_path):
    calls = []

    def evaluate(policy, *arguments, **others):
        calls.append(policy)
        return types.SimpleNamespace(summary=lambda: {"success": len(calls) / 4})

    monkeypatch.setattr(compare_rl_batch, "evaluate", evaluate)
    settings = types.SimpleNamespace(episodes=4, steps=8, seed=0)
    folder = types.SimpleNamespace(path=lambda *names: tmp_path / "evaluated.json")
    training = types.SimpleNamespace(name="4-adam", policy=None, column=lambda name: np.zeros(2))
    found = []
    for seconds, episodes in ((1.5, 4), (1.5, 4), (1.7, 4), (1.7, 8)):
        training.history, settings.episodes = [{"seconds": seconds}], episodes
        found.append(compare_rl_batch._measure(settings, training, None, folder)["success"])
    assert found == [0.25, 0.25, 0.5, 0.75]


def test_what_is_of_no_use(capsys, tmp_path):
    for arguments, message in (
        (["--environments", "20"], "multiples of --scenes"),
        (["--episodes", "1"], "must be at least 2"),
        (["--learning-rate", "0"], "must be above 0 and finite"),
        (["--learning-rate", "nan"], "must be above 0 and finite"),
        (["--frames", "10"], "must be enough for one rollout"),
        (["--size", "30"], "must be a multiple of 4"),
    ):
        with pytest.raises(SystemExit):
            train_pointnav.main(arguments)
        assert message in capsys.readouterr().err
    small = [*TINY, "--environments", "4"]
    for arguments, message in (
        (["--cells", "5"], "`cells` must be"),
        (["--goals", "1000"], "`goals` must be at most"),
        (["--max-steps", "1"], "`max_steps` must be"),
        (["--distances", "90", "91"], "`distances` must be such"),
    ):
        with pytest.raises(SystemExit, match=message):
            train_pointnav.main([*small, *arguments, "--output", str(tmp_path)])


def test_memory_does_not_grow_with_the_environments():
    settings = train_pointnav.parse([*TINY, "--steps", "32", "--frames", "100000"])
    agent = make_agent(settings, 1024, "lamb", 1)
    assert {len(each) for each in agent._pieces(np.arange(512))} == {64}  # 2,048 frames
