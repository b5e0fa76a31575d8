import functools
import io
import shutil

import keskar_training
import pytest
import reproduce_table
import rich.console
from tiny_network import TINY, tiny

from keras_sharp.networks import NETWORKS, Network


def prepared(monkeypatch):
    """Returns a call of the script on a tiny network: its exit status, and what it printed."""
    monkeypatch.setitem(NETWORKS, "F1", Network(tiny, "mnist", "tiny"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    printed = io.StringIO()
    console = rich.console.Console(width=2000, file=printed)
    monkeypatch.setattr(reproduce_table, "make_console", lambda: console)

    def call(output, *arguments):
        printed.seek(0)
        printed.truncate()
        status = reproduce_table.main([*TINY, "--output", str(output), *arguments])
        return status, printed.getvalue()

    return call


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the script in `tmp_path / "out"`."""
    return functools.partial(prepared(monkeypatch), tmp_path / "out")


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        status, printed = prepared(patch)(folder)
    assert status == 0
    return folder, printed


@pytest.fixture
def finished(finished_once, tmp_path):
    """What `run()` printed, and left in its folder."""
    folder, printed = finished_once
    shutil.copytree(folder, tmp_path / "out")
    return printed.replace(str(folder), str(tmp_path / "out"))


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("nothing was to be trained")

    def forbid():
        monkeypatch.setattr(keskar_training, "Trainer", refuse)

    return forbid
