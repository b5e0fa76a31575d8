"""The record of a training that may be stopped, and gone on with."""

import json
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_sharp.hashing import ArrayHash, joint_hash
from keras_sharp.training import checkpoint
from keras_sharp.training.callbacks import get_states, set_states
from keras_sharp.workers import Workers


class Record:
    """What a training has reached, in its model, callbacks and History, and in a file.

    Args:
        path: The file. None: nothing is read or written.
        model: A built and compiled model whose `history` is that of the training.
        settings: What a training must have in common with the one it goes on with.
        parts: Callbacks and whatever else may have a state.
        workers: Who trains together. The chief alone reads and writes the file.

    Attributes:
        epoch: Number of epochs finished.
        batch_losses: `(steps,)` float32, of the last of them.
        stopped: Whether a callback had asked to stop after them.

    Raises:
        ValueError: If the file is damaged or of another training, or if nothing can be written to
            its folder.
    """

    def __init__(
        self,
        path: str | os.PathLike | None,
        model: keras.Model,
        settings: dict[str, Any],
        parts: list[Any],
        workers: Workers,
    ):
        self.epoch, self.stopped = 0, False
        self.batch_losses = np.zeros(0, np.float32)
        self._path = path = None if path is None else os.fspath(path)
        self._model = model
        self._variables = [*model.variables, *model.optimizer.variables]
        # As they are read back: JSON makes lists of tuples.
        self._settings = json.loads(
            json.dumps(settings, default=lambda thing: type(thing).__name__)
        )
        self._parts = parts
        self._workers = workers
        self._values: list[np.ndarray] = []
        self._state: dict[str, Any] = {}
        if path is not None and workers.from_chief("checkpoint", lambda: _exists(path)):
            shapes = [tuple(v.shape) for v in self._variables]
            content = None
            if workers.count > 1:  # the others may not have the file
                content = workers.from_chief("content", pathlib.Path(path).read_bytes)
            self._values, self._state = checkpoint.load(path, shapes, content)
            self._check_settings(self._state["settings"])
            self.epoch, self.stopped = self._state["epoch"], self._state["stopped"]
            self.batch_losses = self._state["batch_losses"]

    def is_complete(self, epochs: int) -> bool:
        """Whether nothing is left to do of a training of `epochs` epochs.

        Raises:
            ValueError: If it has gone further than that.
        """
        if self.epoch > epochs:
            raise ValueError(
                f"`epochs` must be at least the number finished in {self._path!r}, {self.epoch}. "
                f"Received: epochs={epochs}. It is the number of all epochs, those before a stop "
                "included; move the file away to train from the beginning."
            )
        ended = self._state.get("returned") is not None
        return ended and (self.stopped or self.epoch == epochs)

    def restore_variables(self, returned: bool = False) -> None:
        """Sets the variables to what they were after the last epoch, or when `fit` returned.

        Raises:
            ValueError: If the workers begin with variables that differ.
        """
        if self._state:
            # Only variables that callbacks changed at the very end are stored twice.
            changed = dict(self._state["returned"]) if returned else {}
            for i, variable in enumerate(self._variables):
                variable.assign(changed.get(i, self._values[i]))
        self._check_same(lambda: [v.numpy() for v in self._variables])

    def restore_history(self) -> None:
        """Sets the History to what it was after the last epoch."""
        if self._state:
            self._model.history.history = self._state["history"]
            self._model.history.epoch = self._state["epochs"]

    def restore_parts(self) -> None:
        """Gives callbacks their states, after they were told that the training begins."""
        if self._state:
            set_states(self._parts, self._state["parts"])

    def save(self, epoch: int, batch_losses: np.ndarray) -> None:
        """Writes the file, after the callbacks were told that an epoch has ended.

        Args:
            epoch: Number of epochs finished.
            batch_losses: Of the last of them.

        Raises:
            ValueError: If the variables of the workers differ; the file stays as it was.
        """
        self.epoch, self.batch_losses = epoch, batch_losses
        self.stopped = bool(self._model.stop_training)
        if self._path is None:
            return
        self._values = [v.numpy() for v in self._variables]
        self._check_same(lambda: self._values)
        self._state = {
            "settings": self._settings,
            "epoch": epoch,
            "batch_losses": batch_losses,
            "stopped": self.stopped,
            "history": self._model.history.history,
            "epochs": self._model.history.epoch,
            "parts": get_states(self._parts),
            "returned": None,
        }
        self._write()

    def end(self) -> None:
        """Notes in the file that `fit` returns, and the variables that callbacks changed for it."""
        if self._path is None or not self._state:
            return
        values = [v.numpy() for v in self._variables]
        self._state["returned"] = [
            [i, new]
            for i, (new, old) in enumerate(zip(values, self._values, strict=True))
            if new.tobytes() != old.tobytes()
        ]
        self._write()

    def last_logs(self) -> dict[str, Any] | None:
        """Returns the logs of the last epoch finished."""
        if not self._state:
            return None
        return {name: values[-1] for name, values in self._state["history"].items()}

    def _write(self) -> None:
        self._workers.from_chief(
            "writing", lambda: checkpoint.save(self._path, self._values, self._state)
        )

    def _check_same(self, values: Callable[[], list[np.ndarray]]) -> None:
        self._workers.check_same(
            "The variables of model and optimizer",
            lambda: joint_hash([ArrayHash(np.atleast_1d(value)) for value in values()]),
            "Load or change them on all workers, in callbacks too, not on the chief alone.",
        )

    def _check_settings(self, stored: dict[str, Any]) -> None:
        then, now = _flat(stored), _flat(self._settings)
        for name in now | then:
            if now.get(name) != then.get(name):
                what = "other data, by their hashes " if name.endswith("arrays") else ""
                raise ValueError(
                    "`checkpoint` must be of a training with the same settings. "
                    f"{self._path!r} has {what}{name}={then.get(name)}. Received: "
                    f"{name}={now.get(name)}. Move the file away to train from the beginning."
                )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the settings with dots in the names of the inner ones."""
    flat = {}
    for name, value in settings.items():
        inner = isinstance(value, dict) and value
        flat |= _flat(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return flat


def _exists(path: str) -> bool:
    """Whether there is a file, in a folder that can be written to."""
    _check_folder(path)
    return os.path.exists(path)


def _check_folder(path: str) -> None:
    folder = os.path.dirname(path) or os.curdir
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            "`checkpoint` must be in a folder that exists and can be written to. Received: "
            f"checkpoint={path!r} ({error.strerror})"
        ) from error
