"""The files of a search. They alone say what is finished; each is written whole or not at all."""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from keras_sharp.tuner.space import point_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


# What a row of the table of trainings says beside the point's own values.
COLUMNS = (
    "status",
    "seed",
    "epochs",
    "whole_epochs",
    "peak_learning_rate",
    "steps",
    "seconds",
    "micro_batch",
    "replicas",
    "validation_accuracy",
    "train_accuracy",
    "test_accuracy",
    "generalization_gap",
    "validation_loss",
    "train_loss",
    "test_loss",
    "sharpness",
    "sharpness_status",
    "noise_scale",
    "noise_scale_error",
    "noise_scale_status",
)


class Records:
    """The folder of a search.

        config.json                          what is searched
        points/<point>/epochs-E.seed-S.json  a training that is finished
        points/<point>/epochs-E.failed.json  why a point has none
        points/<point>/measuring.json        how a model is measured, and what is known, meanwhile
        points/<point>/log.txt               what its processes printed
        ended.json                           address of a chief that has ended

    Args:
        root: The folder.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = pathlib.Path(root)

    def begin(self, settings: dict[str, Any], details: dict[str, Any]) -> None:
        """Makes the folder, or checks that it is of the same search.

        Args:
            settings: What decides the numbers.
            details: More to write down; those of the last call count.

        Raises:
            ValueError: If the folder is of another search; the message names the difference.
        """
        settings = json.loads(json.dumps(settings))
        with self.locked(self.root):
            if (self.root / "config.json").exists():
                before = self.config["settings"]
                changes = [
                    f"{name} was {before.get(name)!r} and is now {settings.get(name)!r}"
                    for name in sorted(before.keys() | settings.keys())
                    if before.get(name) != settings.get(name)
                ]
                if changes:
                    raise ValueError(
                        f"{self.root} holds another search: {'; '.join(changes)}. "
                        "Choose another folder, or the same settings again."
                    )
            write_json(self.root / "config.json", {"settings": settings, **details})

    @property
    def config(self) -> dict[str, Any]:
        """What `begin` wrote down.

        Raises:
            FileNotFoundError: If there is no search in the folder.
        """
        file = self.root / "config.json"
        if not file.exists():
            raise FileNotFoundError(f"There is no search in {self.root}: it has no config.json")
        return json.loads(file.read_text(encoding="utf-8"))

    def folder(self, values: dict[str, Any]) -> pathlib.Path:
        """Returns the folder of a point."""
        point = point_of(values)
        text = json.dumps(point, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        name = f"batch-{point['batch_size']}.rate-{point['learning_rate']:.3g}.{digest}"
        return self.root / "points" / name

    def file(self, values: dict[str, Any], epochs: int, seed: int) -> pathlib.Path:
        """Returns the file of a training."""
        return self.folder(values) / f"epochs-{epochs}.seed-{seed}.json"

    def of_point(
        self, values: dict[str, Any], epochs: int, seeds: list[int]
    ) -> list[dict[str, Any]]:
        """Returns the records of a point that are there."""
        files = [self.file(values, epochs, seed) for seed in seeds]
        return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]

    def finish(self, record: dict[str, Any]) -> None:
        """Writes the record of a training, after which nothing else of it is needed."""
        values, epochs, seed = record["values"], record["epochs"], record["seed"]
        self.measuring_file(values).unlink(missing_ok=True)  # first: what it knows is less
        write_json(self.file(values, epochs, seed), record)
        if epochs == record["whole_epochs"]:
            self.drop_checkpoints(values, seed)

    def drop_trainings(self, values: dict[str, Any], epochs: int) -> None:
        """Deletes the records of a point, to train it in another way."""
        for file in self.folder(values).glob(f"epochs-{epochs}.seed-*.json"):
            file.unlink(missing_ok=True)

    def failure_file(self, values: dict[str, Any], epochs: int) -> pathlib.Path:
        """Returns the file that says why a point has failed."""
        return self.folder(values) / f"epochs-{epochs}.failed.json"

    def checkpoint_file(self, values: dict[str, Any], seed: int, part: int) -> pathlib.Path:
        """Returns the file with which a training goes on that is trained in such parts."""
        return self.folder(values) / f"seed-{seed}.part-{part}.checkpoint.npz"

    def drop_checkpoints(self, values: dict[str, Any] | None = None, seed: int | str = "*") -> None:
        """Deletes the checkpoints of a training; without a point, those of all."""
        folder = "points/*" if values is None else f"points/{self.folder(values).name}"
        for file in self.root.glob(f"{folder}/seed-{seed}.*.checkpoint.npz"):
            file.unlink(missing_ok=True)

    def measuring_file(self, values: dict[str, Any]) -> pathlib.Path:
        """Returns the file that is there while a trained model is measured."""
        return self.folder(values) / "measuring.json"

    def measuring(self, values: dict[str, Any]) -> dict[str, Any]:
        """Returns what is in that file: examples measured at once, and what is known; or nothing.

        What is known is the `record`, with all but the sharpness, or None.
        """
        file = self.measuring_file(values)
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    @property
    def ended_file(self) -> pathlib.Path:
        """The file that is there once the chief has ended."""
        return self.root / "ended.json"

    def trainings(self) -> list[dict[str, Any]]:
        """Returns the records of all finished trainings, by batch size, rate and seed."""
        return sorted(self._read("epochs-*.seed-*.json"), key=_place)

    def failures(self) -> list[dict[str, Any]]:
        """Returns the points that failed, by batch size and rate."""
        return sorted(self._read("epochs-*.failed.json"), key=_place)

    def forget_failures(self) -> None:
        """Has the points that failed tried again."""
        for file in (self.root / "points").glob("*/*.failed.json"):
            file.unlink(missing_ok=True)

    def _read(self, pattern: str) -> list[dict[str, Any]]:
        files = sorted((self.root / "points").glob(f"*/{pattern}"))
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]

    @staticmethod
    @contextlib.contextmanager
    def locked(folder: pathlib.Path) -> Iterator[None]:
        """Waits until no other process is at work in a folder; it need not exist yet.

        However a process ends, the system unlocks what it had locked.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w") as lock:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _place(record: dict[str, Any]) -> tuple[Any, ...]:
    values = record["values"]
    others = json.dumps(values, sort_keys=True)
    return (
        values["batch_size"],
        values["learning_rate"],
        others,
        record["epochs"],
        record.get("seed", 0),
    )


def write_json(file: pathlib.Path, value: Any) -> None:
    """Writes a file whole or not at all, whenever the program is stopped.

    Raises:
        ValueError: If a number is NaN or infinite.
    """
    write_text(file, json.dumps(value, indent=2, allow_nan=False))


def write_text(file: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all, whenever the program is stopped."""
    partial = file.with_name(f"partial.{os.getpid()}.{file.name}")
    with open(partial, "w", encoding="utf-8", newline="") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, file)
