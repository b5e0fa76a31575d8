import io
import os
import signal
import sys

import pytest
import rich.console
from run_until_stopped import until_stopped


@pytest.fixture
def ctrl_c():
    """Ctrl-C is heard: a process started in the background of a shell script ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def stopped(monkeypatch, ctrl_c):
    """Does some work; returns its exit status and what was printed."""
    monkeypatch.setattr(sys, "argv", ["scripts/a.py", "--output", "a [bold] folder"])

    def call(work):
        stream = io.StringIO()
        status = until_stopped(work, rich.console.Console(file=stream))
        return status, stream.getvalue()

    return call


def test_work_that_ends_by_itself(stopped):
    assert stopped(lambda: 7) == (7, "")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_says_how_to_go_on(stopped, number, status):
    cleaned = []

    def work():
        try:
            os.kill(os.getpid(), number)
            raise AssertionError("the signal was not heard")
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    ended, printed = stopped(work)
    assert ended == status and cleaned
    assert "the same command goes on:\npython scripts/a.py --output 'a [bold] folder'\n" in printed
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_error_stays_one(stopped):
    with pytest.raises(ValueError, match="broken"):
        stopped(lambda: int("broken"))
