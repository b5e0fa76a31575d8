import json

import keras
import pytest


def test_the_tables_show_all_trials_however_many_are_asked_for(run, no_training):
    tables = run("--trials", "2")[1]
    no_training()
    status, printed = run("--trials", "1")
    assert status == 0 and "2 of 2 trainings and 10 of 10 measurements" in printed
    assert "measured, 2 trials" in printed
    assert printed[printed.index("Table 2") :] == tables[tables.index("Table 2") :]


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
