import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import keras
import numpy as np
import pytest
import reproduce_table
import tensorflow as tf

from keras_sharp.networks import NETWORKS, Network

ROOT = pathlib.Path(__file__).parents[2]
TINY = ["--limit", "60", "--epochs", "2", "--trials", "1", "--small-batch", "16"]


def tiny(input_shape, classes, *, synchronized=False):
    layers = keras.layers
    inputs = keras.Input(input_shape)
    x = layers.BatchNormalization(synchronized=synchronized)(layers.Dense(6)(inputs))
    x = layers.Dropout(0.2)(layers.ReLU()(x))
    return keras.Model(inputs, layers.Dense(classes)(x), name="tiny")


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the script on a tiny network; returns its exit status and what it printed."""
    monkeypatch.setitem(NETWORKS, "F1", Network(tiny, "mnist", "tiny"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr(reproduce_table.console, "width", 200)

    def call(*arguments):
        reproduce_table.console.file = sys.stdout
        status = reproduce_table.main([*TINY, "--output", str(tmp_path / "out"), *arguments])
        return status, capsys.readouterr().out

    yield call
    reproduce_table.console.file = None


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("nothing was to be trained")

    def forbid():
        monkeypatch.setattr(reproduce_table, "Trainer", refuse)

    return forbid


def test_a_run_and_what_it_leaves(run, tmp_path):
    status, printed = run()
    assert status == 0
    for part in ("Table 2", "Table 3", "Table 4", "F1 on digits", "measured, 1 trial", "paper"):
        assert part in printed
    out = tmp_path / "out"
    config = json.loads((out / "config.json").read_text())
    assert config["training"]["epochs"] == 2 and config["training"]["data"] == "digits"
    assert config["optimizer"]["learning_rate"] == pytest.approx(1e-3)
    assert config["optimizer"]["epsilon"] == 1e-8
    assert {"keras", "tensorflow", "scipy", "keras_sharp"} <= set(config["versions"])
    assert config["hardware"]["cores"] >= 1

    trial = out / "F1" / "trial-1"
    kinds = ["accuracy", "full-0.001", "full-0.0005", "subspace100-0.001", "subspace100-0.0005"]
    names = ["training.json", "weights.h5", *(f"batch-5000.{kind}.json" for kind in kinds)]
    assert sorted(file.name for file in trial.iterdir()) == sorted(
        f"{regime}.{name}" for regime in ("small", "large") for name in names
    )
    large = json.loads((trial / "large.training.json").read_text())
    small = json.loads((trial / "small.training.json").read_text())
    assert (small["batch_size"], large["batch_size"]) == (16, 6)  # 10 % of 60
    assert small["seed"] == large["seed"] == reproduce_table.trial_seed(0, 1)
    assert len(small["history"]["loss"]) == 2

    sharpness = json.loads((trial / "small.batch-5000.full-0.001.json").read_text())
    assert sharpness["objective"]["batch_norm"] == "batch"
    assert sharpness["objective"]["examples"] == 60 and sharpness["epsilon"] == 1e-3
    table = json.loads((out / "tables-batch.json").read_text())
    (record,) = [
        each
        for each in table["records"]
        if (each["quantity"], each["regime"], each["source"]) == ("full-0.001", "small", "measured")
    ]
    assert record["mean"] == sharpness["value"]
    assert (out / "tables-batch.csv").read_text().startswith("table,network,quantity,")
    assert "| F1 on MNIST | paper |" in (out / "tables-batch.md").read_text()


def test_the_weights_kept_are_those_that_were_measured(run, tmp_path):
    run()
    trial = tmp_path / "out" / "F1" / "trial-1"
    measured = json.loads((trial / "large.batch-5000.accuracy.json").read_text())
    model = tiny((64,), 10)
    model.load_weights(trial / "large.weights.h5")
    data = reproduce_table.datasets.load("digits")
    for part, x, y in (
        ("train", data.x_train, data.y_train),
        ("test", data.x_test, data.y_test),
    ):
        # Batch statistics of the whole part: it fits into one evaluation batch. No dropout.
        x = model.layers[1](x[:60])
        norm = model.layers[2]
        x = (x - np.mean(x, 0)) / np.sqrt(np.var(x, 0) + norm.epsilon) * norm.gamma.numpy()
        x = x + norm.beta.numpy()
        logits = model.layers[-1](np.maximum(x, 0))
        accuracy = 100 * np.mean(np.argmax(logits, -1) == y[:60])
        assert measured[part] == pytest.approx(accuracy, abs=1e-6)


def test_the_same_command_again_does_nothing_again(run, no_training, tmp_path):
    first = run()[1]
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.h5")}
    no_training()
    status, again = run()
    assert status == 0
    assert "2 of 2 trainings and 10 of 10 measurements" in again
    assert first[first.index("Table 2") :] == again[again.index("Table 2") :]
    assert files == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.h5")}


def test_the_other_mode_measures_the_same_weights(run, no_training, tmp_path):
    run()
    no_training()
    status, printed = run("--batch-norm", "inference")
    assert status == 0
    assert "2 of 2 trainings and 0 of 10 measurements" in printed
    trial = tmp_path / "out" / "F1" / "trial-1"
    both = [
        json.loads((trial / f"small.{mode}-5000.full-0.001.json").read_text())
        for mode in ("batch", "inference")
    ]
    assert both[0]["objective"]["batch_norm"] == "batch"
    assert both[1]["objective"]["batch_norm"] == "inference"
    assert both[0]["value"] != both[1]["value"]
    assert (tmp_path / "out" / "tables-batch.md").exists()


def test_more_trials_are_added_to_those_that_are_there(run):
    run()
    status, printed = run("--trials", "2")
    assert status == 0
    assert "2 of 4 trainings and 10 of 20 measurements" in printed
    assert "measured, 2 trials" in printed


def test_a_folder_holds_one_choice_of_settings(run, tmp_path):
    run()
    with pytest.raises(SystemExit, match=r"epochs was 2 and is now 3\. Choose another folder"):
        run("--epochs", "3")
    with pytest.raises(SystemExit, match=r"seed was 0 and is now 7; limit was 60 and is now 50"):
        run("--seed", "7", "--limit", "50")
    with pytest.raises(SystemExit, match="data was 'digits' and is now \"the paper's\""):
        run("--networks", "F1")


def test_a_damaged_file_is_named(run, tmp_path):
    run()
    file = tmp_path / "out" / "F1" / "trial-1" / "small.batch-5000.full-0.001.json"
    file.write_text(file.read_text()[:50])
    with pytest.raises(
        SystemExit, match=r"small.batch-5000.full-0.001.json cannot be read .*Delete"
    ):
        run()
    file.unlink()
    assert run()[0] == 0
    assert json.loads(file.read_text())["epsilon"] == 1e-3


def test_a_lower_bound_is_called_one(run, tmp_path):
    assert "lower bound" not in run()[1]
    file = tmp_path / "out" / "F1" / "trial-1" / "small.batch-5000.full-0.001.json"
    result = json.loads(file.read_text())
    file.write_text(json.dumps(result | {"value": 2.0, "corner": 5.0}))
    printed = run()[1]
    assert "In 1 of 8 measurements the corner" in printed and "up to 2.5 times" in printed


def test_both_regimes_start_from_the_same_weights_and_trials_from_others(run, monkeypatch):
    starts = []

    class Spy(reproduce_table.Trainer):
        def __init__(self, model, *args, **kwargs):
            starts.append(np.concatenate([np.ravel(w) for w in model.get_weights()]))
            super().__init__(model, *args, **kwargs)

    monkeypatch.setattr(reproduce_table, "Trainer", Spy)
    run("--trials", "2")
    assert len(starts) == 4
    assert np.array_equal(starts[0], starts[1])
    assert np.array_equal(starts[2], starts[3])
    assert not np.array_equal(starts[0], starts[2])


def test_a_network_without_data_does_not_stop_the_rest(run, tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "F1", Network(tiny, "digits", "data that are always there"))
    status, printed = run("--networks", "F2", "F1", "--data-dir", str(tmp_path / "nowhere"))
    assert status == 0
    assert "F2 on TIMIT" in printed and "measured, 1 trial" in printed
    text = (tmp_path / "out" / "tables-batch.md").read_text()
    assert "| F2 on TIMIT | not measured: There is no timit.npz in" in text


def test_nothing_to_be_done_is_a_failure(run, tmp_path):
    status, printed = run("--networks", "F2", "--data-dir", str(tmp_path / "nowhere"))
    assert status == 1
    assert "not measured" in printed and "F2 was not finished: There is no timit.npz" in printed


def test_a_loss_that_is_not_finite_is_a_reason(run, monkeypatch):
    monkeypatch.setattr(reproduce_table, "make_optimizer", lambda: keras.optimizers.SGD(1e30))
    status, printed = run("--epochs", "5")
    assert status == 1
    assert "F1 was not finished" in printed and "learning rate" in printed


def test_a_trial_that_fails_does_not_stop_the_next(run, monkeypatch, tmp_path):
    second = reproduce_table.trial_seed(0, 2)

    class Failing(reproduce_table.Trainer):
        def fit(self, *args, seed, **kwargs):
            if seed == second:
                raise FloatingPointError("loss is nan in step 7")
            return super().fit(*args, seed=seed, **kwargs)

    monkeypatch.setattr(reproduce_table, "Trainer", Failing)
    status, printed = run("--trials", "3")
    assert status == 0
    assert "measured, 2 trials" in printed
    for title in ("SB (batch 16)", "LB (batch 6)"):
        assert f"F1 was not finished: F1 trial 2/3 {title}: loss is nan in step 7" in printed
    assert (tmp_path / "out" / "F1" / "trial-3" / "large.batch-5000.full-0.001.json").exists()
    monkeypatch.undo()


@pytest.mark.parametrize("error", [ValueError, FloatingPointError, MemoryError, "exhausted"])
def test_a_measurement_that_fails_does_not_stop_the_rest(run, monkeypatch, tmp_path, error):
    if error == "exhausted":
        error = lambda text: tf.errors.ResourceExhaustedError(None, None, text)  # noqa: E731
    measure = reproduce_table.sharpness

    def failing(objective, *, subspace_dim, epsilon, **kwargs):
        if subspace_dim is None and epsilon == 1e-3:
            raise error("cannot be computed")
        return measure(objective, subspace_dim=subspace_dim, epsilon=epsilon, **kwargs)

    monkeypatch.setattr(reproduce_table, "sharpness", failing)
    status, printed = run()
    assert status == 0
    reason = "F1 was not finished: F1 trial 1/1 LB (batch 6), full-0.001: cannot be computed"
    assert reason in printed
    assert reason in (tmp_path / "out" / "tables-batch.md").read_text()
    trial = tmp_path / "out" / "F1" / "trial-1"
    assert not (trial / "small.batch-5000.full-0.001.json").exists()
    assert (trial / "small.batch-5000.full-0.0005.json").exists()
    assert (trial / "large.batch-5000.subspace100-0.0005.json").exists()

    monkeypatch.setattr(reproduce_table, "sharpness", measure)
    again = run()[1]
    assert "2 of 2 trainings and 8 of 10 measurements" in again
    assert "was not finished" not in again


def test_the_tables_name_what_the_numbers_were_made_with(run, monkeypatch, tmp_path):
    run()
    folder = tmp_path / "out"
    own = json.loads((folder / "tables-batch.json").read_text())["made_with"]
    assert len(own) == 1 and own[0]["versions"]["keras"] == keras.__version__
    # As if the trainings came from another machine, with another Keras.
    machine = {"cpu": "Z80", "cores": 1, "gpus": []}
    for regime in ("small", "large"):
        file = folder / "F1" / "trial-1" / f"{regime}.training.json"
        record = json.loads(file.read_text())
        versions = record["versions"] | {"keras": "3.0.0"}
        file.write_text(json.dumps(record | {"versions": versions, "hardware": machine}))
    printed = run()[1]
    assert "Made with: 1 cores of Z80" in printed and "keras 3.0.0" in printed
    assert f"keras {keras.__version__}" in printed
    made_with = json.loads((folder / "tables-batch.json").read_text())["made_with"]
    assert [each["hardware"] for each in made_with] == [machine, own[0]["hardware"]]


def test_another_evaluation_batch_has_tables_of_its_own(run, tmp_path):
    run()
    text = (tmp_path / "out" / "tables-batch.md").read_text()
    run("--evaluation-batch", "30")
    assert (tmp_path / "out" / "tables-batch.md").read_text() == text
    for kind in ("md", "csv", "json"):
        assert (tmp_path / "out" / f"tables-batch-30.{kind}").exists()
    assert "batches of 30 examples" in (tmp_path / "out" / "tables-batch-30.md").read_text()


def test_a_batch_larger_than_the_data_is_a_reason(run):
    status, printed = run("--small-batch", "61")
    assert status == 1
    assert "small batch must be between 1 and the number of training examples, 60" in printed


def test_ctrl_c_says_how_to_go_on(run, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce_table, "sharpness", interrupt)
    monkeypatch.setattr(sys, "argv", ["scripts/reproduce_table.py", "--output", "a folder"])
    status, printed = run()
    assert status == 130
    assert "the same command goes on" in printed
    assert "python scripts/reproduce_table.py --output 'a folder'" in printed
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--networks", "F9"], "unknown F9; there are F1, F2"),
        (["--trials", "0"], "must be positive, not 0"),
        (["--epochs", "many"], "invalid"),
        (["--seed", "-1"], "must not be negative"),
        (["--batch-norm", "frozen"], "invalid choice"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        reproduce_table.parse(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_defaults():
    digits = reproduce_table.parse([])
    assert (digits.data, digits.networks, digits.trials) == ("digits", ["F1"], 3)
    assert (digits.small_batch, digits.large_batch, digits.batch_norm) == (32, None, "batch")
    paper = reproduce_table.parse(["--networks", "C1", "F1"])
    assert (paper.networks, paper.trials, paper.epochs) == (["F1", "C1"], 5, 100)
    assert (paper.small_batch, paper.large_batch, paper.evaluation_batch) == (256, None, 5000)
    assert reproduce_table.parse(["--networks", "all"]).networks == list(NETWORKS)
    assert digits.output != paper.output


DRIVER = """
    import sys
    sys.path[:0] = [{scripts!r}, {tests!r}]
    import reproduce_table, test_reproduce_table
    from keras_sharp.networks import NETWORKS, Network
    NETWORKS["F1"] = Network(test_reproduce_table.tiny, "mnist", "tiny")
    sys.exit(reproduce_table.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_same_weights(tmp_path):
    paths = {"scripts": str(ROOT / "scripts"), "tests": str(pathlib.Path(__file__).parent)}
    driver = textwrap.dedent(DRIVER).format(**paths)
    command = [sys.executable, "-c", driver, *TINY, "--epochs", "300", "--limit", "400"]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}

    def start(name):
        return subprocess.Popen(
            [*command, "--output", str(tmp_path / name)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )

    trial = tmp_path / "killed" / "F1" / "trial-1"
    for regime in ("small", "large"):  # killed once in the middle of each training
        process = start("killed")
        checkpoint = trial / f"{regime}.checkpoint.npz"
        while not checkpoint.exists() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
        assert checkpoint.exists() and not (trial / f"{regime}.weights.h5").exists()
    killed, straight = start("killed"), None
    printed, _ = killed.communicate(timeout=300)
    assert killed.returncode == 0, printed
    assert "1 of 2 trainings" in printed and "going on from its last finished epoch" in printed
    straight = start("straight")
    straight.communicate(timeout=300)
    assert straight.returncode == 0
    for regime in ("small", "large"):
        weights = []
        for name in ("killed", "straight"):
            model = tiny((64,), 10)
            model.load_weights(tmp_path / name / "F1" / "trial-1" / f"{regime}.weights.h5")
            weights.append(model.get_weights())
        for killed_weight, straight_weight in zip(*weights, strict=True):
            assert np.array_equal(killed_weight, straight_weight)


@pytest.mark.slow
def test_the_command_of_the_readme_on_a_few_examples(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "reproduce_table.py")]
    smoke = ["--limit", "40", "--epochs", "1", "--trials", "1", "--output", str(tmp_path / "out")]
    done = subprocess.run([*command, *smoke], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Table 4" in done.stdout and "1 of 2" not in done.stdout
    values = json.loads((tmp_path / "out" / "tables-batch.json").read_text())["records"]
    assert all(np.isfinite(each["mean"]) for each in values)
