"""What the loop and its checkpoint must know about callbacks."""

from typing import Any

import keras
import numpy as np

from keras_sharp.training.step import figures
from keras_sharp.workers import Workers

_BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")

# They write what is the same on every worker, and decide nothing.
_WRITERS = (
    keras.callbacks.CSVLogger,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
)

# Keras has no slot for the state of a callback: these are the fields that decide what it does next.
_FIELDS = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch", "best_weights"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "cooldown_counter", "best"),
    keras.callbacks.ModelCheckpoint: ("best", "_batches_seen_since_last_saving"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
}


def of_worker(callbacks: Any, workers: Workers) -> Any:
    """Returns the callbacks that this worker runs.

    The chief alone runs those of Keras that only write, and those with a true `chief_only`.

    Raises:
        ValueError: If one can't run on several workers.
    """
    if workers.count == 1 or callbacks is None:
        return callbacks
    callbacks = [callback for callback in keras.tree.flatten(callbacks) if callback is not None]
    if any(isinstance(callback, keras.callbacks.BackupAndRestore) for callback in callbacks):
        raise ValueError(
            "`callbacks` must not hold a BackupAndRestore on several workers: each would restore "
            f"what another writes. Pass `checkpoint`. Received: {workers.count} workers"
        )
    if workers.is_chief:
        return callbacks
    return [
        callback
        for callback in callbacks
        if not (isinstance(callback, _WRITERS) or getattr(callback, "chief_only", False))
    ]


def needs_every_batch(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback must be called for each step, not just from time to time.

    A callback of one's own that overrides `on_train_batch_begin` or `on_train_batch_end` and does
    not need that sets an attribute `every_batch = False`.
    """
    if isinstance(callback, keras.callbacks.ProgbarLogger | keras.callbacks.TerminateOnNaN):
        return False
    if isinstance(callback, keras.callbacks.TensorBoard):
        by_batch = callback.update_freq != "epoch" or callback.write_steps_per_second
        return by_batch or callback._should_trace  # what Keras makes of `profile_batch`
    if isinstance(callback, keras.callbacks.ModelCheckpoint | keras.callbacks.BackupAndRestore):
        return callback.save_freq != "epoch"
    if not getattr(callback, "every_batch", True):
        return False
    own = [getattr(getattr(callback, hook), "__func__", None) for hook in _BATCH_HOOKS]
    return own != [getattr(keras.callbacks.Callback, hook) for hook in _BATCH_HOOKS]


def needs_noise(callbacks: list[keras.callbacks.Callback]) -> bool:
    """Whether steps must compute the figures of noise: a callback has a true `needs_noise`."""
    return any(getattr(callback, "needs_noise", False) for callback in callbacks)


def tell_of_steps(callbacks: list[keras.callbacks.Callback], rows: np.ndarray) -> None:
    """Tells callbacks that have a method `on_train_steps_end(figures)` of the steps of a call.

    It gets arrays with an entry for each step, by name (see `step.figures`).
    """
    for callback in callbacks:
        if hasattr(callback, "on_train_steps_end"):
            callback.on_train_steps_end(figures(rows))


def get_states(parts: list[Any]) -> list[list]:
    """Returns `[class name, state]` of each callback (or gradient rule...) whose state is known."""
    return [[type(part).__name__, _get_state(part)] for part in parts if _has_state(part)]


def set_states(parts: list[Any], states: list[list]) -> None:
    """Gives callbacks the states that `get_states` returned; a new one begins afresh."""
    left = list(states)
    for part in filter(_has_state, parts):
        found = next((entry for entry in left if entry[0] == type(part).__name__), None)
        if found is None:
            continue
        left.remove(found)
        state = found[1]
        if hasattr(part, "set_state"):
            part.set_state(state)
        else:
            vars(part).update(state)


def _has_state(part: Any) -> bool:
    return hasattr(part, "get_state") or isinstance(part, tuple(_FIELDS))


def _get_state(part: Any) -> Any:
    if hasattr(part, "get_state"):
        return part.get_state()
    fields = next(fields for kind, fields in _FIELDS.items() if isinstance(part, kind))
    return {field: getattr(part, field, None) for field in fields}
