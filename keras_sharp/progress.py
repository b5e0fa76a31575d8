"""Keras's progress bar, shown only when there is something to wait for."""

import time
from types import TracebackType
from typing import Self

import keras

_PATIENCE_SECONDS = 2.0


class Progress:
    """A progress bar over a known number of iterations, with numbers beside it.

    Args:
        name: What is going on; printed once before the bar.
        target: Number of iterations.
        verbose: `"auto"` shows the bar once two seconds have passed, 1 at once, 0 never.
    """

    def __init__(self, name: str, target: int, verbose: str | int):
        self._name = name
        self._target = target
        self._wait = {"auto": _PATIENCE_SECONDS, 0: float("inf"), 1: 0.0}[verbose]
        self._started = time.perf_counter()
        self._bar: keras.utils.Progbar | None = None
        self._done = 0
        self._values: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            finished = None if kind is not None else True
            self._bar.update(self._done, list(self._values.items()), finalize=finished)
            if kind is not None or self._done < self._target:
                print()

    def note(self, **values: float) -> None:
        """Takes numbers to show beside the bar."""
        self._values.update(values)
        self._show()

    def update(self, done: int) -> None:
        """Takes the number of iterations done."""
        self._done = done
        self._show()

    def _show(self) -> None:
        if time.perf_counter() - self._started < self._wait:
            return
        if self._bar is None:
            print(self._name)
            self._bar = keras.utils.Progbar(
                self._target, unit_name="iteration", stateful_metrics=list(self._values)
            )
        self._bar.update(self._done, list(self._values.items()), finalize=False)
