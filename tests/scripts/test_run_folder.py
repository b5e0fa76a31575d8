import json

import pytest
import run_folder
from run_folder import RunFolder, read, read_sharpness, write


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    write(file, "1")

    def stopped(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder.os, "fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        write(file, "2")
    assert file.read_text() == "1"


def test_what_changed_since_the_folder_was_begun(tmp_path, monkeypatch):
    training = {"epochs": 3}
    assert RunFolder(tmp_path, training, {"more": 1}).remarks == []
    assert json.loads((tmp_path / "config.json").read_text())["more"] == 1
    assert RunFolder(tmp_path, training, {}).remarks == []
    monkeypatch.setattr(run_folder, "versions", lambda: {"keras": "9.9"})
    (remark,) = RunFolder(tmp_path, training, {}).remarks
    assert remark.startswith("versions were {") and remark.endswith("are now {'keras': '9.9'}")
    with pytest.raises(SystemExit, match="epochs was 3 and is now 4"):
        RunFolder(tmp_path, {"epochs": 4}, {})


def test_files_that_cannot_be_read_are_named(tmp_path):
    file = tmp_path / "config.json"
    for text in ("", "{", '{"value": 1}'):
        file.write_text(text)
        with pytest.raises(SystemExit, match=r"config\.json cannot be read .*Delete it"):
            read_sharpness(file)
    file.write_text("{")
    with pytest.raises(SystemExit, match="Delete it"):
        read(file)
