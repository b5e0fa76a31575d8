"""Work in a process of its own: what it allocates is gone with it, and so is what kills it."""

import dataclasses
import multiprocessing
import os
import pathlib
import pickle
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable
from typing import Any, Literal

Kind = Literal["finished", "out of memory", "killed", "failed"]

# With these the system ends a process for which it has no memory, or a library itself that gets
# none. There are other reasons: which one it was is not known.
_KILLED = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)

# A server that has imported TensorFlow, but used no device, forks each process in no time.
_CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Attributes:
        kind: `"finished"`, `"out of memory"`, `"killed"`, which may be the same, or `"failed"`.
        value: What the function returned.
        reason: A sentence, if it did not finish.
    """

    kind: Kind
    value: Any = None
    reason: str = ""


def run(function: Callable, *arguments: Any, log: pathlib.Path) -> Outcome:
    """Calls a function in a process of its own, which ends when this one does.

    Args:
        function: Importable, as its arguments.
        *arguments: Of the function.
        log: File to which everything it prints is added.
    """
    if _CONTEXT.get_start_method() == "forkserver":
        _CONTEXT.set_forkserver_preload(["keras_sharp.tuner.trial"])
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_work, args=(sender, str(log), function, arguments))
    process.start()
    sender.close()
    try:
        outcome = receiver.recv()
    except EOFError:
        outcome = None
    except BaseException:
        process.kill()
        raise
    finally:
        process.join()
    return outcome or _ended(process.exitcode, log)


def check_importable(name: str, thing: Any) -> None:
    """Checks that another process can import a function.

    Raises:
        ValueError: If it can't.
    """
    try:
        pickle.dumps(thing)
        owner = getattr(thing, "__self__", None)  # of a method, as that of a `HyperModel`
        module = getattr(thing if owner is None else type(owner), "__module__", None)
        main = sys.modules["__main__"]
        importable = module != "__main__" or hasattr(main, "__file__") or main.__spec__
    except (pickle.PicklingError, AttributeError, TypeError):
        importable = False
    if not importable:
        raise ValueError(
            f"`{name}` must be importable by other processes: a function at the top of a module, "
            f"not a lambda, nor one of a notebook. Received: {name}={thing!r}"
        )


def _ended(code: int, log: pathlib.Path) -> Outcome:
    if code < 0:
        kind: Kind = "killed" if -code in _KILLED else "failed"
        name = signal.Signals(-code).name
        return Outcome(kind, reason=f"The process was ended by {name}. See {log}")
    return Outcome(
        "failed",
        reason=(
            f"The process ended with status {code} before it was done. See {log}. A script that "
            'searches must do so under `if __name__ == "__main__":`'
        ),
    )


def _work(sender: Any, log: str, function: Callable, arguments: tuple) -> None:
    """What the process does."""
    with open(log, "a") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; we end with it
    signal.signal(signal.SIGTERM, _end)  # else `Trainer.fit` finishes its epoch first
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import tensorflow as tf

    try:
        outcome = Outcome("finished", value=function(*arguments))
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        traceback.print_exc()
        outcome = Outcome("out of memory", reason=_first_line(error))
    except Exception as error:
        traceback.print_exc()
        outcome = Outcome("failed", reason=_first_line(error))
    sys.stdout.flush()
    sender.send(outcome)
    sender.close()


def _end(number: int, frame: types.FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
