"""The data of a search: what is trained on, what decides, and what is looked at in the end."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_sharp import datasets
from keras_sharp.hashing import ArrayHash, joint_hash

Pair = tuple[np.ndarray, np.ndarray]

# Of the training examples of a named data set.
_HELD_OUT = 0.2


@dataclasses.dataclass(frozen=True)
class Splits:
    """Pairs of inputs and labels.

    Attributes:
        name: Of the data, for people.
        train: `(N, ...)` inputs and `(N, ...)` labels.
        validation: Those that decide which point is better.
        test: Those that decide nothing, or None.
        classes: Number of classes, where it is known.
    """

    name: str
    train: Pair
    validation: Pair
    test: Pair | None = None
    classes: int | None = None

    @property
    def examples(self) -> int:
        """Number of training examples."""
        return len(self.train[0])

    def describe(self) -> dict[str, Any]:
        """Returns numbers of examples, and a digest that tells other data from these."""
        pairs = [pair for pair in (self.train, self.validation, self.test) if pair is not None]
        return {
            "name": self.name,
            "examples": [len(x) for x, _ in pairs],
            "digest": joint_hash([ArrayHash(array) for pair in pairs for array in pair]),
        }


def load_splits(
    data: str | tuple | Callable[[], tuple],
    *,
    data_dir: str | None = None,
    limit: int | None = None,
) -> Splits:
    """Returns the splits of a named data set, of arrays, or of what a function returns.

    Args:
        data: Name for `keras_sharp.datasets.load`, whose training set then gives up a stratified
            fifth for validation. Or pairs `(x, y)` of arrays for training and validation, and a
            third for testing if there is one. Or a function that returns these.
        data_dir: Where named data are.
        limit: Keeps only so many examples of each of the named data's two sets.

    Raises:
        ValueError: If they are not pairs of arrays of one length.
    """
    if isinstance(data, str):
        return _named(data, data_dir, limit)
    name = "arrays" if isinstance(data, tuple) else getattr(data, "__name__", "function")
    pairs = data() if callable(data) else data
    try:
        pairs = [(np.asarray(x), np.asarray(y)) for x, y in pairs]
        right = len(pairs) in (2, 3) and all(len(x) == len(y) > 0 for x, y in pairs)
    except (TypeError, ValueError):
        right = False
    if not right:
        raise ValueError(
            "`data` must be two or three pairs (x, y) of arrays, each of one length: training, "
            f"validation and perhaps test. Received: {name}"
        )
    return Splits(name, *pairs)


def _named(name: str, data_dir: str | None, limit: int | None) -> Splits:
    # Imported here: only named data are split.
    import sklearn.model_selection

    data = datasets.load(name, data_dir=data_dir)
    x_train, x_validation, y_train, y_validation = sklearn.model_selection.train_test_split(
        data.x_train[:limit],
        data.y_train[:limit],
        test_size=_HELD_OUT,
        random_state=0,
        stratify=data.y_train[:limit],
    )
    return Splits(
        name,
        (x_train, y_train),
        (x_validation, y_validation),
        (data.x_test[:limit], data.y_test[:limit]),
        data.classes,
    )
