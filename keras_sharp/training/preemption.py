"""SIGTERM, the notice that a machine will be taken away, waits for the end of an epoch."""

import contextlib
import os
import signal
import threading
import types
from collections.abc import Callable, Iterator

STATUS = 128 + signal.SIGTERM  # what a shell reports of a process that SIGTERM ended


@contextlib.contextmanager
def noticed(active: bool) -> Iterator[Callable[[], bool]]:
    """Notes a SIGTERM while open, for whoever opened it to obey by `SystemExit`.

    If it is left in another way it obeys then. A second one ends the process at once, provided that
    Python has had its turn since the first: while TensorFlow runs a graph it has not. A program
    that handles SIGTERM itself goes on doing so.

    Args:
        active: Whether to do anything.

    Yields:
        A function that returns whether there was one.
    """
    seen, owner, obeyed = threading.Event(), os.getpid(), False
    # Elsewhere Python lets nobody set a handler.
    active = active and threading.current_thread() is threading.main_thread()
    if not active or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield seen.is_set
        return

    def note(number: int, frame: types.FrameType | None) -> None:
        seen.set()
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != owner:  # forked meanwhile: nobody there looks at the note
            signal.raise_signal(number)

    signal.signal(signal.SIGTERM, note)
    try:
        yield seen.is_set
    except SystemExit:
        obeyed = True
        raise
    finally:
        if signal.getsignal(signal.SIGTERM) is note:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if seen.is_set() and not obeyed and os.getpid() == owner:
            signal.raise_signal(signal.SIGTERM)
