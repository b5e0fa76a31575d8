"""Figures from a tiny network: every one is drawn, from numbers that belong together."""

import csv
import json
import types

import keskar_figures
import keskar_study
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import reproduce_figures
import rich.console
from run_folder import RunFolder, versions
from tiny_network import TINY, tiny

from keras_sharp.landscape.published import published_path
from keras_sharp.networks import NETWORKS, Network

EPOCHS = 3


@pytest.fixture
def draw(monkeypatch, tmp_path, capsys):
    """Runs the script on a tiny network; returns its exit status and what it printed."""
    monkeypatch.setitem(NETWORKS, "F1", Network(tiny, "mnist", "tiny"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr(reproduce_figures, "make_console", lambda: rich.console.Console(width=2000))
    settings = [*TINY, "--epochs", str(EPOCHS), "--output", str(tmp_path)]
    del settings[settings.index("--trials") : settings.index("--trials") + 2]

    def call(*arguments):
        with matplotlib.rc_context({"backend": "agg"}):
            status = reproduce_figures.main([*arguments, *settings])
        return status, capsys.readouterr().out

    return call


def rows(folder, name):
    with open(folder / f"F1-digits-{name}.csv") as stream:
        return [
            {key: value if key == "run" else float(value) for key, value in row.items()}
            for row in csv.DictReader(stream)
        ]


@pytest.mark.slow
def test_all_figures(draw, tmp_path):
    assert draw()[0] == 0
    names = [f"figure-{number}" for number in range(2, 8)] + ["distance"]
    for name in names:
        for ending in ("png", "svg", "csv", "json"):
            assert (tmp_path / f"F1-digits-{name}.{ending}").stat().st_size > 0

    curves, spread = rows(tmp_path, "figure-2"), rows(tmp_path, "distance")
    assert [row["epoch"] for row in curves] == 2 * [1, 2, 3]
    linear, curved = rows(tmp_path, "figure-3"), rows(tmp_path, "figure-7")
    points = rows(tmp_path, "figure-6")
    for run, alpha in (("small", 0.0), ("large", 1.0)):
        [end] = [row for row in points if row["run"] == run and row["epoch"] == EPOCHS]
        last = [row for row in curves if row["run"] == run][-1]
        for path in (linear, curved):
            [here] = [row for row in path if row["alphas"] == alpha]
            assert here["train_loss"] == pytest.approx(end["train_loss"], rel=1e-6)
            assert here["test_accuracy"] == end["test_accuracy"] == last["val_accuracy"]
        assert last["val_loss"] == pytest.approx(end["test_loss"], rel=1e-6)
        first = np.load(tmp_path / "F1" / "trial-1" / f"{run}.epoch-0.npz")
        final = np.load(tmp_path / "F1" / "trial-1" / f"{run}.epoch-{EPOCHS}.npz")
        trainable = [v.trainable for v in tiny((64,), 10).weights]
        steps = [
            np.sum((final[n] - first[n]) ** 2) for n, t in zip(first, trainable, strict=True) if t
        ]
        way = [row["distance"] for row in spread if row["run"] == run][-1]
        assert way == pytest.approx(np.sqrt(sum(steps)), rel=1e-6)
    sweep = {row["batch_size"]: row for row in rows(tmp_path, "figure-4")}
    assert sorted(sweep) == [1, 2, 4, 6, 8, 16, 32]
    [small] = [row for row in points if row["run"] == "small" and row["epoch"] == EPOCHS]
    assert sweep[4.0]["sharpness"] == small["sharpness"]
    warm = rows(tmp_path, "figure-5")
    assert [row["small_batch_epochs"] for row in warm] == [0, 1, 2, 3]
    # From the initial weights, the warm start is the plain large-batch run.
    assert warm[0]["sharpness"] == pytest.approx(sweep[6.0]["sharpness"], rel=1e-6)


def test_it_goes_on_where_it_stopped(draw, tmp_path, monkeypatch):
    evaluate, calls = keskar_study.sharpness, []

    def stop_at_third(*args, **kwargs):
        calls.append(kwargs)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(keskar_study, "sharpness", stop_at_third)
    status, printed = draw("6")
    assert status == 130 and "the same command goes on" in printed

    def refuse(*args, **kwargs):
        raise AssertionError("nothing was to be trained")

    monkeypatch.setattr(keskar_study.Training, "train", refuse)
    assert draw("6")[0] == 0
    points = 2 * len({0, 1, 2, 3})
    assert len(calls) == 3 + (points - 2)
    assert draw("6")[0] == 0
    assert len(calls) == 3 + (points - 2)

    record = json.loads((tmp_path / "F1-digits-figure-6.json").read_text())
    assert record["versions"] == versions()
    assert (record["network"], record["training"]["epochs"]) == ("F1", EPOCHS)
    assert [run["batch_size"] for run in record["runs"]] == [4, 6]
    weights = tmp_path / "F1" / "trial-1" / f"small.epoch-{EPOCHS}.npz"
    weights.write_bytes(weights.read_bytes()[:100])
    weights.with_suffix(".json").unlink()
    with pytest.raises(SystemExit, match=r"small.epoch-3.npz cannot be read .* Delete it"):
        draw("6")
    weights.unlink()
    with pytest.raises(AssertionError, match="nothing was to be trained"):
        draw("6")


def test_what_cannot_be_done_is_said(draw):
    with pytest.raises(SystemExit):
        draw("8")
    status, printed = draw("2", "--networks", "F2")
    assert status == 1 and "Not done: F2: " in printed and "--data-dir" in printed


def test_the_published_curves_are_drawn_under_ours():
    published = published_path("C1")
    ours = published._replace(train_loss=published.train_loss + 1)
    study = types.SimpleNamespace(
        network="C1", data=types.SimpleNamespace(name="cifar10"), path=lambda kind: ours
    )
    figure = plt.figure()
    numbers = keskar_figures.linear_path(study, figure.add_subplot())
    curves = {line.get_label(): line.get_ydata() for ax in figure.axes for line in ax.lines}
    np.testing.assert_array_equal(curves["published train loss"], published.train_loss)
    np.testing.assert_array_equal(curves["measured train loss"], ours.train_loss)
    assert [row["train_loss"] for row in numbers] == ours.train_loss.tolist()
    plt.close(figure)


def test_runs_and_batch_sizes(monkeypatch, tmp_path):
    settings = reproduce_figures.parse(["--limit", "100", "--small-batch", "8", "--epochs", "50"])
    said = []
    display = types.SimpleNamespace(say=said.append)
    study = keskar_study.Study("F1", "digits", settings, RunFolder(tmp_path, {}, {}), display)
    assert study.batch_sizes == [2, 4, 8, 10, 16, 32, 64] and not said
    assert study.run_of(8) is study.small and study.run_of(10) is study.large
    assert study.snapshots[0] == 0 and study.snapshots[-1] == 50
    assert study.piggyback(5).start == ("small", 5)
    assert json.dumps(study.snapshots)
    # C1's outputs: 3 x 64 maps of 32^2 after the first convolution, pooled 64 of 16^2, and so on.
    study = keskar_study.Study("C1", "digits", settings, study.folder, display)
    monkeypatch.setattr(study._training, "build", lambda: NETWORKS["C1"].build((32, 32, 3), 10))
    assert 65 < study._gigabytes(32_768) < 85 and 11 < study._gigabytes(5000) < 13
    free = study._gigabytes(16)
    reason = lambda gigabytes: "too large" if gigabytes > free else None  # noqa: E731
    monkeypatch.setattr(keskar_study, "short_of_memory", reason)
    done = study._path(study.run_of(64), "epoch-50.json")
    done.parent.mkdir(parents=True)
    done.write_text("{}")
    settings.batch_sizes = [64, 16, 32, 4]
    assert study.batch_sizes == [4, 16, 64] and said == ["C1 batch 32: too large"]
    settings.batch_sizes = [101]
    with pytest.raises(ValueError, match="the 100 training examples. Received: 101"):
        keskar_study.Study("F1", "digits", settings, study.folder, display)
