import functools
import json
import math
import types

import compare_rl_batch
import keras
import numpy as np
import pointnav_settings
import pytest
import train_pointnav
from pointnav_picture import smooth
from pointnav_settings import make_optimizer
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


def test_a_stopped_training_goes_on(monkeypatch, tmp_path, capsys):
    command = [*TINY, "--environments", "4", "--output", str(tmp_path)]
    with monkeypatch.context() as patch:

        def stop(training, writer, row):
            if len(training.history) == 3:
                raise KeyboardInterrupt

        patch.setattr(PointNavTraining, "_write", stop)
        assert train_pointnav.main(command) == 130
    assert "the same command goes on" in capsys.readouterr().out
    *_, kept = np.load(tmp_path / "pointnav" / "trial-1" / "4-lamb.npz").values()
    assert train_pointnav.main(command) == 0
    assert "success" in capsys.readouterr().out
    made = json.loads((tmp_path / "pointnav.json").read_text())
    history = made["training"]
    assert [each["frames"] for each in history] == [32, 64, 96, 128]
    np.testing.assert_array_equal([list(each.values()) for each in history[:2]], kept)
    # Frames cost what playing and learning cost, and playing is more than simulating.
    assert all(0 < each["simulate"] <= each["play"] for each in history if each["simulate"] > 0)
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
    assert list((tmp_path / "tensorboard" / "4-lamb").glob("events*"))


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


def test_curves_count_episodes_and_not_updates():
    columns = {
        "success": np.array([1.0, np.nan, 0.0, 0.5]),
        "episodes": np.array([3.0, 0.0, 1.0, 2.0]),
    }
    training = types.SimpleNamespace(column=columns.get)
    np.testing.assert_allclose(smooth(training, "success", 2), [1, 1, 0, 1 / 3])
    np.testing.assert_allclose(smooth(training, "success", 9), [1, 1, 3 / 4, 4 / 6])
    np.testing.assert_allclose(smooth(training, "success", 1), [1, np.nan, 0, 0.5])


@pytest.mark.slow
def test_comparison(tmp_path, capsys):
    command = [*TINY, "--environments", "4", "--optimizers", "adam", "lamb"]
    assert compare_rl_batch.main([*command, "--output", str(tmp_path)]) == 0
    table = (tmp_path / "rl-batch.md").read_text()
    assert "| adam | 4 | 16 | 4 |" in table and "| lamb | 4 |" in table
    assert (tmp_path / "rl-batch.png").stat().st_size > 1000
    assert compare_rl_batch.main([*command, "--output", str(tmp_path)]) == 0
    assert (tmp_path / "rl-batch.md").read_text() == table


def test_what_is_of_no_use(capsys):
    for arguments, message in (
        (["--environments", "20"], "multiples of --scenes"),
        (["--frames", "10"], "must be enough for one rollout"),
        (["--size", "30"], "must be a multiple of 4"),
    ):
        with pytest.raises(SystemExit):
            train_pointnav.main(arguments)
        assert message in capsys.readouterr().err
