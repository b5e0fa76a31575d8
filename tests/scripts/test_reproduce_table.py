import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import keras
import keskar_training
import numpy as np
import pytest
import reproduce_table
from tiny_network import TINY, tiny

from keras_sharp.networks import NETWORKS, Network

ROOT = pathlib.Path(__file__).parents[2]


def test_a_run_and_what_it_leaves(finished, tmp_path):
    for part in ("Table 2", "Table 3", "Table 4", "F1 on digits", "measured, 1 trial", "paper"):
        assert part in finished
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
    assert (small["batch_size"], large["batch_size"]) == (4, 6)  # 10 % of 60
    assert small["seed"] == large["seed"] == keskar_training.trial_seed(0, 1)
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


def test_the_same_command_again_does_nothing_again(finished, run, no_training, tmp_path):
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.h5")}
    no_training()
    status, again = run()
    assert status == 0
    assert "2 of 2 trainings and 10 of 10 measurements. Nothing is left to do." in again
    assert finished[finished.index("Table 2") :] == again[again.index("Table 2") :]
    assert files == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.h5")}


def test_the_other_mode_measures_the_same_weights(finished, run, no_training, tmp_path):
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


def test_more_trials_are_added_to_those_that_are_there(finished, run, no_training):
    status, printed = run("--trials", "2")
    assert status == 0
    assert "2 of 4 trainings and 10 of 20 measurements. Going on with the rest." in printed
    assert "measured, 2 trials" in printed
    # And all are shown, however many are asked for.
    no_training()
    status, again = run("--trials", "1")
    assert status == 0 and "2 of 2 trainings and 10 of 10 measurements" in again
    assert printed[printed.index("Table 2") :] == again[again.index("Table 2") :]


def test_a_folder_holds_one_choice_of_settings(finished, run):
    with pytest.raises(SystemExit, match=r"epochs was 2 and is now 3\. Choose another folder"):
        run("--epochs", "3")
    with pytest.raises(SystemExit, match=r"seed was 0 and is now 7; limit was 60 and is now 50"):
        run("--seed", "7", "--limit", "50")
    with pytest.raises(SystemExit, match="data was 'digits' and is now \"the paper's\""):
        run("--networks", "F1")


def test_a_run_that_came_to_nothing_claims_nothing(run, no_training, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(keskar_training, "make_optimizer", lambda: keras.optimizers.SGD(1e30))
        assert run("--epochs", "5", "--seed", "3")[0] == 1
    no_training()
    with pytest.raises(AssertionError, match="nothing was to be trained"):
        run()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["training"]["epochs"], config["training"]["seed"]) == (2, 0)


def test_an_unfinished_training_claims_its_folder(run, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(keskar_training, "write_weights", stop)
        assert run()[0] == 130
    with pytest.raises(SystemExit, match=r"seed was 0 and is now 7\. Choose another folder"):
        run("--seed", "7")


def test_an_output_that_is_a_file(run, tmp_path):
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SystemExit, match=r"cannot be used as the output folder: .*--output"):
            run("--output", str(output))


def test_a_network_without_data_does_not_stop_the_rest(run, tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "F1", Network(tiny, "digits", "data that are always there"))
    status, printed = run("--networks", "F2", "F1", "--data-dir", str(tmp_path / "nowhere"))
    assert status == 0
    assert "measured, 1 trial" in printed
    text = (tmp_path / "out" / "tables-batch.md").read_text()
    assert text.count("| F2 on TIMIT | not measured, see below | -") == 3
    assert text.count("There is no timit.npz in") == 1
    assert "- Not done: F2: There is no timit.npz in" in text
    # What another run left in the folder is in the tables, and is not what was asked for.
    status, printed = run("--networks", "F2", "--data-dir", str(tmp_path / "nowhere"))
    assert status == 1 and "measured, 1 trial" in printed


def test_nothing_to_be_done_is_a_failure(run, tmp_path):
    status, printed = run("--networks", "F2", "--data-dir", str(tmp_path / "nowhere"))
    assert status == 1
    tables = printed[printed.index("Table 2") :]
    assert tables.count("not measured, see below") == 3
    assert tables.count("- Not done: F2: There is no timit.npz") == 1
    assert printed.count("TIMIT is licensed") == 1
    assert "as `--data-dir`, or set" in printed and "data_dir" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--networks", "F9"], "unknown F9; there are F1, F2"),
        (["--trials", "0"], "must be a whole number above 0"),
        (["--epochs", "many"], "must be a whole number above 0"),
        (["--seed", "-1"], "must not be negative"),
        (["--batch-norm", "frozen"], "invalid choice"),
        (["--limit", "300"], "Received: 30 (10 % of 300 training examples) and 32 (--small-batch)"),
        (["--large-batch", "32"], "Received: 32 (--large-batch) and 32 (--small-batch)"),
        (["--limit", "60", "--large-batch", "61"], "training examples, 60. Received: 61"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        reproduce_table.parse(arguments)
    assert error.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


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
    import sys, time
    sys.path[:0] = [{scripts!r}, {tests!r}]
    import reproduce_table, run_progress, tiny_network
    from keras_sharp.networks import NETWORKS, Network
    NETWORKS["F1"] = Network(tiny_network.tiny, "mnist", "tiny")
    begin = run_progress.ShowEpochs.on_epoch_begin
    def begin_slowly(*arguments):  # so that there is time to stop it
        begin(*arguments)
        time.sleep(0.1)
    run_progress.ShowEpochs.on_epoch_begin = begin_slowly
    sys.exit(reproduce_table.main(sys.argv[1:]))
"""
LONG = ["--epochs", "20"]


@pytest.fixture
def start(tmp_path):
    """Starts the script on a tiny network in a process of its own."""
    paths = {"scripts": str(ROOT / "scripts"), "tests": str(pathlib.Path(__file__).parent)}
    driver = textwrap.dedent(DRIVER).format(**paths)
    begun = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", driver, *TINY, *LONG, "--output", str(tmp_path / "out")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        begun.append(process)
        return process

    yield start
    for process in begun:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_for(file, process):
    while not file.exists() and process.poll() is None:
        time.sleep(0.005)


@pytest.mark.slow
def test_killed_and_terminated_it_goes_on_and_ends_with_the_same_weights(tmp_path, start, run):
    trial = tmp_path / "out" / "F1" / "trial-1"
    process = start()
    wait_for(trial / "small.checkpoint.npz", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
    assert (trial / "small.checkpoint.npz").exists()
    assert not (trial / "small.weights.h5").exists()

    process = start()
    wait_for(trial / "large.checkpoint.npz", process)
    with pytest.raises(SystemExit, match=r"Another run is at work in .*--output"):
        run(*LONG)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "going on from its last finished epoch" in printed
    assert "Stopped." in printed and "Traceback" not in printed
    assert not (trial / "large.weights.h5").exists()

    status, printed = run(*LONG)
    assert status == 0 and "1 of 2 trainings" in printed
    assert "going on from its last finished epoch" in printed

    run(*LONG, "--output", str(tmp_path / "straight"))
    for regime in ("small", "large"):
        weights = []
        for name in ("out", "straight"):
            model = tiny((64,), 10)
            model.load_weights(tmp_path / name / "F1" / "trial-1" / f"{regime}.weights.h5")
            weights.append(model.get_weights())
        for stopped_weight, straight_weight in zip(*weights, strict=True):
            assert np.array_equal(stopped_weight, straight_weight)


@pytest.mark.slow
def test_the_command_of_the_readme_on_a_few_examples(finished, tmp_path):
    # F1 itself in one regime: as if a run with these settings had been stopped after the other.
    out = tmp_path / "out"
    for file in (out / "F1" / "trial-1").glob("large.*"):
        file.unlink()
    command = [sys.executable, str(ROOT / "scripts" / "reproduce_table.py"), *TINY]
    done = subprocess.run(
        [*command, "--output", str(out)],
        capture_output=True,
        text=True,
        timeout=600,
        # The threads of two processes' matrix products wait for each other.
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 2 trainings and 5 of 10 measurements" in done.stdout and "Table 4" in done.stdout
    values = json.loads((out / "tables-batch.json").read_text())["records"]
    assert all(np.isfinite(each["mean"]) for each in values)
    result = json.loads((out / "F1" / "trial-1" / "large.batch-5000.full-0.001.json").read_text())
    assert result["objective"]["model"] == "F1" and result["value"] > 0
