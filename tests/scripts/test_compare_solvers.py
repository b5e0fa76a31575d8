import json
import shutil

import compare_solvers
import keras
import pytest
from keskar_training import load, trial_seed
from tiny_network import tiny

import keras_sharp
from keras_sharp.networks import NETWORKS, Network

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch):
    for name in ("F1", "C1"):
        monkeypatch.setitem(NETWORKS, name, Network(tiny, "mnist", "tiny"))


def read_rows(folder):
    [table] = folder.glob("*.md")
    lines = [line.strip("|").split(" | ") for line in table.read_text().splitlines()[4:]]
    return {line[0].strip(): [float(cell.strip(" |")) for cell in line[2:]] for line in lines}


@pytest.mark.slow
def test_two_lengths_on_digits(tmp_path, capsys, monkeypatch):
    arguments = ["--epochs", "2", "1", "--iterations", "1", "--batch-norm", "batch"]
    arguments += ["--output", str(tmp_path)]
    assert compare_solvers.main(arguments) == 0
    [file] = tmp_path.glob("*.md")
    table = file.read_text()
    rows = read_rows(tmp_path)
    assert list(rows) == [f"{who}, {n} epochs" for who in ("SB", "LB") for n in (1, 2)]
    for loss, obvious, untolerant, scaled, ascent in rows.values():
        assert loss > 0 and obvious >= 0 and untolerant >= 0
        # One step of either goes to the corner of the gradient's signs, or beyond it.
        assert ascent > 0 and scaled > 0.5 * ascent
    assert table.splitlines()[-1] in capsys.readouterr().out

    # What is known is not computed again, and what other settings gave is.
    for ways in (compare_solvers.OBVIOUS, compare_solvers.OWN):
        for name in ways:
            monkeypatch.setitem(ways, name, "no function")
    assert compare_solvers.main(arguments) == 0
    assert file.read_text() == table
    with pytest.raises(TypeError, match="not callable"):
        compare_solvers.main([*arguments, "--regimes", "LB", "--iterations", "2"])


def test_networks_that_were_kept(tmp_path):
    training = {"data": "digits", "limit": 100, "seed": 3}
    (tmp_path / "config.json").write_text(json.dumps({"training": training}))
    data, losses = load("digits", limit=100), []
    examples = data.x_train, data.y_train
    folder = tmp_path / "F1" / "trial-1"
    folder.mkdir(parents=True)
    for seed, regime in enumerate(("small", "large")):
        keras.utils.set_random_seed(seed)
        model = NETWORKS["F1"].build(data.input_shape, data.classes)
        model.compile(loss=LOSS)
        losses.append(model.evaluate(*examples, verbose=0))
        model.save_weights(folder / f"{regime}.weights.h5")
    arguments = ["--runs", str(tmp_path), "--iterations", "1", "--batch-norm", "inference"]
    arguments += ["--epsilon", "0.01", "--subspace-dim", "7"]
    assert compare_solvers.main(arguments) == 0
    solvers = tmp_path / "solvers"
    rows = read_rows(solvers)
    assert list(rows) == ["SB, trial 1", "LB, trial 1"]
    assert [row[0] for row in rows.values()] == pytest.approx(losses, rel=1e-2)

    # The subspace is that of the trial, as reproduce_table.py draws it.
    own = keras_sharp.sharpness(
        model, examples, epsilon=0.01, subspace_dim=7, max_iterations=1, seed=trial_seed(3, 1)
    )
    assert rows["LB, trial 1"][1] == pytest.approx(own.value, rel=1e-3)

    # Another network's numbers leave these where they are.
    shutil.copytree(folder, tmp_path / "C1" / "trial-1")
    before = {file: file.read_text() for file in solvers.iterdir()}
    assert compare_solvers.main([*arguments, "--network", "C1", "--regimes", "LB"]) == 0
    assert {file: file.read_text() for file in before} == before
    assert len(list(solvers.iterdir())) == len(before) + 2


def test_what_cannot_be_compared(tmp_path):
    arguments = ["--runs", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"config\.json is not there: .* Name one with --runs"):
        compare_solvers.main(arguments)
    training = {"data": "digits", "limit": None, "seed": 0}
    (tmp_path / "config.json").write_text(json.dumps({"training": training}))
    with pytest.raises(SystemExit, match=r"small\.weights\.h5 is not there: reproduce_table\.py"):
        compare_solvers.main(arguments)
    for wrong in (["--trials", "0"], ["--epsilon", "0"], ["--network", "C1"]):
        with pytest.raises(SystemExit, match="2"):
            compare_solvers.main(wrong)
