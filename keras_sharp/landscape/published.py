"""The curves that Keskar et al. published as Figure 3."""

import csv
import importlib.resources
from typing import NamedTuple

import numpy as np

NETWORKS = ("C1", "C2", "C3", "C4")


class PublishedPath(NamedTuple):
    """Loss and accuracy along a published path, 25 points; `plots.path` draws it.

    Attributes:
        alphas: `(25,)`, 0 at the small-batch solution and 1 at the large-batch one.
        train_loss: `(25,)`.
        train_accuracy: `(25,)`, 0 to 1.
        test_loss: `(25,)`.
        test_accuracy: `(25,)`, 0 to 1.
    """

    alphas: np.ndarray
    train_loss: np.ndarray
    train_accuracy: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray


def published_path(network: str) -> PublishedPath:
    """Returns the authors' own parametric plot between a small-batch and a large-batch solution.

    Args:
        network: "C1", "C2", "C3" or "C4": the networks whose figures are in their repository.

    Raises:
        ValueError: For another network.

    References:
        - https://github.com/keskarnitish/large-batch-training, Figures/C1.pdf to C4.pdf, of which
          these are the vector paths.
    """
    if network not in NETWORKS:
        raise ValueError(f"`network` must be one of {list(NETWORKS)}. Received: {network!r}")
    file = importlib.resources.files("keras_sharp.landscape") / "published.csv"
    with file.open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["network"] == network]

    def column(name: str) -> np.ndarray:
        return np.array([float(row[name]) for row in rows])

    return PublishedPath(
        alphas=column("alpha"),
        train_loss=column("train_loss"),
        train_accuracy=column("train_accuracy") / 100,
        test_loss=column("test_loss"),
        test_accuracy=column("test_accuracy") / 100,
    )
