"""The data sets of Keskar et al. 2017, and one that needs no download, as arrays in memory."""

import os
import pathlib
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np

# Where TFDS downloads from. Asked first whether it can be reached, because without a network TFDS
# itself tries for more than three minutes before it says so.
_SOURCES = {
    "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "cifar100": "https://www.cs.toronto.edu/~kriz/cifar.html",
}
_CLASSES = {"digits": 10, "mnist": 10, "cifar10": 10, "cifar100": 100, "timit": 1973}
_TIMIT_FEATURES = 360
_TIMIT_FORM = (
    "TIMIT is licensed, so it must be prepared by hand: either one file timit.npz with the arrays "
    f"x (N, {_TIMIT_FEATURES}) float32 and y (N,) int for training and x_test and y_test for "
    "testing, or a folder timit of shards train*.npz and test*.npz with arrays x and y each. Pass "
    "the file or the folder it lies in as `data_dir`, or set the environment variable TFDS_DATA_DIR"
    " to that folder."
)


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in memory.

    Attributes:
        name: Its name, as `load` takes it.
        x_train: `(N, ...)` float32, training inputs.
        y_train: `(N,)` int32, training labels, `0 <= y < classes`.
        x_test: `(M, ...)` float32, test inputs.
        y_test: `(M,)` int32, test labels.
        classes: Number of classes.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.x_train.shape[1:]


def load(name: str, *, data_dir: str | os.PathLike | None = None, download: bool = True) -> Data:
    """Loads a data set, its inputs scaled to [0, 1] and not augmented.

    | name | train | test | one example | comes from |
    |---|---|---|---|---|
    | digits | 1437 | 360 | (64,) | scikit-learn's own file, a fixed stratified split |
    | mnist | 60,000 | 10,000 | (28, 28, 1) | TensorFlow Datasets |
    | cifar10, cifar100 | 50,000 | 10,000 | (32, 32, 3) | TensorFlow Datasets |
    | timit | any | any | (360,) | your own files, as they are (not scaled) |

    Args:
        name: One of the names above.
        data_dir: Folder in which TFDS keeps prepared data (one folder a data set). Defaults to the
            environment variable `TFDS_DATA_DIR` as it is now, then to TFDS's own default. For
            "timit" also the `.npz` file, or the folder of shards, itself.
        download: Whether data that are not there may be downloaded.

    Returns:
        The data.

    Raises:
        FileNotFoundError: If the data are not there and cannot be downloaded; it says what to do.
        ValueError: If there is no such data set, or if prepared files are damaged or not of the
            form above.

    Example:
        >>> load("digits").x_train.shape
        (1437, 64)
    """
    if name not in _CLASSES:
        raise ValueError(f"`name` must be one of {', '.join(_CLASSES)}. Received: name={name!r}")
    folder = data_dir or os.environ.get("TFDS_DATA_DIR")
    path = pathlib.Path(folder).expanduser() if folder else None
    if name == "digits":
        arrays = _digits()
    elif name == "timit":
        arrays = _timit(path)
    else:
        arrays = _images(name, path, download)
    return Data(name, *arrays, classes=_CLASSES[name])


def _digits() -> list[np.ndarray]:
    """Returns training inputs and labels and test inputs and labels, as all functions below."""
    # Imported here: `import keras_sharp` needs none of it.
    import sklearn.datasets
    import sklearn.model_selection

    x, y = sklearn.datasets.load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = sklearn.model_selection.train_test_split(
        np.float32(x / 16), np.int32(y), test_size=0.2, random_state=0, stratify=y
    )
    return [x_train, y_train, x_test, y_test]


def _images(name: str, folder: pathlib.Path | None, download: bool) -> list[np.ndarray]:
    """Returns a data set of TFDS, prepared first if it must and may be."""
    # Imported here: it takes a second, and digits needs none of it.
    import tensorflow as tf
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=folder, try_gcs=False)
    if not builder.is_prepared():
        # `data_path` ends in <name>/<version>.
        _prepare(builder, name, pathlib.Path(builder.data_path).parents[1], download)
    arrays = []
    for split in ("train", "test"):
        # One batch of everything: decoded by TensorFlow in parallel, no Python per image.
        try:
            images, labels = builder.as_dataset(split=split, batch_size=-1, as_supervised=True)
        except tf.errors.OpError as error:
            raise ValueError(
                f"The prepared {name} in {builder.data_path} is damaged ({error}). Delete that "
                "folder and load it again."
            ) from error
        arrays += [np.divide(images.numpy(), 255, dtype=np.float32), np.int32(labels.numpy())]
    return arrays


def _prepare(builder: Any, name: str, folder: pathlib.Path, download: bool) -> None:
    """Downloads and prepares a data set; the error says what to do where that cannot be."""
    remedy = (
        'Prepare it where there is a network: `python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='FOLDER').download_and_prepare()\"`, bring FOLDER here, "
        "and pass it as `data_dir` or set the environment variable TFDS_DATA_DIR to it."
    )
    if not download:
        raise FileNotFoundError(
            f"There is no prepared {name} in {folder}, and `download` is False. {remedy}"
        )
    try:
        _reach(_SOURCES[name])
        builder.download_and_prepare()
    except Exception as error:  # TFDS has many of its own, for servers, checksums and archives
        raise FileNotFoundError(
            f"There is no prepared {name} in {folder}, and it could not be downloaded ({error}). "
            f"{remedy}"
        ) from error


def _reach(address: str) -> None:
    """Raises an OSError if the host does not answer."""
    request = urllib.request.Request(address, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError:
        pass  # an answer, whatever it says: the host is there


def _timit(path: pathlib.Path | None) -> list[np.ndarray]:
    """Returns TIMIT from a file or a folder of shards."""
    if path is None:
        raise FileNotFoundError(f"No place to look for timit was given. {_TIMIT_FORM}")
    if path.suffix == ".npz":
        return _timit_file(path)
    if (path / "timit.npz").is_file():
        return _timit_file(path / "timit.npz")
    folder = path / "timit" if (path / "timit").is_dir() else path
    shards = {kind: sorted(folder.glob(f"{kind}*.npz")) for kind in ("train", "test")}
    missing = [f"{kind}*.npz" for kind, files in shards.items() if not files]
    if missing:
        raise FileNotFoundError(
            f"There is no timit.npz in {path} and no {' and no '.join(missing)} in {folder}. "
            f"{_TIMIT_FORM}"
        )
    arrays = []
    for files in shards.values():
        parts = [_examples(file, "x", "y") for file in files]
        arrays += [np.concatenate(column) for column in zip(*parts, strict=True)]
    return arrays


def _timit_file(file: pathlib.Path) -> list[np.ndarray]:
    """Returns TIMIT from one file."""
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}. {_TIMIT_FORM}")
    return [*_examples(file, "x", "y"), *_examples(file, "x_test", "y_test")]


def _examples(file: pathlib.Path, x_name: str, y_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns one array of inputs and its labels, read and checked."""
    try:
        with open(file, "rb") as stream, np.load(stream) as arrays:
            x, y = arrays[x_name], arrays[y_name]
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{file} could not be read: arrays {x_name} and {y_name} are needed ({error}). "
            f"{_TIMIT_FORM}"
        ) from error
    classes = _CLASSES["timit"]
    for right, rule, got in (
        (
            x.ndim == 2 and x.shape[-1] == _TIMIT_FEATURES and len(x) > 0,
            f"`{x_name}` must be (N, {_TIMIT_FEATURES}), N > 0",
            f"{x_name}.shape={x.shape}",
        ),
        (
            np.issubdtype(x.dtype, np.floating),
            f"`{x_name}` must be float32",
            f"{x_name}.dtype={x.dtype}",
        ),
        (
            y.shape == x.shape[:1],
            f"`{y_name}` must be (N,) like `{x_name}`",
            f"{y_name}.shape={y.shape}, {x_name}.shape={x.shape}",
        ),
        (
            np.issubdtype(y.dtype, np.integer),
            f"`{y_name}` must be integers",
            f"{y_name}.dtype={y.dtype}",
        ),
    ):
        if not right:
            raise ValueError(f"{rule}. Received: {got} in {file}")
    if not np.isfinite(x).all():
        raise ValueError(f"`{x_name}` must be finite. Received: NaN or infinity in {file}")
    if y.min() < 0 or y.max() >= classes:
        raise ValueError(
            f"`{y_name}` must be labels 0 to {classes - 1}. "
            f"Received: {y.min()} to {y.max()} in {file}"
        )
    return np.float32(x), np.int32(y)
