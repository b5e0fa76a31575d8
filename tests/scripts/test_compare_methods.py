import csv
import gc
import json
import signal
import types

import compare_methods
import keras
import methods_report
import numpy as np
import pytest
import rich.console
import tensorflow as tf
from methods_report import QUANTITIES, SHARPNESS, share_closed
from methods_settings import DATASETS, GRID, RATES
from methods_study import Case, Outcome, Study, collect_garbage, take_over
from run_folder import RunFolder
from run_progress import Display, Plan

from keras_sharp import datasets
from keras_sharp.large_batch import METHODS
from keras_sharp.layers import with_ghost_batch_normalization, with_split_batch_normalization
from keras_sharp.networks import F1

TINY = ["--limit", "60", "--epochs", "1", "--trials", "2", "--small-batch", "4"]
TINY += ["--batch-sizes", "16"]


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the script; returns its exit status and what it printed."""
    monkeypatch.setattr(compare_methods, "make_console", lambda: rich.console.Console(width=2000))

    def call(*arguments):
        status = compare_methods.main([*TINY, "--output", str(tmp_path / "out"), *arguments])
        return status, capsys.readouterr().out

    return call


@pytest.fixture
def trained(monkeypatch):
    """Puts numbers in place of trainings; the list of what would have been trained."""
    seen = []

    def pretend(self, case, rate, trial):
        seen.append((*case, rate, trial))
        if case.method == "swa" or (case.method, trial) == ("lars_legw", 2):
            return {"failed": "The loss is not finite"}
        if case.method == "sam":
            raise ValueError("no such thing")
        record = {"seconds": 1.0, "steps": 3, "warnings": ["It may rain"]}
        if trial == 0:  # the highest rate is the best, and the lowest of none
            loss = 1.0 / rate if rate > RATES[case.method] * GRID[0] else float("nan")
            return record | {"validation": 90.0, "validation_loss": loss}
        test = {"small": 98.0, "plain": 95.0, "sngm": 97.0, "lars_legw": 90.0}[
            "small" if case.batch_size == 4 else case.method
        ]
        record |= {"train": 100.0, "test": test + trial, "train_loss": 0.1, "test_loss": 0.2}
        return record | dict.fromkeys(SHARPNESS, 1.5)

    monkeypatch.setattr(Study, "_trained", pretend)
    return seen


@pytest.fixture
def no_figure(monkeypatch):
    """A figure takes longer than all else where nothing is trained."""
    monkeypatch.setattr(methods_report, "draw", lambda *arguments: None)


@pytest.fixture
def study(tmp_path):
    """What the script studies, on 60 digits."""
    settings = compare_methods.parse([*TINY, "--output", str(tmp_path)])
    display = Display(Plan(), rich.console.Console(quiet=True))
    return Study("digits", settings, RunFolder(tmp_path, {}, {}), display)


def records(tmp_path):
    made = json.loads((tmp_path / "out" / "methods.json").read_text())
    return {(each["method"], each["batch_size"]): each for each in made["records"]}, made["notes"]


def test_every_method_has_as_many_candidates_and_trials(run, trained, tmp_path):
    status, printed = run("--methods", "sngm")
    assert status == 0
    for case in (("plain", 4), ("plain", 16), ("sngm", 16)):
        own = [each[2:] for each in trained if each[:2] == case]
        rates = [RATES[case[0]] * factor for factor in GRID]
        assert own == [*((rate, 0) for rate in rates), (rates[-1], 1), (rates[-1], 2)]
    assert len(trained) == 3 * (len(GRID) + 2)

    found, notes = records(tmp_path)
    # Means of 96 and 97, 98 and 99, 99 and 100: two of three points.
    assert found["sngm", 16]["gap_closed"] == pytest.approx(100 * 2 / 3)
    assert found["plain", 16]["gap_closed"] == 0 and found["plain", 4]["gap_closed"] is None
    assert found["sngm", 16]["test"] == 98.5 and found["sngm", 16]["train_minus_test"] == 1.5
    assert found["sngm", 16]["test_standard_deviation"] == pytest.approx(0.5**0.5)
    assert found["sngm", 16]["values"]["test"] == [98.0, 99.0]
    # Variances of 1/2, two trials each: the root of 1/4 + 1/4.
    gap = "loses 3.00 points of test accuracy, with a standard error of 0.71."
    assert any(note.endswith(gap) for note in notes)
    assert "sngm" in printed and "98.50 ± 0.71" in printed and "67 %" in printed
    with open(tmp_path / "out" / "methods.csv") as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["plain", "plain", "sngm"]
    assert "| sngm | 0.04* |" in (tmp_path / "out" / "methods.md").read_text()
    assert (tmp_path / "out" / "accuracy-digits.png").stat().st_size > 1000
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["training"]["grid"] == list(GRID) and "keras" in config["versions"]


def test_a_piece_that_is_missing_is_all_that_is_done_again(run, trained, no_figure, tmp_path):
    run("--methods", "sngm")
    before = records(tmp_path)
    trained.clear()
    assert run("--methods", "sngm")[0] == 0 and trained == []
    (tmp_path / "out" / "digits" / "trial-2" / "sngm-16.json").unlink()
    assert run("--methods", "sngm")[0] == 0
    assert trained == [("sngm", 16, RATES["sngm"] * GRID[-1], 2)]
    assert records(tmp_path) == before
    with pytest.raises(SystemExit, match="epochs was 1 and is now 2"):
        run("--epochs", "2")


def test_a_method_that_fails_is_a_row_with_its_reason(run, trained, no_figure, tmp_path):
    status, printed = run("--methods", "sam", "swa", "sngm", "lars_legw")
    assert status == 0
    rows = (tmp_path / "out" / "methods.md").read_text().splitlines()
    for name, reason in (("swa", "rate 0.0125: The loss is not finite"), ("sam", "no such thing")):
        assert sum(row.startswith(f"| {name} | not done, see below |") for row in rows) == 1
        assert f"Not done: digits, {name}, batch 16: {reason}" in printed
    found, _ = records(tmp_path)
    assert found["sngm", 16]["trials"] == 2 and found["sngm", 16]["diverged"] == 0
    # One of its two trials diverged: the mean is of the other, and the row says so.
    assert found["lars_legw", 16]["trials"] == found["lars_legw", 16]["diverged"] == 1
    (row,) = [row for row in rows if row.startswith("| lars_legw (1 of 2) | 4* | 91.00 |")]
    assert "lars_legw, batch 16: trial 2 at rate 4: The loss is not finite" in printed
    assert not any(row.startswith("| sngm (") for row in rows)
    assert printed.count("digits, sngm, batch 16: It may rain") == 1
    trained.clear()
    run("--methods", "sam", "swa", "sngm")
    # That a training diverges is a result; what else fails may be the machine's.
    assert {each[0] for each in trained} == {"sam"} and len(trained) == len(GRID)


def test_no_trial_is_reported_at_a_rate_it_was_not_trained_at(
    run, trained, no_figure, monkeypatch, tmp_path
):
    run("--methods", "sngm")
    highest = tmp_path / "out" / "digits" / "trial-0" / f"sngm-16.rate-{len(GRID)}.json"
    other = json.loads(highest.read_text()) | {"validation_loss": 1e6}
    highest.unlink()
    trained.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Study, "_trained", broken)
        run("--methods", "sngm")
    # While a candidate is not tried, nothing is chosen.
    row = records(tmp_path)[0]["sngm", 16]
    assert row["learning_rate"] is None and row["trials"] == 0 and row["reasons"] == "no memory"
    highest.write_text(json.dumps(other))
    run("--methods", "sngm")
    rate = RATES["sngm"] * GRID[-2]  # the trials of before were at the last one
    assert trained == [("sngm", 16, rate, 1), ("sngm", 16, rate, 2)]
    row = records(tmp_path)[0]["sngm", 16]
    assert row["learning_rate"] == rate and row["trials"] == 2


def broken(self, case, rate, trial):
    raise MemoryError("no memory")


def test_without_the_small_batch_no_other_curve_takes_its_place(study, monkeypatch):
    def outcome(name, size, *tests):
        return Outcome(Case(name, size), 0.1, False, [{"test": each} for each in tests], [])

    drawn = []
    figure = types.SimpleNamespace(savefig=lambda *_, **__: None)
    figure.add_subplot = lambda: types.SimpleNamespace(
        errorbar=lambda x, y, yerr, *_, label, **__: drawn.append((label, y, yerr)),
        set_xscale=lambda *_, **__: None,
        xaxis=types.SimpleNamespace(set_major_formatter=lambda _: None),
        set=lambda **_: None,
        legend=lambda **_: None,
    )
    plt = types.SimpleNamespace(figure=lambda **_: figure, close=lambda _: None)
    monkeypatch.setattr(methods_report, "plt", plt)
    large = [outcome("plain", 16, 95.0), outcome("sam", 16, 95.0, 97.0)]
    methods_report.draw(study, [outcome("plain", 4), *large], study.folder)
    methods_report.draw(study, [outcome("plain", 4, 98.0), *large], study.folder)
    alone, joined = drawn[:2], drawn[2:]
    bar = pytest.approx(2**0.5)
    assert alone == [("plain", [95.0], [0.0]), ("sam", [96.0], [bar])]
    assert joined == [("plain", [98.0, 95.0], [0.0, 0.0]), ("sam", [98.0, 96.0], [0.0, bar])]


@pytest.mark.parametrize("fails", ["training", "sharpness"])
def test_what_diverges_does_not_cost_what_was_measured(study, monkeypatch, fails):
    def fit(model, *arguments, **more):
        if fails == "training":
            raise FloatingPointError("The loss is not finite")
        return types.SimpleNamespace(model=model)

    def sharpness(*arguments, **more):
        raise FloatingPointError("too steep")

    recipe = types.SimpleNamespace(fit=fit)
    recipe.optimizer = types.SimpleNamespace(iterations=tf.Variable(3))
    monkeypatch.setitem(METHODS, "plain", lambda *arguments, **more: recipe)
    monkeypatch.setattr("methods_study.sharpness", sharpness)
    model = study.build()
    size = sum(np.prod(v.shape) for v in model.non_trainable_variables)
    objective = types.SimpleNamespace(
        estimate_statistics=lambda: np.ones(size), evaluate=lambda: (0.5, 0.75)
    )
    parts = ("train", "moving"), ("train", "batch"), ("test", "moving")
    monkeypatch.setattr(study, "_measuring", (model, dict.fromkeys(parts, objective)))
    made = study._trained(study.reference, 0.1, 1)
    if fails == "training":
        assert made == {"failed": "The loss is not finite"}
        return
    assert made["test"] == 75.0 and all(made[name] is None for name in SHARPNESS)
    assert "no sharpness (full, batch) of trial 1: too steep" in made["warnings"]
    outcome = Outcome(study.reference, 0.1, False, [made], [])
    table = methods_report.make_table(study, outcome, [outcome])
    assert table.rows[0][:3] == ["plain, batch 4 (1 of 2)", "0.1", "75.00"]
    assert table.rows[0][5:9] == ["-"] * 4


def test_models_and_recipes_are_made_under_the_strategy(study, monkeypatch):
    tf.distribute.MirroredStrategy._collective_key_base += 1000
    study.strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    recipe = METHODS["ghost_batch_norm"]
    made = []

    def keep(*arguments, **more):
        made.append(recipe(*arguments, **more))
        trainer = made[0].trainer

        def fit(model, loss, data, **options):
            assert [layer.synchronized for layer in model.layers if "batch" in layer.name] == [
                True
            ] * 2
            assert trainer(model, loss).strategy is study.strategy
            raise FloatingPointError("far enough")

        return types.SimpleNamespace(fit=fit)

    monkeypatch.setitem(METHODS, "ghost_batch_norm", keep)
    case = Case("ghost_batch_norm", 16)
    assert study._trained(case, 0.1, 1) == {"failed": "far enough"}


def test_a_stop_is_not_lost_in_a_destructor(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(gc, "collect", lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt) as stop:
        collect_garbage()
    assert stop.value.args == (signal.SIGTERM,) and signal.getsignal(signal.SIGTERM) is before


def test_the_share_of_the_gap():
    def outcome(*tests):
        return Outcome(Case("plain", 4), 0.1, False, [{"test": each} for each in tests], [])

    small, plain = outcome(98.0, 99.0), outcome(96.5)
    assert share_closed(outcome(97.0), small, plain) == pytest.approx(25)
    assert share_closed(outcome(99.5), small, plain) == pytest.approx(150)
    assert share_closed(outcome(95.5), small, plain) == pytest.approx(-50)
    assert share_closed(outcome(), small, plain) is None
    assert share_closed(outcome(97.0), plain, small) is None  # nothing is lost


@pytest.mark.parametrize(
    "convert", [with_ghost_batch_normalization, with_split_batch_normalization]
)
def test_what_a_converted_model_learned_is_taken_over(convert):
    # Functional, unlike the network of digits: its copy's inputs have another name.
    model, other = F1((4,), 3), F1((4,), 3)
    rng = np.random.default_rng(0)
    other.set_weights([rng.uniform(0.5, 1, w.shape) for w in other.get_weights()])
    x = rng.normal(size=(5, 4)).astype("float32")
    trained = convert(model)
    assert np.abs(trained(x) - other(x)).max() > 0.1
    # As training would have left them.
    for layer, like in zip(trained.layers, other.layers, strict=True):
        getattr(layer, "main", layer).set_weights(like.get_weights())
    take_over(trained, model)
    for weight, like in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, like)


def test_the_settings_name_methods_that_exist():
    assert set(RATES) == set(METHODS)
    for each in DATASETS.values():
        assert {*each.methods, *each.own} <= set(METHODS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-sizes", "4", "16"], "Large batches must be larger than the small one, 4,"),
        (["--batch-sizes", "60"], "at most the 48 examples that are trained on"),
    ],
)
def test_batches_that_do_not_fit(run, trained, arguments, message):
    status, printed = run(*arguments)
    assert status == 1 and trained == []
    assert "Not done: digits: " in printed and message in printed


def small_convolution(input_shape, classes, *, synchronized=False):
    normalization = keras.layers.BatchNormalization(synchronized=synchronized)
    layers = [keras.layers.Conv2D(2, 3), normalization, keras.layers.Flatten()]
    return keras.Sequential([keras.Input(input_shape), *layers, keras.layers.Dense(classes)])


@pytest.mark.slow
def test_a_run(run, monkeypatch, tmp_path):
    monkeypatch.setattr("methods_study.GRID", (1.0,))
    images = np.random.default_rng(0).uniform(size=(60, 8, 8, 1)).astype("float32")
    labels = np.arange(60, dtype="int32") % 3
    made = datasets.Data("digits", images, labels, images, labels, 3)
    monkeypatch.setattr("methods_study.load", lambda *_: made)
    small = DATASETS["digits"]._replace(build=small_convolution)
    monkeypatch.setitem(DATASETS, "digits", small)
    methods = ["con_adv", "augmentation", "growing_batch"]
    status, printed = run("--trials", "1", "--epochs", "3", "--methods", *methods)
    assert status == 0, printed
    found, _ = records(tmp_path)
    assert [name for name, _ in found] == ["plain", "plain", *methods]
    for each in found.values():
        assert all(np.isfinite(each["values"][name]).all() for name in QUANTITIES)
        assert 0 <= each["test"] <= 100 and len(each["values"]["full, batch"]) == 1
    # 48 examples are trained on.
    steps = {key: each["steps"] for key, each in found.items()}
    assert steps["plain", 4] == 36 and steps["plain", 16] == 9
    assert steps["growing_batch", 16] == 12 + 3 + 3  # of 4, then of 16 examples
