"""Chief and workers of one search, started and kept alive."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

# The status of a command that was called in the wrong way: it would end so again.
_MISTAKE = 2

# For workers once the chief has ended, and for all once they were told to end: a training finishes
# its epoch before it does.
_GRACE_SECONDS = 60.0

_SUPERVISOR = "KERAS_SHARP_SUPERVISOR"
_SINCE = "KERAS_SHARP_SUPERVISED_SINCE"


def supervise(
    command: Sequence[str],
    ids: Sequence[str] = ("chief", "tuner0", "tuner1"),
    *,
    address: str | None = None,
    restarts: int = 10,
) -> int:
    """Runs a program that searches as keras-tuner's chief and workers, until the search is done.

    Each is a process of its own with keras-tuner's environment variables. One that dies is started
    again under its own id: the chief then hands it the trial it had, which goes on from the last
    finished epoch. Without that the chief would wait for ever. A chief is started again only where
    it was killed, and its workers with it, if they are done. All that search end with this process,
    however it ends.

    On several machines call this on each with the same address, which is the chief's, different
    ids, and a folder that all share.

    Args:
        command: Program and arguments, such as `[sys.executable, "my_search.py"]`.
        ids: Which to run here: `"chief"`, and workers by any other names.
        address: `host:port` of the chief. Defaults to a free port of this machine.
        restarts: How often each may be started again.

    Returns:
        The status of the chief, or of the first that could not be kept alive; 0 if all went well.

    Raises:
        ValueError: For no ids, the same id twice, an address without a port, or workers alone
            without an address.
    """
    if not ids or len(set(ids)) < len(ids):
        raise ValueError(f"`ids` must be some, each of them once. Received: ids={list(ids)}")
    if address is None and not any("chief" in name for name in ids):
        raise ValueError(
            "`address` must be given where the chief is elsewhere: nobody would answer at a free "
            f'port. Received: ids={list(ids)}, none of them a "chief"'
        )
    host, _, port = (address or _free_address()).rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f'`address` must be "host:port". Received: address={address!r}')

    since = time.time()

    def start(name: str) -> subprocess.Popen:
        own = {
            "KERASTUNER_ORACLE_IP": host,
            "KERASTUNER_ORACLE_PORT": port,
            "KERASTUNER_TUNER_ID": name,
            _SUPERVISOR: str(os.getpid()),
            _SINCE: str(since),
        }
        return subprocess.Popen(list(command), env=os.environ | own)

    running = {name: start(name) for name in ids}
    left = dict.fromkeys(ids, restarts)
    chief_ended = None
    try:
        while running:
            time.sleep(0.1)
            for name, process in list(running.items()):
                status = process.poll()
                if status is None:
                    continue
                del running[name]
                is_chief = "chief" in name
                # What a chief raises is the end of the search, and a mistake would be one again.
                again = status < 0 if is_chief else status not in (0, _MISTAKE)
                if again and left[name] and chief_ended is None:
                    left[name] -= 1
                    print(f"{name} ended with status {status}: started again", file=sys.stderr)
                    # A new chief hands out all work again; what is finished is only looked up.
                    for each in ids if is_chief else [name]:
                        if each not in running:
                            running[each] = start(each)
                elif status and chief_ended is None:
                    return status
                elif is_chief:
                    chief_ended = time.monotonic()
            if chief_ended and time.monotonic() - chief_ended > _GRACE_SECONDS:
                break  # there is nobody left whom the workers could ask
        return 0
    finally:
        for process in running.values():
            process.terminate()
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def end_with_supervisor() -> None:
    """Has this process end when the one that supervises it ends, even if that is killed."""
    supervisor = os.environ.get(_SUPERVISOR)
    if supervisor is None or str(os.getppid()) != supervisor:
        return  # started by hand, or by a shell in between, which is not ours to watch

    def watch() -> None:
        while str(os.getppid()) == supervisor:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def ending_with_chief(file: pathlib.Path) -> Iterator[None]:
    """Has a worker end with status 0 once its chief has ended, also one that asks too late.

    keras-tuner's client would wait an hour for an answer. A chief that has just been started again
    at the same address deletes the file, so it must be there for a while, and one from before this
    worker was supervised is of an earlier search.

    Args:
        file: Into which a chief writes its address when it ends.
    """
    over = threading.Event()

    def watch() -> None:
        since = time.monotonic()
        while not over.wait(0.5):
            if _written(file, since=float(os.environ.get(_SINCE, 0))) != chief_address():
                since = time.monotonic()
            elif time.monotonic() - since > _GRACE_SECONDS:
                print("The chief has ended, and so does this worker.", file=sys.stderr)
                os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _written(file: pathlib.Path, since: float) -> str | None:
    try:
        return json.loads(file.read_text("utf-8")) if file.stat().st_mtime >= since else None
    except FileNotFoundError:
        return None


def chief_address() -> str:
    """Returns `host:port` of the chief of this process."""
    return f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
