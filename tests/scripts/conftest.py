import keskar_training
import pytest
import reproduce_table
import rich.console
from tiny_network import TINY, tiny

from keras_sharp.networks import NETWORKS, Network


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the script on a tiny network; returns its exit status and what it printed."""
    monkeypatch.setitem(NETWORKS, "F1", Network(tiny, "mnist", "tiny"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr(reproduce_table, "make_console", lambda: rich.console.Console(width=2000))

    def call(*arguments):
        status = reproduce_table.main([*TINY, "--output", str(tmp_path / "out"), *arguments])
        return status, capsys.readouterr().out

    return call


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("nothing was to be trained")

    def forbid():
        monkeypatch.setattr(keskar_training, "Trainer", refuse)

    return forbid
