"""Two and three processes on one machine train, evaluate and measure as one does."""

import json
import multiprocessing
import pathlib
import signal
import socket
import subprocess
import time

import numpy as np
import pytest
import tensorflow as tf
from forks import Forks
from worker_program import EPOCHS, PATIENCE, train

from keras_sharp.training import preemption
from keras_sharp.workers import Workers

PROGRAM = pathlib.Path(__file__).with_name("worker_program.py")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process computes."""
    return train(tmp_path_factory.mktemp("alone"), tf.distribute.get_strategy())


@pytest.fixture(scope="module")
def forks():
    forks = Forks("keras_sharp.training", "keras_sharp.landscape")
    yield forks
    forks.close()


def start(forks, folder, count, *action):
    """Starts the workers."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    processes = []
    for index in range(count):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        log = folder / f"worker {index}.log"
        processes.append(forks.start(PROGRAM, [folder, *action], log, TF_CONFIG=json.dumps(task)))
    return processes


def finish(processes, folder, timeout):
    """Returns what the workers ended with; none outlives the test."""
    try:
        return [process.wait(timeout) for process in processes]
    except subprocess.TimeoutExpired:
        logs = "\n".join(file.read_text() for file in folder.glob("*.log"))
        pytest.fail(f"Workers did not end in {timeout} s:\n{logs[-5000:]}")
    finally:
        for process in processes:
            process.kill()


def check_results(folder, count, alone):
    found = []
    for index in range(count):
        with np.load(folder / f"worker {index}.npz") as results:
            found.append(dict(results))
        assert set(found[-1]) == set(alone)
    for name, expected in alone.items():
        # At the same weights to the bit, on machines of one kind; with one thread or two, nearly.
        # After 25 steps to rounding; ten more, of the pipeline, make more of it.
        rtol = {"measured": 1e-12, "pipeline": 1e-5}.get(name.split()[0], 1e-6)
        atol = 0 if rtol == 1e-12 else rtol
        np.testing.assert_allclose(found[0][name], expected, rtol=rtol, atol=atol, err_msg=name)
        for other in found[1:]:
            np.testing.assert_array_equal(found[0][name], other[name], err_msg=name)
    # The chief alone writes.
    assert (folder / "chief.keras").exists() and not (folder / "other.keras").exists()
    assert [file.parent.name for file in folder.glob("cache*/*.npz")] == ["cache of chief"]


@pytest.mark.slow
def test_three_workers_compute_what_one_does(forks, tmp_path, alone):
    # On a batch of two, one of three workers has no example.
    assert finish(start(forks, tmp_path, 3), tmp_path, 200) == [0, 0, 0]
    check_results(tmp_path, 3, alone)


@pytest.mark.slow
def test_two_workers_that_are_stopped_and_killed_compute_what_one_does(forks, tmp_path, alone):
    # A SIGTERM to worker 1 stops both at the end of the epoch, which is saved.
    codes = finish(start(forks, tmp_path, 2, "terminate", 1), tmp_path, 120)
    assert codes == [preemption.STATUS, preemption.STATUS]
    assert (tmp_path / "epochs.txt").read_text() == "0 1 "
    # One epoch more, and in the next the chief dies: the other says so in time.
    chief, other = start(forks, tmp_path, 2, "kill", 0)
    assert chief.wait(120) == -signal.SIGKILL
    assert finish([other], tmp_path, 60)[0] > 0
    assert "another one has died or hangs" in (tmp_path / "worker 1.log").read_text()
    # One more, and worker 1 hangs, but its process lives: the chief loses its patience.
    chief, other = start(forks, tmp_path, 2, "hang", 1)
    _wait_for_epoch(tmp_path, 3)
    try:
        assert chief.wait(30) > 0 and other.poll() is None
    finally:
        chief.kill()
        other.kill()
    said = (tmp_path / "worker 0.log").read_text()
    assert "another one has died or hangs" in said
    assert f"worker 0 waited {PATIENCE:g} s for the others at 'batch 0'" in said
    assert finish(start(forks, tmp_path, 2), tmp_path, 120) == [0, 0]
    check_results(tmp_path, 2, alone)
    # Every epoch was trained once to its end, and the chief alone said so.
    assert (tmp_path / "epochs.txt").read_text().split() == [str(e) for e in range(EPOCHS)]


@pytest.mark.slow
def test_where_workers_differ_all_say_so_and_go_on_together(forks, tmp_path):
    assert finish(start(forks, tmp_path, 2, "disagree"), tmp_path, 200) == [1, 1]
    # In the end one failed alone.
    for index, message in enumerate(["another one has died or hangs", "a mistake on one worker"]):
        assert message in (tmp_path / f"worker {index}.log").read_text()
    chief, other = (json.loads((tmp_path / f"worker {i}.json").read_text()) for i in (0, 1))
    expected = [
        "ValueError: Model, `data` and the other arguments must be the same on every worker",
        "ValueError: The variables of model and optimizer must be the same on every worker",
        "OSError: disk full",
        "ValueError: `data`, `batch_size`, `batch_norm` and `penalties` must be the same on every",
        "WorkersError: All workers must evaluate the same at the same weights",
        "WorkersError: All workers must run the same program",
        "ValueError: `cache` must be a folder",
    ]
    for received, start_of in zip(chief["raised"], expected, strict=True):
        assert received.startswith(start_of)
    # What fails on the chief alone fails on all.
    expected[2] = "RuntimeError: OSError on worker 0: disk full"
    expected[6] = "ValueError: ValueError on worker 0: `cache` must be a folder"
    for received, start_of in zip(other["raised"], expected, strict=True):
        assert received.startswith(start_of)
    assert not (tmp_path / "never").exists()
    # A callback of one stopped both after the first epoch.
    assert chief["epochs"] == other["epochs"] == [0]
    assert chief["value"] == other["value"]


def _wait_for_epoch(folder, epoch):
    """Waits until an epoch has ended."""
    for _ in range(1200):
        if (folder / "epochs.txt").read_text().endswith(f"{epoch} "):
            return
        time.sleep(0.1)
    pytest.fail(f"The workers did not come to the end of epoch {epoch}")


def test_one_process_exchanges_nothing(replicas):
    for n in (1, 2):
        workers = Workers(replicas(n))
        assert workers.count == 1 and workers.is_chief
        assert workers.gather("list", [1, "a"]) == [[1, "a"]]
        assert workers.any("flag", True) and not workers.any("flag", False)
        assert workers.from_chief("file", lambda: b"file") == b"file"


def test_a_sigterm_is_noted_and_the_second_one_obeyed():
    before = signal.getsignal(signal.SIGTERM)
    assert before is signal.SIG_DFL
    with pytest.raises(SystemExit), preemption.noticed(True) as terminated:
        assert not terminated()
        signal.raise_signal(signal.SIGTERM)
        assert terminated()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        raise SystemExit
    with preemption.noticed(False):
        assert signal.getsignal(signal.SIGTERM) is before


def test_a_sigterm_that_nobody_obeyed_comes_again():
    received = []
    try:
        with pytest.raises(KeyError), preemption.noticed(True):
            signal.raise_signal(signal.SIGTERM)
            # A program's own handler stays, and gets it.
            signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
            raise KeyError
        assert received == [signal.SIGTERM]
        signal.raise_signal(signal.SIGTERM)
        assert len(received) == 2
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_process_forked_meanwhile_ends_on_sigterm():
    context = multiprocessing.get_context("fork")
    ready = context.Event()

    def wait():
        ready.set()
        time.sleep(60)

    with preemption.noticed(True) as terminated:
        child = context.Process(target=wait)
        child.start()
        assert ready.wait(20)
        child.terminate()
        child.join(20)
        code = child.exitcode
        child.kill()
        assert code == -signal.SIGTERM and not terminated()
