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

from keras_sharp.tuner.__main__ import main
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
        "kill_myself": "killed",
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


LATE = """
import json, os, pathlib, runpy, sys, time
ending_with_chief = runpy.run_path(sys.argv[1])["ending_with_chief"]
ending_with_chief.__wrapped__.__globals__["_GRACE_SECONDS"] = 0.6
ended, survived = map(pathlib.Path, sys.argv[2:])
ended.write_text(json.dumps("1.2.3.4:5"))  # another chief's
with ending_with_chief(ended):
    time.sleep(1)
    ended.write_text(json.dumps("10.0.0.1:9"))
    os.utime(ended, (1, 1))  # of an earlier search
    time.sleep(1)
    survived.touch()
    ended.write_text(json.dumps("10.0.0.1:9"))
    time.sleep(60)
"""


def test_a_worker_that_asks_when_the_chief_has_ended_ends_too(tmp_path):
    module, files = sys.modules["keras_sharp.tuner.supervise"].__file__, ["ended.json", "survived"]
    command = [sys.executable, "-c", LATE, module, *(str(tmp_path / name) for name in files)]
    assert supervise(command, ["tuner1"], address="10.0.0.1:9", restarts=0) == 0
    assert (tmp_path / "survived").exists()


def start(folder):
    words = "search --network tiny_search:build --data tiny_search:data --epochs 3 --seeds 2 "
    words += "--base-batch-size 8 --batch-sizes 16 --learning-rates 0.1 --no-sharpness --max-gap 1"
    return subprocess.Popen(
        [sys.executable, "-m", "keras_sharp.tuner", *words.split(), "--folder", str(folder)],
        cwd=TINY.parent,
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
        time.sleep(0.02)


@pytest.mark.slow
def test_a_search_that_was_killed_at_several_moments_goes_on(tmp_path, capsys):
    """From the command line: before it knows its model, in mid-training, and while it measures."""
    moments = {
        "prepare.log": {0},
        "points/*/*.checkpoint.npz": {0},
        "points/*/measuring.json": {0, 1, 2, 3},
    }
    before = {}
    for pattern, finished in moments.items():
        killed = start(tmp_path)
        wait_for(lambda pattern=pattern: list(tmp_path.glob(pattern)))
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert (tmp_path / "config.json").exists() == (pattern != "prepare.log")
        before |= records_of(tmp_path)
        assert len(before) in finished
    last = start(tmp_path)
    printed, _ = last.communicate(timeout=600)
    assert last.returncode == 0 and "recommended batch" in printed
    after = records_of(tmp_path)
    assert len(after) == 4 and {r["seed"] for r in after.values()} == {0, 1}
    assert all(after[file] == record for file, record in before.items())
    assert main(["report", "--folder", str(tmp_path), "--max-gap", "1"]) == 0
    assert "recommended batch    16" in capsys.readouterr().out


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
    records = records_of(tmp_path / "search").values()
    assert [each["replicas"] for each in records] == [2] * 4
    assert (tmp_path / "search" / "report" / "index.html").exists()
