"""A search for TensorBoard's HParams dashboard, written without a device."""

import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import summary_v2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

METRICS = (
    "validation_accuracy",
    "train_accuracy",
    "test_accuracy",
    "generalization_gap",
    "sharpness",
    "seconds",
)


def write_hparams(folder: pathlib.Path, trainings: Mapping[str, dict[str, Any]]) -> None:
    """Writes one run for each training.

    Args:
        folder: Log folder for TensorBoard; what was in it is deleted.
        trainings: Records by the names of their runs.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for name, record in trainings.items():
        writer = EventFileWriter(str(folder / name))
        hparams = record["values"] | {"seed": record["seed"], "epochs": record["epochs"]}
        writer.add_event(Event(summary=summary_v2.hparams_pb(hparams, trial_id=name)))
        measured = {metric: record[metric] for metric in METRICS if record[metric] is not None}
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in measured.items()]
        writer.add_event(Event(step=record["epochs"], summary=Summary(value=scalars)))
        writer.close()
