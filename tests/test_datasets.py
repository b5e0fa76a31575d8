import pathlib
import shutil
import socket
import time
import urllib.error

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf

from keras_sharp import datasets
from keras_sharp.datasets import load


@pytest.fixture(autouse=True)
def no_variable(monkeypatch, request):
    if "tfds_dir" not in request.fixturenames:
        monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


@pytest.fixture
def no_network(monkeypatch):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError(socket.gaierror("Name or service not known"))

    monkeypatch.setattr(datasets.urllib.request, "urlopen", unreachable)


def check(data):
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert x.dtype == np.float32 and y.dtype == np.int32
        assert len(x) == len(y)
        assert x.shape[1:] == data.input_shape
        assert set(np.unique(y)) == set(range(data.classes))


def test_digits_is_the_embedded_file_split_once():
    data = load("digits")
    check(data)
    assert data.name == "digits" and data.classes == 10
    assert data.x_train.shape == (1437, 64) and data.x_test.shape == (360, 64)
    assert data.x_train.min() == 0 and data.x_train.max() == 1

    # Every example once, in one of the two parts, with its label.
    x, y = sklearn.datasets.load_digits(return_X_y=True)
    both = np.vstack([data.x_train, data.x_test]) * 16
    labels = np.concatenate([data.y_train, data.y_test])
    assert sorted(map(tuple, np.column_stack([both, labels]))) == sorted(
        map(tuple, np.column_stack([x, y]))
    )
    # Stratified: each class has a fifth of its examples in the test set, up to one.
    assert np.abs(np.bincount(data.y_test) - np.bincount(y) / 5).max() <= 1

    again = load("digits")
    assert np.array_equal(again.x_test, data.x_test)


@pytest.mark.parametrize(
    ("name", "sizes", "shape"),
    [("mnist", (60_000, 10_000), (28, 28, 1)), ("cifar10", (50_000, 10_000), (32, 32, 3))],
)
def test_images(tfds_dir, name, sizes, shape):
    if not (pathlib.Path(tfds_dir) / name).is_dir():
        pytest.skip(f"TFDS_DATA_DIR holds no prepared {name}")
    data = load(name, data_dir=tfds_dir, download=False)
    check(data)
    assert (len(data.x_train), len(data.x_test)) == sizes
    assert data.input_shape == shape
    assert data.x_train.min() == 0 and data.x_train.max() == 1
    if name == "mnist":  # published statistics of the training set
        assert data.y_train.mean() == pytest.approx(4.45393, abs=1e-4)
        assert data.x_train.mean(dtype=np.float64) == pytest.approx(0.13066, abs=1e-5)
        assert data.x_train.std(dtype=np.float64) == pytest.approx(0.30811, abs=1e-5)
    else:
        assert np.bincount(data.y_train).tolist() == [5000] * 10
        mean = data.x_train.mean(axis=(0, 1, 2), dtype=np.float64)
        assert mean == pytest.approx([0.49140, 0.48216, 0.44653], abs=1e-5)


def test_the_variable_is_read_when_data_are_loaded(tfds_dir, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load("mnist", download=False)
    monkeypatch.setenv("TFDS_DATA_DIR", tfds_dir)
    assert len(load("mnist", download=False).y_test) == 10_000


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_images_that_are_not_there(name, tmp_path, no_network):
    with pytest.raises(FileNotFoundError) as error:
        load(name, data_dir=tmp_path, download=False)
    for part in (str(tmp_path), "`download` is False", f"tfds.builder('{name}'", "TFDS_DATA_DIR"):
        assert part in str(error.value)

    began = time.monotonic()
    with pytest.raises(FileNotFoundError) as error:
        load(name, data_dir=tmp_path)
    assert time.monotonic() - began < 30  # TFDS alone tries for minutes
    for part in ("Name or service not known", "download_and_prepare()", "`data_dir`"):
        assert part in str(error.value)


@pytest.mark.parametrize("trouble", [Exception("HTTP code: 503"), OSError("No space left")])
def test_images_that_a_server_does_not_give(trouble, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def fail(builder, *arguments, **keywords):
        raise trouble

    monkeypatch.setattr(datasets, "_reach", lambda address: None)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(
        FileNotFoundError, match=f"could not be downloaded \\({trouble}\\).*data_dir"
    ):
        load("cifar10", data_dir=tmp_path)


def test_images_are_downloaded_where_there_is_a_network(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    random, steps = np.random.default_rng(0), []
    splits = {
        split: (random.integers(0, 256, (n, 32, 32, 3), np.uint8), np.arange(n) % 100)
        for split, n in (("train", 200), ("test", 100))
    }

    class Builder:
        data_path = str(tmp_path / "cifar100" / "3.0.2")

        def is_prepared(self):
            return "download" in steps

        def download_and_prepare(self):
            steps.append("download")

        def as_dataset(self, *, split, batch_size, as_supervised):
            assert self.is_prepared() and (batch_size, as_supervised) == (-1, True)
            return tuple(map(tf.constant, splits[split]))

    def builder(name, *, data_dir, try_gcs):
        assert (name, data_dir, try_gcs) == ("cifar100", tmp_path, False)
        return Builder()

    monkeypatch.setattr(tfds, "builder", builder)
    monkeypatch.setattr(datasets, "_reach", steps.append)
    for _ in range(2):  # the second time they are there
        data = load("cifar100", data_dir=tmp_path)
        assert steps == [datasets._SOURCES["cifar100"], "download"]
    check(data)
    assert data.classes == 100 and data.input_shape == (32, 32, 3)
    for x, y, split in (
        (data.x_train, data.y_train, "train"),
        (data.x_test, data.y_test, "test"),
    ):
        np.testing.assert_allclose(x, splits[split][0] / 255, rtol=1e-6)
        np.testing.assert_array_equal(y, splits[split][1])


def test_prepared_images_that_are_damaged(tfds_dir, tmp_path):
    shutil.copytree(pathlib.Path(tfds_dir) / "mnist", tmp_path / "mnist")
    (shard,) = (tmp_path / "mnist").rglob("*train.tfrecord*")
    shard.chmod(0o600)
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(ValueError, match="prepared mnist in .* is damaged .* Delete that folder"):
        load("mnist", data_dir=tmp_path)


def test_a_host_that_answers_with_an_error_is_there(monkeypatch):
    def refused(request, timeout):
        raise urllib.error.HTTPError(request.full_url, 403, "Forbidden", None, None)

    monkeypatch.setattr(datasets.urllib.request, "urlopen", refused)
    datasets._reach("https://example.org")


def timit_arrays(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 360)).astype("float32"), rng.integers(0, 1973, n)


def test_timit_from_one_file(tmp_path):
    x, y = timit_arrays(7)
    x_test, y_test = timit_arrays(3, seed=1)
    file = tmp_path / "timit.npz"
    np.savez(file, x=x, y=y, x_test=x_test, y_test=y_test)
    for place in (file, tmp_path, str(file)):
        data = load("timit", data_dir=place)
        assert np.array_equal(data.x_train, x) and np.array_equal(data.y_train, y)
        assert np.array_equal(data.x_test, x_test) and np.array_equal(data.y_test, y_test)
        assert data.y_train.dtype == np.int32
        assert data.classes == 1973 and data.input_shape == (360,)


def test_timit_from_shards_in_the_order_of_their_names(tmp_path, monkeypatch):
    folder = tmp_path / "timit"
    folder.mkdir()
    x, y = timit_arrays(9)
    for shard, part in (("train-1", slice(4, 6)), ("train-0", slice(0, 4)), ("test", slice(6, 9))):
        np.savez(folder / f"{shard}.npz", x=x[part], y=y[part])
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for place in (folder, tmp_path, None):
        data = load("timit", data_dir=place)
        assert np.array_equal(data.x_train, x[:6]) and np.array_equal(data.y_train, y[:6])
        assert np.array_equal(data.x_test, x[6:]) and np.array_equal(data.y_test, y[6:])


def test_timit_that_is_not_there(tmp_path):
    form = r"x \(N, 360\) float32 and y \(N,\) int"
    with pytest.raises(FileNotFoundError, match=form):
        load("timit")
    with pytest.raises(FileNotFoundError, match=rf"no file .*elsewhere\.npz\. .*{form}"):
        load("timit", data_dir=tmp_path / "elsewhere.npz")
    with pytest.raises(FileNotFoundError, match=r"no train\*\.npz and no test\*\.npz"):
        load("timit", data_dir=tmp_path)
    x, y = timit_arrays(2)
    np.savez(tmp_path / "train.npz", x=x, y=y)
    with pytest.raises(FileNotFoundError, match=r"and no test\*\.npz"):
        load("timit", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:, :5], y), r"`x` must be \(N, 360\), N > 0\. Received: x.shape=\(4, 5\)"),
        (lambda x, y: (x[:0], y[:0]), r"N > 0\. Received: x.shape=\(0, 360\)"),
        (lambda x, y: (x.astype(int), y), r"`x` must be float32\. Received: x.dtype=int64"),
        (lambda x, y: (x, y[:2]), r"`y` must be \(N,\) .*y.shape=\(2,\), x.shape=\(4, 360\)"),
        (lambda x, y: (x, y[:, None]), r"`y` must be \(N,\) .*y.shape=\(4, 1\)"),
        (lambda x, y: (x, y * 1.0), r"`y` must be integers\. Received: y.dtype=float64"),
        (lambda x, y: (x * np.float32("nan"), y), r"`x` must be finite"),
        (lambda x, y: (x, y * 0 - 1), r"`y` must be labels 0 to 1972\. Received: -1 to -1"),
        (lambda x, y: (x, y * 0 + 1973), r"labels 0 to 1972\. Received: 1973 to 1973"),
        (lambda x, y: (x.astype(object), y), r"could not be read"),
    ],
)
def test_timit_of_another_form(change, message, tmp_path):
    x, y = change(*timit_arrays(4))
    np.savez(tmp_path / "timit.npz", x=x, y=y, x_test=x, y_test=y)
    with pytest.raises(ValueError, match=message):
        load("timit", data_dir=tmp_path)


def test_timit_files_that_cannot_be_read(tmp_path):
    x, y = timit_arrays(2)
    file = tmp_path / "timit.npz"
    np.savez(file, x=x, y=y)
    with pytest.raises(ValueError, match="arrays x_test and y_test are needed"):
        load("timit", data_dir=file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="could not be read"):
        load("timit", data_dir=file)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="could not be read"):
        load("timit", data_dir=file)


def test_unknown_name():
    with pytest.raises(ValueError, match="`name` must be one of digits, .* name='imagenet'"):
        load("imagenet")
