"""Ends a long script with a message instead of a traceback when it is stopped."""

import shlex
import signal
import sys
from collections.abc import Callable

import rich.console


def until_stopped(work: Callable[[], int], console: rich.console.Console) -> int:
    """Does some work; says how to go on with it if it is stopped.

    SIGTERM stops it as Ctrl-C does: a process that a shell script has started in the background
    never hears of Ctrl-C.

    Args:
        work: What is done; returns an exit status.
        console: Where the message goes.

    Returns:
        The exit status: that of the work, 130 after Ctrl-C, 143 after SIGTERM.
    """

    def terminate(number, frame):
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        return work()
    except KeyboardInterrupt as stop:
        console.print("\nStopped. What is finished is saved, and the same command goes on:")
        console.print(shlex.join(["python", *sys.argv]), markup=False, soft_wrap=True)
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)
