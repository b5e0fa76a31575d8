"""The report for a saved model from the shell against the same in Python."""

import json
import pathlib
import subprocess
import sys
import types

import keras
import measure as script
import numpy as np
import pytest

from keras_sharp import datasets, sharpness
from keras_sharp.measures import report as module
from keras_sharp.measures.noise_scale import noise_scale
from keras_sharp.results.report import Report

L = keras.layers


@pytest.fixture
def make(tmp_path):
    """Saves a small model of digits, and returns the file and the model."""

    def saved(loss="sparse_categorical_crossentropy", inputs=(64,), layer=None, softmax=True):
        keras.utils.set_random_seed(0)
        middle = [L.BatchNormalization()] if layer is None else [layer]
        activation = "softmax" if softmax else None
        layers = [L.Flatten(), L.Dense(4), *middle, L.Dense(10, activation=activation)]
        model = keras.Sequential([keras.Input(inputs), *layers])
        if loss is not None:
            model.compile("sgd", loss)
            model.optimizer.build(model.trainable_variables)
        model.save(tmp_path / "model.keras")
        return str(tmp_path / "model.keras"), model

    return saved


def run(*arguments):
    return script.main([str(each) for each in arguments])


def digits(limit, split="train"):
    data = datasets.load("digits")
    train = split == "train"
    x, y = (data.x_train, data.y_train) if train else (data.x_test, data.y_test)
    return x[:limit], y[:limit]


def test_the_report_is_that_of_the_library(make, tmp_path, capsys):
    file, model = make()
    output = tmp_path / "report.json"
    measures = ["sharpness:epsilon=5e-4,solver=sign-ascent,subspace_dim=3", "noise_scale"]
    options = ["--limit", 150, "--batch-size", 100, "--batch-norm", "batch", "inference"]
    status = run(file, "--dataset", "digits", "--measures", *measures, *options, "--output", output)
    assert status == 1  # in batch mode two evaluation batches are too few for the noise scale
    content = json.loads(output.read_text())
    assert (content["dataset"], content["split"], content["limit"]) == ("digits", "train", 150)
    batch, inference = (Report.from_json(json.dumps(each)) for each in content["reports"])
    label = "sharpness(epsilon=0.0005, solver='sign-ascent', subspace_dim=3)"
    for mode, report in (("batch", batch), ("inference", inference)):
        expected = sharpness(
            model,
            digits(150),
            epsilon=5e-4,
            solver="sign-ascent",
            subspace_dim=3,
            batch_norm=mode,
            batch_size=100,
        )
        assert report[label].value == pytest.approx(expected.value, rel=1e-6)
    assert "at least 3 small batches" in batch.failures["noise_scale"]
    expected = noise_scale(model, digits(150), batch_size=100)
    assert inference["noise_scale"].value == expected.value
    printed = " ".join(capsys.readouterr().out.split())
    assert "batch_norm='batch'" in printed and "batch_norm='inference'" in printed


def test_a_report_that_cannot_be_written_leaves_the_last_one(make, tmp_path, monkeypatch):
    file, _ = make()
    output = tmp_path / "report.json"
    output.write_text("the last report")

    def broken(self, text, *args, **kwargs):
        write_text(self, text[: len(text) // 2])
        raise OSError("no space left")

    write_text = pathlib.Path.write_text
    monkeypatch.setattr(pathlib.Path, "write_text", broken)
    options = ["--measures", "noise_scale", "--limit", 70, "--output", output]
    with pytest.raises(OSError, match="no space left"):
        run(file, "--dataset", "digits", *options)
    assert output.read_text() == "the last report"


def test_a_file_of_arrays(make, tmp_path):
    file, model = make()
    x, y = digits(90)
    weights = np.linspace(0, 2, 90, dtype="float32")
    np.savez(tmp_path / "data.npz", x=x, y=y, sample_weight=weights)
    output = tmp_path / "report.json"
    arguments = ["--measures", "noise_scale", "--output", output]
    assert run(file, "--dataset", tmp_path / "data.npz", *arguments) == 0
    (report,) = json.loads(output.read_text())["reports"]
    expected = noise_scale(model, (x, y, weights)).value
    assert report["results"]["noise_scale"]["value"] == expected


def test_the_test_split_and_another_loss(make, tmp_path):
    file, model = make(loss=None, softmax=False)
    output = tmp_path / "report.json"
    loss = ["--loss", "sparse_categorical_crossentropy", "--from-logits"]
    arguments = ["--split", "test", "--measures", "noise_scale", "--output", output]
    assert run(file, "--dataset", "digits", *loss, *arguments) == 0
    (report,) = json.loads(output.read_text())["reports"]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = noise_scale(model, digits(None, "test"), loss=loss).value
    assert report["results"]["noise_scale"]["value"] == expected


def test_labels_as_vectors(make, tmp_path):
    results = []
    for loss, options in (
        ("sparse_categorical_crossentropy", []),
        ("categorical_crossentropy", ["--one-hot"]),
    ):
        file, _ = make(loss=loss)
        output = tmp_path / "report.json"
        arguments = ["--measures", "noise_scale", "--limit", 80, "--output", output]
        run(file, "--dataset", "digits", *options, *arguments)
        (report,) = json.loads(output.read_text())["reports"]
        results.append(report["results"]["noise_scale"]["value"])
    assert results[0] == pytest.approx(results[1], rel=1e-4)


@keras.saving.register_keras_serializable("test_measure")
class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x


CUSTOM = """
import keras

@keras.saving.register_keras_serializable("elsewhere")
class Tripled(keras.layers.Layer):
    def call(self, x):
        return 3 * x
"""


@pytest.mark.slow
def test_layers_of_the_model_s_own_in_another_process(tmp_path):
    (tmp_path / "own_layers.py").write_text(CUSTOM)
    save = (
        "import keras, own_layers; model = keras.Sequential([keras.Input((64,)), "
        "own_layers.Tripled(), keras.layers.Dense(10, activation='softmax')]); "
        "model.compile(loss='sparse_categorical_crossentropy'); model.save('model.keras')"
    )
    subprocess.run([sys.executable, "-c", save], cwd=tmp_path, check=True, capture_output=True)
    command = [sys.executable, script.__file__, "model.keras", "--dataset", "digits"]
    command += ["--limit", "80", "--measures", "noise_scale"]
    alone = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert alone.returncode == 1
    assert "Tripled" in alone.stderr and "--import" in alone.stderr
    assert "Traceback" not in alone.stderr
    command += ["--import", "own_layers"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "noise_scale" in done.stdout


def test_a_layer_that_is_registered(make):
    file, _ = make(layer=Doubled())
    assert run(file, "--dataset", "digits", "--limit", 70, "--measures", "noise_scale") == 0


# -- errors --------------------------------------------------------------------------------------


def test_what_is_missing(make, tmp_path):
    file, _ = make()
    with pytest.raises(SystemExit, match="There is no file .*missing.keras"):
        run(tmp_path / "missing.keras", "--dataset", "digits")
    with pytest.raises(SystemExit, match="There is no file .*missing.npz"):
        run(file, "--dataset", tmp_path / "missing.npz")
    with pytest.raises(SystemExit, match="--dataset fashion: `name` must be one of"):
        run(file, "--dataset", "fashion")
    with pytest.raises(SystemExit, match="--import no_such_module: No module named"):
        run(file, "--dataset", "digits", "--import", "no_such_module")
    with pytest.raises(SystemExit, match="--output .* a folder that can be written to"):
        run(file, "--dataset", "digits", "--output", tmp_path / "no" / "report.json")
    np.savez(tmp_path / "data.npz", x=np.zeros((5, 64)))
    with pytest.raises(SystemExit, match="must hold arrays x and y"):
        run(file, "--dataset", tmp_path / "data.npz")


def test_what_is_no_model(tmp_path):
    for name in ("notes.keras", "notes.txt"):
        (tmp_path / name).write_text("not a model")
        with pytest.raises(SystemExit, match="Keras could not load .*notes"):
            run(tmp_path / name, "--dataset", "digits")


def test_shapes_that_do_not_fit(make):
    file, _ = make(inputs=(4, 4, 4))
    with pytest.raises(SystemExit, match=r"takes examples of shape \(4, 4, 4\).*are \(64,\)"):
        run(file, "--dataset", "digits")


@pytest.mark.parametrize(
    ("given", "wanted", "fits"),
    [
        ((2, 3, 1), (2, 3), True),
        ((2, 3, 1), (6,), True),
        ((2, 3), (1, 2, 3), True),
        ((6,), (2, 3, 1), True),
        ((2, 3, 1), (None, None, 1), True),
        ((2, 3, 1), (3, 2, 1), False),
        ((2, 3, 2), (2, 2, 3), False),
        ((12,), (2, 2, 3), False),
        ((2, 3, 1), (7,), False),
        ((6,), (None, None, 1), False),
    ],
)
def test_shapes_of_as_many_numbers_fit(given, wanted, fits, capsys):
    model = types.SimpleNamespace(input_shape=(None, *wanted))
    x, y = np.arange(5 * np.prod(given)).reshape(5, *given), np.arange(5)
    if not fits:
        with pytest.raises(SystemExit, match="The model takes examples of shape"):
            script.fitted(model, (x, y))
        return
    reshaped, same = script.fitted(model, (x, y))
    assert same is y
    np.testing.assert_array_equal(reshaped.ravel(), x.ravel())
    assert None in wanted or reshaped.shape[1:] == wanted
    assert (f"Examples of shape {given}" in capsys.readouterr().out) == (None not in wanted)


def test_labels_that_do_not_fit(make):
    file, _ = make(loss="categorical_crossentropy")
    with pytest.raises(SystemExit, match="could not be measured"):
        run(file, "--dataset", "digits", "--limit", 50)


def test_several_inputs(tmp_path):
    a, b = keras.Input((64,)), keras.Input((64,))
    model = keras.Model([a, b], L.Dense(10)(L.Add()([a, b])))
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    with pytest.raises(SystemExit, match="several inputs"):
        run(tmp_path / "model.keras", "--dataset", "digits")


def test_no_loss(make):
    file, _ = make(loss=None)
    with pytest.raises(SystemExit, match="saved without a loss: choose one"):
        run(file, "--dataset", "digits")
    with pytest.raises(SystemExit, match="--loss loudness is no loss of Keras"):
        run(file, "--dataset", "digits", "--loss", "loudness")
    with pytest.raises(SystemExit, match="--loss mean_squared_error --from-logits is no loss"):
        run(file, "--dataset", "digits", "--loss", "mean_squared_error", "--from-logits")


def test_what_is_measured_is_kept_when_another_fails_or_is_stopped(
    make, tmp_path, monkeypatch, capsys
):
    def explode(objective, *, seed=0, verbose=0):
        raise FloatingPointError("the fuse is blown")

    monkeypatch.setitem(module.MEASURES, "fuse", explode)
    file, _ = make()
    output = tmp_path / "report.json"
    arguments = ["--dataset", "digits", "--limit", 70, "--output", output]
    assert run(file, *arguments, "--measures", "fuse", "noise_scale") == 1
    (report,) = json.loads(output.read_text())["reports"]
    assert "blown" in report["failures"]["fuse"] and "noise_scale" in report["results"]

    def stop(objective, *, seed=0, verbose=0):
        raise KeyboardInterrupt

    monkeypatch.setitem(module.MEASURES, "stop", stop)
    capsys.readouterr()
    with pytest.raises(SystemExit, match="130"):
        run(file, *arguments, "--measures", "noise_scale", "stop")
    (partial,) = json.loads(output.read_text())["reports"]
    value = report["results"]["noise_scale"]["value"]
    assert partial["results"]["noise_scale"]["value"] == value
    assert "1 are still to come" in partial["status"] and "noise_scale" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--measures", "loudness"], "'loudness' is none of"),
        (["--measures", "sharpness:epsilon"], "'epsilon' must be option=value"),
        (["--limit", "0"], "must be a whole number above 0"),
        (["--from-logits"], "--from-logits belongs to --loss"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        script.parse(["model.keras", "--dataset", "digits", *arguments])
    assert message in capsys.readouterr().err


def test_an_option_that_does_not_exist(make):
    file, _ = make()
    with pytest.raises(SystemExit, match="`sharpness` takes the arguments"):
        run(file, "--dataset", "digits", "--measures", "sharpness:epsilom=1")
