"""The largest batch that fits into memory."""

import dataclasses
import math
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import keras
import keras_tuner
import numpy as np
import tensorflow as tf

from keras_sharp.arguments import integer, one_of, positive
from keras_sharp.measures import noise_scale
from keras_sharp.results import Result
from keras_sharp.training import Trainer
from keras_sharp.tuner.measuring import shuffled
from keras_sharp.tuner.processes import Outcome, check_importable, run
from keras_sharp.tuner.space import OPTIMIZERS, Space
from keras_sharp.tuner.trial import NAMES, Task

# Sizes closer to each other than this are not told apart: memory is not that exact.
_EXACT = 0.05

# The noise scale of initial weights says nothing; that after some training is a lower estimate.
_STEPS_BEFORE_NOISE = 50


@dataclasses.dataclass(frozen=True)
class FindBatchResult(Result):
    """The largest batch that fits, and how it was found.

    Attributes:
        batch_size: The largest batch, less the margin. None: not even one example fits.
        status: A sentence.
        ceiling: Largest batch that was asked for.
        margin: Share that is kept free: of the memory where its size is known, else of the batch.
        memory: Bytes there are, or None where it is not known, as for a GPU.
        tried: Batch sizes in the order in which they were tried, with the highest use of memory in
            bytes, or None for those that did not fit.
        noise_scale: After a few steps, in examples: a lower estimate of the batch beyond which
            examples are wasted. None where it could not be measured.
        noise_status: What is to be known of it, or why there is none.
    """

    batch_size: int | None
    status: str
    ceiling: int
    margin: float
    memory: int | None
    tried: list[list[int | None]]
    noise_scale: float | None
    noise_status: str

    def __int__(self) -> int:
        if self.batch_size is None:
            raise ValueError(self.status)
        return self.batch_size


def find_batch(
    build: str | Callable = "small",
    data: str | tuple | Callable = "digits",
    *,
    ceiling: int | None = None,
    margin: float = 0.1,
    memory: int | None = None,
    optimizer: str = "sgd",
    strategy: Callable | None = None,
    data_dir: str | None = None,
) -> FindBatchResult:
    """Returns the largest batch that trains without `micro_batch`.

    Batches are doubled, then halved in between; each is two steps in a process of its own, with all
    the data at hand, as in a training.
    On a GPU one that is too large ends its process, and no harm is done. On a CPU it might end
    another program: there a batch is not tried if a straight line through the two before it says
    that it would not fit.

    Args:
        build: As in `search`.
        data: As in `search`.
        ceiling: Largest batch of interest. Defaults to the number of training examples.
        margin: Share to keep free, at least 0 and less than 1.
        memory: Bytes that may be used. Defaults, on a CPU, to what is free now.
        optimizer: As in `search`: `"sgd"` keeps one number for each weight, `"adam"` two.
        strategy: As in `search`.
        data_dir: Where named data are.

    Raises:
        ValueError: For arguments of no use.
        RuntimeError: If a step fails for another reason than memory.

    Example:
    ```python
    largest = keras_sharp.tuner.find_batch("small", "digits", ceiling=512)
    print(largest.batch_size, largest.status, largest.noise_scale)
    ```
    """
    if not 0 <= margin < 1:
        raise ValueError(f"`margin` must be at least 0 and less than 1. Received: margin={margin}")
    if memory is not None:
        memory = int(positive("memory", memory))
    if ceiling is not None:
        ceiling = integer("ceiling", ceiling)
    one_of("optimizer", optimizer, tuple(OPTIMIZERS))
    if isinstance(build, str):
        one_of("build", build, NAMES)
    for name, thing in (("build", build), ("data", data), ("strategy", strategy)):
        if callable(thing):
            check_importable(name, thing)
    task = Task("", build, data, Space(), 1, None, (0,), False, strategy, data_dir)
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder) / "log.txt"

        def process(function: Callable, *arguments: Any) -> Outcome:
            outcome = run(function, task, *arguments, log=log)
            if outcome.kind == "failed":
                raise RuntimeError(f"A step has failed: {outcome.reason}\n{log.read_text()}")
            return outcome

        examples, on_cpu = process(look).value
        if memory is None and on_cpu:
            memory = free_memory()
        ceiling = examples if ceiling is None else ceiling
        search = _Doubling(
            lambda size: process(try_batch, size, optimizer), ceiling, margin, memory
        )
        batch_size, status = search.find()
        noise = None, "No batch fits, so it was not measured."
        if batch_size is not None:
            # Whatever becomes of it, the batch that was found is not lost.
            outcome = run(measure_noise, task, min(batch_size, examples), log=log)
            noise = outcome.value if outcome.kind == "finished" else (None, outcome.reason)
    tried = [list(each) for each in search.tried]
    return FindBatchResult(batch_size, status, ceiling, margin, memory, tried, *noise)


class _Doubling:
    """Finds the largest size that fits.

    Args:
        attempt: Tries a size; the outcome's value is the highest use of memory in bytes.
        ceiling: Largest size.
        margin: Share to keep free.
        memory: Bytes there are, or None.
    """

    def __init__(
        self, attempt: Callable[[int], Outcome], ceiling: int, margin: float, memory: int | None
    ):
        self.attempt, self.ceiling, self.margin, self.memory = attempt, ceiling, margin, memory
        self.tried: list[tuple[int, int | None]] = []

    def find(self) -> tuple[int | None, str]:
        """Returns the size, or None, and a sentence."""
        top = self.ceiling
        if self.memory is None:  # only a batch larger by the margin can show that it is kept
            top = math.ceil(top / (1 - self.margin))
        size, fits, too_large = 1, 0, top + 1
        while size < too_large:
            if self._fits(size):
                fits, size = size, min(2 * size, top)
                if fits == top:
                    return self.ceiling, f"The ceiling of {self.ceiling} fits, with the margin."
            else:
                too_large = size
        if not fits:
            return None, "Not even a batch of one example fits. Try a smaller model."
        while too_large - fits > max(1, _EXACT * fits):
            middle = (fits + too_large) // 2
            if self._fits(middle):
                fits = middle
            else:
                too_large = middle
        if self.memory is None:
            kept = min(self.ceiling, max(1, int(fits * (1 - self.margin))))
            return kept, f"{fits} fits and {too_large} does not; {kept} leaves the margin."
        return fits, f"{fits} leaves the margin free, {too_large} would not."

    def _fits(self, size: int) -> bool:
        limit = None if self.memory is None else self.memory * (1 - self.margin)
        used = [(n, bytes_) for n, bytes_ in self.tried if bytes_ is not None][-2:]
        if limit is not None and len(used) == 2:
            (n0, b0), (n1, b1) = used
            if b1 + (b1 - b0) / (n1 - n0) * (size - n1) > limit:
                self.tried.append((size, None))
                return False
        outcome = self.attempt(size)
        within = outcome.kind == "finished" and (limit is None or outcome.value <= limit)
        self.tried.append((size, outcome.value if within else None))
        return within


def look(task: Task) -> tuple[int, bool]:
    """Returns the number of training examples, and whether training is on a CPU."""
    return task.splits().examples, not tf.config.list_physical_devices("GPU")


def try_batch(task: Task, size: int, optimizer: str) -> int:
    """Takes two steps with batches of one size. Returns the highest use of memory in bytes."""
    _train(task, size, 2, optimizer)
    if tf.config.list_physical_devices("GPU"):
        devices = [each.name for each in tf.config.list_logical_devices("GPU")]
        return max(
            tf.config.experimental.get_memory_info(name.removeprefix("/device:"))["peak"]
            for name in devices
        )
    import resource  # not there on Windows, and of no use for GPUs

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure_noise(task: Task, size: int) -> tuple[float | None, str]:
    """Returns the noise scale after some steps with batches that fit, and a sentence."""
    size = min(size, 64)
    model, pair = _train(task, size, _STEPS_BEFORE_NOISE, "sgd")
    at_once = max(1, min(size, len(pair[0]) // 4))
    result = noise_scale(
        model, shuffled(pair, 0), batch_norm="batch", batch_size=at_once, verbose=0
    )
    return result.value, result.status


def free_memory() -> int | None:
    """Returns the bytes that are free now, inside the limit of a container; None: not known."""
    known = []
    try:
        for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                known.append(1024 * int(line.split()[1]))
        group = pathlib.Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        known.append(limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # another system, or no limit
    if not known and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(known) if known else None


def _train(
    task: Task, size: int, steps: int, optimizer: str
) -> tuple[keras.Model, tuple[np.ndarray, np.ndarray]]:
    """Takes so many steps. Returns the model and the training data."""
    splits = task.splits()
    keras.utils.set_random_seed(0)
    with task.make_strategy().scope():
        model = task.make_model(keras_tuner.HyperParameters(), splits)
        make, rates = OPTIMIZERS[optimizer]
        rule = make(min(rates) / 3)
    # All the data, for they lie on the device, too. A batch larger than they are repeats some.
    rows = np.arange(max(size, splits.examples)) % splits.examples
    pair = splits.train if size <= splits.examples else tuple(a[rows] for a in splits.train)
    Trainer(model, rule, model.loss).fit(
        pair, batch_size=size, epochs=steps, callbacks=[_Stop(steps)], verbose=0
    )
    return model, splits.train


class _Stop(keras.callbacks.Callback):
    """Ends a training after so many steps."""

    def __init__(self, steps: int):
        super().__init__()
        self._left = steps

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._left -= 1
        if not self._left:
            self.model.stop_training = True
