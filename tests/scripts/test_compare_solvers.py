import json

import compare_solvers
import keras
import pytest
from tiny_network import tiny

from keras_sharp import datasets
from keras_sharp.networks import NETWORKS, Network


@pytest.fixture(autouse=True)
def tiny_f1(monkeypatch):
    monkeypatch.setitem(NETWORKS, "F1", Network(tiny, "mnist", "tiny"))


def test_two_lengths_on_digits(tmp_path, capsys, monkeypatch):
    arguments = ["--epochs", "2", "1", "--iterations", "1", "--batch-norm", "batch"]
    arguments += ["--output", str(tmp_path)]
    assert compare_solvers.main(arguments) == 0
    table = (tmp_path / "table.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in table.splitlines()
        if "epochs |" in line
    ]
    assert [row[0] for row in rows] == [
        f"{who}, {n} epochs" for who in ("SB", "LB") for n in (1, 2)
    ]
    for row in rows:
        loss, obvious, untolerant, scaled, ascent = map(float, row[2:])
        assert loss > 0 and obvious >= 0 and untolerant >= 0
        # One step of either goes to the corner of the gradient's signs, or beyond it.
        assert ascent > 0 and scaled > 0.5 * ascent
    assert table.splitlines()[-1] in capsys.readouterr().out

    # What is known is not computed again, and what other settings gave is.
    monkeypatch.setattr(compare_solvers, "WAYS", dict.fromkeys(compare_solvers.WAYS, "no function"))
    assert compare_solvers.main(arguments) == 0
    assert (tmp_path / "table.md").read_text() == table
    with pytest.raises(TypeError, match="not callable"):
        compare_solvers.main([*arguments, "--iterations", "2"])


def test_networks_that_were_kept(tmp_path):
    data, losses = datasets.load("digits"), []
    (tmp_path / "config.json").write_text(json.dumps({"training": {"data": "digits"}}))
    folder = tmp_path / "F1" / "trial-1"
    folder.mkdir(parents=True)
    for seed, regime in enumerate(("small", "large")):
        keras.utils.set_random_seed(seed)
        model = NETWORKS["F1"].build(data.input_shape, data.classes)
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        losses.append(model.evaluate(data.x_train, data.y_train, verbose=0))
        model.save_weights(folder / f"{regime}.weights.h5")
    arguments = ["--runs", str(tmp_path), "--iterations", "1", "--batch-norm", "inference"]
    assert compare_solvers.main([*arguments, "--output", str(tmp_path / "solvers")]) == 0
    lines = (tmp_path / "solvers" / "table.md").read_text().splitlines()
    rows = [line.strip("|").split(" | ") for line in lines if "trial 1 |" in line]
    assert [row[0].strip() for row in rows] == ["SB, trial 1", "LB, trial 1"]
    assert [float(row[2]) for row in rows] == pytest.approx(losses, rel=1e-2)


def test_a_folder_in_which_nothing_was_trained(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"training": {"data": "digits"}}))
    with pytest.raises(SystemExit, match=r"small\.weights\.h5 is not there: reproduce_table\.py"):
        compare_solvers.main(["--runs", str(tmp_path), "--output", str(tmp_path / "solvers")])
