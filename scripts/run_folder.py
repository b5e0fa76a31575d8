"""A folder in which an experiment keeps its pieces of work, each written whole or not at all."""

import contextlib
import datetime
import json
import os
import pathlib
import platform
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import scipy
import tensorflow as tf

import keras_sharp

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def locked(root: pathlib.Path) -> Iterator[None]:
    """Makes a folder, and keeps other runs out of it; however a run ends, the system unlocks it.

    Raises:
        SystemExit: If the folder cannot be made or written, or another run is at work in it.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = open(root / ".lock", "w")
    except OSError as error:
        reason = "it is a file" if root.is_file() else error.strerror
        raise SystemExit(
            f"{root} cannot be used as the output folder: {reason}. Choose another with --output."
        ) from error
    with lock:
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SystemExit(
                f"Another run is at work in {root}. Let it end, or choose another folder with "
                "--output."
            ) from error
        yield


class RunFolder:
    """Where everything finished is kept, and what it was made with.

    Args:
        root: The folder.
        training: Settings that decide the trained weights. A folder in which something is kept
            holds one choice of them.
        details: More to write down beside them the first time.

    Attributes:
        remarks: Sentences about what has changed since the folder was begun.
        hardware: What it was begun on.

    Raises:
        SystemExit: If the folder holds results of other settings; the message names the difference.
    """

    def __init__(self, root: pathlib.Path, training: dict[str, Any], details: dict[str, Any]):
        self.root = root
        self.remarks: list[str] = []
        file = root / "config.json"
        now = {"versions": versions(), "hardware": hardware()}
        self.hardware = now["hardware"]
        if not any(root.glob("*/trial-*/*")):  # a run that came to nothing claims nothing
            began = datetime.datetime.now().isoformat(timespec="seconds")
            write(
                file, json.dumps({"training": training, **details, **now, "began": began}, indent=2)
            )
            return
        another = "Choose another folder with --output, or "
        try:
            found = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise SystemExit(
                f"{root} holds results, but {file.name}, which says of which settings, cannot be "
                f"read ({error}). {another}put it back."
            ) from error
        before = found.get("training", {})
        changes = [
            f"{name} was {before.get(name)!r} and is now {value!r}"
            for name, value in training.items()
            if before.get(name) != value
        ]
        if changes:
            raise SystemExit(
                f"{root} holds results of other settings: {'; '.join(changes)}. "
                f"{another}the same settings again."
            )
        self.hardware = found.get("hardware", self.hardware)
        for name, value in now.items():
            if found.get(name) != value:
                self.remarks.append(f"{name} were {found.get(name)}, and are now {value}")

    def path(self, network: str, trial: int, regime: str, kind: str) -> pathlib.Path:
        """Returns the file of one piece of work."""
        return self.root / network / f"trial-{trial}" / f"{regime}.{kind}"

    def trials(self, network: str) -> list[int]:
        """Returns the numbers of the trials of which something may be kept."""
        names = [each.name for each in (self.root / network).glob("trial-*")]
        numbers = [name.removeprefix("trial-") for name in names]
        return sorted(int(number) for number in numbers if number.isdecimal())

    def is_trained(self, network: str, trial: int, regime: str) -> bool:
        """Returns whether a training is finished, and its weights are there."""
        kinds = ("training.json", "weights.h5")
        return all(self.path(network, trial, regime, kind).exists() for kind in kinds)


def read(file: pathlib.Path) -> dict[str, Any]:
    """Returns the JSON object in a file; ends the program with a remedy if there is none."""
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise SystemExit(
            f"{file} cannot be read ({error}). Delete it, and its piece of work is done again."
        ) from error


def write(file: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all, whenever the program is stopped."""
    partial = file.with_name(f"partial.{file.name}")
    partial.write_text(text, encoding="utf-8")
    _replace(partial, file)


def write_weights(file: pathlib.Path, model: keras.Model) -> None:
    """Writes all weights of a model, whole or not at all; the name must end in `.weights.h5`."""
    partial = file.with_name(f"partial.{file.name}")
    model.save_weights(partial)
    _replace(partial, file)


def write_arrays(file: pathlib.Path, arrays: list[np.ndarray]) -> None:
    """Writes arrays, whole or not at all; the name must end in `.npz`."""
    partial = file.with_name(f"partial.{file.name}")
    np.savez(partial, *arrays)
    _replace(partial, file)


def read_arrays(file: pathlib.Path) -> list[np.ndarray]:
    """Returns the arrays that `write_arrays` wrote, in their order; else ends with a remedy."""
    try:
        with open(file, "rb") as stream, np.load(stream) as arrays:
            return [arrays[f"arr_{number}"] for number in range(len(arrays.files))]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise SystemExit(
            f"{file} cannot be read ({error}). Delete it, and its training is done again."
        ) from error


def _replace(partial: pathlib.Path, file: pathlib.Path) -> None:
    """Gives a finished file its name, once all of it is on the disk."""
    with open(partial, "rb+") as stream:
        os.fsync(stream.fileno())
    os.replace(partial, file)


def versions() -> dict[str, str]:
    """Returns the versions of everything that can move a number."""
    return {
        "keras_sharp": keras_sharp.__version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "python": platform.python_version(),
    }


def hardware() -> dict[str, Any]:
    """Returns the processor's name, the number of cores we may use, and the GPUs' names."""
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            names = [each.split(":", 1)[1].strip() for each in lines if "model name" in each]
        cpu = names[0] if names else cpu
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": cpu, "cores": cores, "gpus": gpus}
