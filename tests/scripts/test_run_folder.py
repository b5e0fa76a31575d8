import json
import pathlib
import subprocess
import sys

import pytest
import run_folder
from run_folder import RunFolder, locked, read, write


def keep(folder, trial=1, kind="training.json"):
    """As if a piece of work were finished."""
    file = folder.path("F1", trial, "small", kind)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


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
    folder = RunFolder(tmp_path, training, {"more": 1})
    assert folder.remarks == []
    assert json.loads((tmp_path / "config.json").read_text())["more"] == 1
    keep(folder)
    assert RunFolder(tmp_path, training, {}).remarks == []
    monkeypatch.setattr(run_folder, "versions", lambda: {"keras": "9.9"})
    (remark,) = RunFolder(tmp_path, training, {}).remarks
    assert remark.startswith("versions were {") and remark.endswith("are now {'keras': '9.9'}")
    with pytest.raises(SystemExit, match="epochs was 3 and is now 4"):
        RunFolder(tmp_path, {"epochs": 4}, {})


def test_settings_hold_as_soon_as_something_is_kept(tmp_path):
    RunFolder(tmp_path, {"epochs": 3}, {})
    folder = RunFolder(tmp_path, {"epochs": 4}, {})
    assert json.loads((tmp_path / "config.json").read_text())["training"] == {"epochs": 4}
    keep(folder, kind="checkpoint.npz")
    with pytest.raises(SystemExit, match="epochs was 4 and is now 5"):
        RunFolder(tmp_path, {"epochs": 5}, {})


@pytest.mark.parametrize("text", [None, "{"])
def test_results_of_unknown_settings_are_not_taken_for_these(tmp_path, text):
    folder = RunFolder(tmp_path, {"epochs": 3}, {})
    keep(folder)
    config = tmp_path / "config.json"
    config.unlink() if text is None else config.write_text(text)
    with pytest.raises(SystemExit, match=r"config\.json, .* cannot be read .*put it back"):
        RunFolder(tmp_path, {"epochs": 3}, {})


def test_a_training_is_its_record_and_its_weights(tmp_path):
    folder = RunFolder(tmp_path, {}, {})
    assert not folder.is_trained("F1", 1, "small")
    keep(folder)
    assert not folder.is_trained("F1", 1, "small")
    keep(folder, kind="weights.h5")
    assert folder.is_trained("F1", 1, "small")
    assert not folder.is_trained("F1", 1, "large")


def test_trials_are_those_that_are_there(tmp_path):
    folder = RunFolder(tmp_path, {}, {})
    assert folder.trials("F1") == []
    for trial in (10, 2, "2.old"):
        keep(folder, trial)
    assert folder.trials("F1") == [2, 10]
    assert folder.trials("C1") == []


def test_files_that_cannot_be_read_are_named(tmp_path):
    file = tmp_path / "a.json"
    for text in ("", "{"):
        file.write_text(text)
        with pytest.raises(SystemExit, match=r"a\.json cannot be read .*Delete it"):
            read(file)


def test_a_folder_that_cannot_be_made_or_written(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder" / ".lock").mkdir(parents=True)  # whose lock nobody can open, root neither
    for root, reason in (
        (tmp_path / "file", "it is a file"),
        (tmp_path / "file" / "below", "Not a directory"),
        (tmp_path / "folder", "Is a directory"),
    ):
        with pytest.raises(SystemExit, match=rf"as the output folder: {reason}\. .*--output"):
            with locked(root):
                pass


HOLD = """
    import sys, time
    from run_folder import locked
    with locked(__import__("pathlib").Path(sys.argv[1])):
        print("locked", flush=True)
        time.sleep(600)
"""


@pytest.mark.skipif(run_folder.fcntl is None, reason="there are no such locks here")
def test_a_folder_is_locked_until_its_run_ends(tmp_path):
    def refused():
        with pytest.raises(SystemExit, match=r"Another run is at work in .*--output"):
            with locked(tmp_path):
                pass

    with locked(tmp_path):
        refused()
    scripts = pathlib.Path(run_folder.__file__).parent
    source = "\n".join(line.removeprefix("    ") for line in HOLD.splitlines())
    process = subprocess.Popen(
        [sys.executable, "-c", source, str(tmp_path)],
        cwd=scripts,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "locked\n"
        refused()
    finally:
        process.kill()
        process.communicate()
    with locked(tmp_path):
        pass
