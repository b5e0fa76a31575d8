"""The processes that train or measure one model together."""

import contextlib
import math
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context as tf_context

# What a collective fails with once a worker is gone, or was started again.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.DeadlineExceededError,
    tf.errors.CancelledError,
    tf.errors.FailedPreconditionError,
)


class WorkersError(RuntimeError):
    """The workers can't go on together."""


class WorkerLostError(WorkersError):
    """Another worker has died or hangs."""


class _Watch:
    """A thread that ends the wait of this process for the others when it takes too long.

    Time limits of the collectives themselves would do, but each leaves threads asleep until its
    limit, however soon it is done.
    """

    def __init__(self):
        self._wait = math.inf, ""
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def waiting(self, seconds: float, text: str) -> Iterator[None]:
        """Makes collectives fail with a text if it stays open for more than some seconds."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()
        self._wait = time.monotonic() + seconds, text
        try:
            yield
        finally:
            self._wait = math.inf, ""

    def _look(self) -> None:
        deadline = math.inf
        while time.monotonic() < deadline:
            time.sleep(1)
            deadline, text = self._wait
        # TensorFlow has no public name for it. All later collectives fail, too.
        tf_context.context().abort_collective_ops(tf.errors.DEADLINE_EXCEEDED, text)


_watch = _Watch()


class Workers:
    """The workers of a strategy: processes that run the same program on the same data.

    Under `tf.distribute.MultiWorkerMirroredStrategy` there are several, else there is this process
    alone, and nothing is exchanged. What is exchanged must be asked for by all, in the same order:
    TensorFlow counts the exchanges, and joins the first of one worker with the first of another,
    whatever they are for. So each says what it is for.

    Args:
        strategy: The strategy.
        patience: Seconds to wait for the others before one counts as hanging. None: for ever.

    Attributes:
        count: Number of workers.
        index: Number of this one.
        is_chief: Whether it is the first, which alone writes files.
    """

    def __init__(self, strategy: tf.distribute.Strategy, patience: float | None = None):
        self.count, self.index = 1, 0
        self._strategy = strategy
        self._patience = patience
        replicas = strategy.num_replicas_in_sync
        if replicas > 1:
            here = len(strategy.extended.worker_devices)
            self.count = replicas // here
        if self.count > 1:
            ids = strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(context.replica_id_in_sync_group)
            )
            self._first = int(strategy.experimental_local_results(ids)[0])
            self.index = self._first // here
        self.is_chief = self.index == 0

    def gather(self, what: str, value: Any) -> list[Any]:
        """Returns the values of all workers, in their order, bit by bit.

        Args:
            what: What the values are, the same on all workers.
            value: Anything that can be pickled.

        Raises:
            WorkersError: On every worker, if another one is elsewhere in the program.
        """
        if self.count == 1:
            return [value]
        with self.waiting(what):
            names, values = zip(*self._gather((what, value)), strict=True)
        if len(set(names)) > 1:
            given = ", ".join(f"{name} on worker {index}" for index, name in enumerate(names))
            raise WorkersError(
                "All workers must run the same program: fit, evaluate and measure the same in the "
                "same order, and whatever fails must fail on all. Start all of them again. "
                f"Received: {given}"
            )
        return list(values)

    def _gather(self, value: Any) -> list[Any]:
        content = pickle.dumps(value)
        words = np.frombuffer(content + bytes(-len(content) % 8), np.int64)
        sizes = np.zeros(self.count, np.int64)
        sizes[self.index] = len(words)
        ends = np.cumsum(self._sum(sizes))
        joint = np.zeros(ends[-1], np.int64)
        joint[ends[self.index] - len(words) : ends[self.index]] = words
        return [pickle.loads(part.tobytes()) for part in np.split(self._sum(joint), ends[:-1])]

    def any(self, what: str, flag: bool) -> bool:
        """Whether the flag is true on some worker."""
        return any(self.gather(what, bool(flag)))

    def from_chief(self, what: str, function: Callable[[], Any]) -> Any:
        """Returns what `function()` returns on the chief, where alone it is called.

        No worker goes on before it is done, so it may write files, too.

        Raises:
            Exception: On the chief what the function raises; on the others a `ValueError` if that
                is one, else a `RuntimeError`.
        """
        if self.count == 1:
            return function()
        result, error = None, None
        if self.is_chief:
            try:
                result = function()
            except Exception as raised:
                error = raised
        wrong_value = isinstance(error, ValueError)
        problem = f"{type(error).__name__} on worker 0: {error}" if error else None
        result, problem, wrong_value = self.gather(what, (result, problem, wrong_value))[0]
        if error is not None:
            raise error
        if problem is not None:
            raise (ValueError if wrong_value else RuntimeError)(problem)
        return result

    def check_same(self, what: str, describe: Callable[[], Any], remedy: str) -> None:
        """Checks that all workers have the same.

        Args:
            what: What is checked, for the message.
            describe: `describe()` returns something that tells one from another.
            remedy: What to do, a sentence.

        Raises:
            ValueError: On every worker, if they have not.
        """
        if self.count == 1:
            return
        given = self.gather(what, describe())
        others = [index for index, each in enumerate(given) if each != given[0]]
        if others:
            raise ValueError(
                f"{what} must be the same on every worker. {remedy} Received: others on worker "
                f"{', '.join(map(str, others))} than on worker 0"
            )

    @contextlib.contextmanager
    def waiting(self, what: str, least: float = 0.0) -> Iterator[None]:
        """Makes collectives fail if it stays open for longer than the patience.

        Args:
            what: What the workers do meanwhile, for the message.
            least: Seconds that it may take in any case.
        """
        if self.count == 1 or self._patience is None:
            yield
            return
        seconds = max(self._patience, least)
        text = (
            f"worker {self.index} waited {seconds:.0f} s for the others at {what!r}. If one of "
            "them works for so long alone, as a callback of the chief may, raise `patience`."
        )
        with _watch.waiting(seconds, text):
            yield

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Makes what TensorFlow raises when a worker is gone an error that says what to do.

        Raises:
            WorkerLostError: Instead of the error of a collective that failed.
        """
        try:
            yield
        except _LOST as error:
            if self.count == 1:
                raise
            raise WorkerLostError(
                f"Worker {self.index} of {self.count} stops, since another one has died or hangs, "
                "or its own data failed. Start all of them again with the same program: with "
                "`checkpoint` a training goes on from its last finished epoch. Received: "
                f"{type(error).__name__}: {error.message}"
            ) from error

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """Returns the sum over workers of arrays of the same shape."""

        def part(context):
            mine = context.replica_id_in_sync_group == self._first
            return tf.constant(values if mine else np.zeros_like(values))

        with self.watched():
            parts = self._strategy.experimental_distribute_values_from_function(part)
            return self._strategy.reduce("SUM", parts, axis=None).numpy()
