"""Processes of a search: how they end, and what is done about it."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from processes_for_tests import add, exit_with, kill_myself, out_of_memory, raise_value_error

from keras_sharp.tuner.processes import run
from keras_sharp.tuner.supervise import supervise

TINY = pathlib.Path(__file__).parent / "tiny_search.py"


def test_whatever_happens_in_a_process_is_an_outcome(tmp_path):
    log = tmp_path / "log.txt"
    ended = {f.__name__: run(f, 3, log=log) for f in (add, raise_value_error, out_of_memory)}
    ended |= {f.__name__: run(f, 3, log=log) for f in (exit_with, kill_myself)}
    assert {name: outcome.kind for name, outcome in ended.items()} == {
        "add": "finished",
        "raise_value_error": "failed",
        "out_of_memory": "out of memory",
        "exit_with": "failed",
        "kill_myself": "out of memory",
    }
    assert ended["add"].value == 4
    assert ended["raise_value_error"].reason == "ValueError: of 3"
    assert "status 3" in ended["exit_with"].reason
    assert "added one" in log.read_text() and "Traceback" in log.read_text()


WORKER = """
import os, pathlib, sys
name, folder = os.environ["KERASTUNER_TUNER_ID"], pathlib.Path(sys.argv[1])
assert os.environ["KERASTUNER_ORACLE_IP"] == "127.0.0.1"
with open(folder / name, "a") as lives:
    lives.write(os.environ["KERASTUNER_ORACLE_PORT"] + "\\n")
lives = (folder / name).read_text().splitlines()
if name == "tuner1" and len(lives) < 3:
    os.kill(os.getpid(), 9)
sys.exit(int(sys.argv[2]) if name == "chief" else 0)
"""


def test_a_worker_that_dies_is_started_again_under_its_own_name(tmp_path):
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    assert supervise([*command, "0"], ["tuner0", "tuner1"], address="127.0.0.1:9") == 0
    lives = {file.name: file.read_text().split() for file in tmp_path.iterdir()}
    assert (len(lives["tuner0"]), len(lives["tuner1"])) == (1, 3)
    assert len({port for ports in lives.values() for port in ports}) == 1
    # A mistake in the arguments would be one again.
    assert supervise([*command, "2"], ["chief"]) == 2
    assert len((tmp_path / "chief").read_text().split()) == 1
    # There is an end to patience.
    (tmp_path / "tuner1").unlink()
    alone = {"address": "127.0.0.1:9", "restarts": 1}
    assert supervise([*command, "0"], ["tuner1"], **alone) == -signal.SIGKILL
    assert len((tmp_path / "tuner1").read_text().split()) == 2
    with pytest.raises(ValueError, match="each of them once"):
        supervise(command, ["chief", "chief"])
    with pytest.raises(ValueError, match="`address` must be given where the chief is elsewhere"):
        supervise(command, ["tuner0"])
    with pytest.raises(ValueError, match="host:port"):
        supervise(command, address="somewhere")


WATCHED = """
import os, pathlib, runpy, sys, time
runpy.run_path(sys.argv[1])["end_with_supervisor"]()
pathlib.Path(sys.argv[2]).write_text(str(os.getpid()))
time.sleep(60)
"""
WATCHING = """
import runpy, sys
runpy.run_path(sys.argv[1])["supervise"]([sys.executable, "-c", *sys.argv[2:]], ["chief"])
"""


def test_what_is_supervised_ends_with_its_supervisor(tmp_path):
    module, file = sys.modules["keras_sharp.tuner.supervise"].__file__, tmp_path / "pid"
    arguments = [sys.executable, "-c", WATCHING, module, WATCHED, module, str(file)]
    supervisor = subprocess.Popen(arguments)
    wait_for(lambda: file.exists() and file.read_text(), 30)
    supervisor.kill()
    supervisor.wait()

    def ended():
        try:
            os.kill(int(file.read_text()), 0)
        except ProcessLookupError:
            return True
        # A zombie counts as ended: whoever adopts it here may not collect it.
        status = pathlib.Path(f"/proc/{file.read_text()}/status")
        return status.exists() and "State:\tZ" in status.read_text()

    wait_for(ended, 30)


def start(folder, seconds=0.0, **environment):
    return subprocess.Popen(
        [sys.executable, str(TINY), str(folder)],
        env=os.environ | {"TINY_SECONDS": str(seconds)} | environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def records_of(folder):
    return {
        file.relative_to(folder): json.loads(file.read_text())
        for file in folder.glob("points/*/epochs-*.json")
    }


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_and_uses_no_device_itself(tmp_path):
    first = start(tmp_path, 2)
    wait_for(lambda: len(records_of(tmp_path)) == 1)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = records_of(tmp_path)
    second = start(tmp_path)
    printed, _ = second.communicate(timeout=600)
    assert second.returncode == 0 and "no device was touched" in printed
    after = records_of(tmp_path)
    assert len(after) == 4 and {r["seed"] for r in after.values()} == {0, 1}
    assert all(after[file] == record for file, record in before.items())


@pytest.mark.slow
def test_a_worker_killed_in_mid_trial_is_taken_over(tmp_path):
    """One chief, two workers; keras-tuner alone would wait for ever."""
    pids = tmp_path / "pids"
    pids.mkdir()
    line = (
        "import sys; from keras_sharp.tuner import supervise; "
        "sys.exit(supervise(sys.argv[1:], ['chief', 'tuner0', 'tuner1']))"
    )
    environment = os.environ | {"TINY_SECONDS": "2", "TINY_PIDS": str(pids)}
    process = subprocess.Popen(
        [sys.executable, "-c", line, sys.executable, str(TINY), str(tmp_path / "search")],
        env=environment,
    )
    try:
        wait_for((pids / "trains 16").exists)
        victim = (pids / "trains 16").read_text()
        (name,) = [f.name for f in pids.glob("tuner*") if f.read_text() == victim]
        os.kill(int(victim), signal.SIGKILL)
        assert process.wait(600) == 0
    finally:
        process.terminate()
    assert (pids / name).read_text() != victim
    assert len(records_of(tmp_path / "search")) == 4
    assert (tmp_path / "search" / "report" / "index.html").exists()
