import json
import re

import keras
import pytest


def test_a_damaged_file_is_named(finished, run, tmp_path):
    file = tmp_path / "out" / "F1" / "trial-1" / "small.batch-5000.full-0.001.json"
    file.write_text(file.read_text()[:50])
    with pytest.raises(
        SystemExit, match=r"small.batch-5000.full-0.001.json cannot be read .*Delete"
    ):
        run()
    file.unlink()
    assert run()[0] == 0
    assert json.loads(file.read_text())["epsilon"] == 1e-3


def test_a_lower_bound_is_called_one(finished, run, tmp_path):
    assert "lower bound" not in finished and "in brackets" not in finished
    file = tmp_path / "out" / "F1" / "trial-1" / "small.batch-5000.full-0.001.json"
    result = json.loads(file.read_text())
    file.write_text(json.dumps(result | {"value": 2.0, "corner": 5.0}))
    printed = run()[1]
    assert "In 1 of 8 measurements the corner" in printed and "up to 2.5 times" in printed


def test_a_number_of_fewer_trials_is_explained(finished, run, tmp_path):
    # As if the second trial had lost all it had but one measurement of one training.
    folder = tmp_path / "out" / "F1"
    name = "small.batch-5000.full-0.001.json"
    (folder / "trial-2").mkdir()
    (folder / "trial-2" / name).write_text((folder / "trial-1" / name).read_text())
    printed = run()[1]
    [row] = re.findall(r"Table 3:.*?(F1 on digits .*?)\n", printed, re.DOTALL)
    assert "measured, 2 trials" in row and row.count(" (1)") == 3
    assert "A number in brackets says how many trials have that value" in printed


def test_the_tables_name_what_the_numbers_were_made_with(finished, run, tmp_path):
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


def test_another_evaluation_batch_has_tables_of_its_own(finished, run, tmp_path):
    text = (tmp_path / "out" / "tables-batch.md").read_text()
    run("--evaluation-batch", "30")
    assert (tmp_path / "out" / "tables-batch.md").read_text() == text
    for kind in ("md", "csv", "json"):
        assert (tmp_path / "out" / f"tables-batch-30.{kind}").exists()
    assert "batches of 30 examples" in (tmp_path / "out" / "tables-batch-30.md").read_text()
