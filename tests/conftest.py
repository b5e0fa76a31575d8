"""What every test shares: four CPU devices, a quiet TensorFlow, real data where there are any."""

import os
import pathlib
from collections.abc import Callable, Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Two test processes on two cores: threads that wait for each other take forty times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# What XLA compiles here runs a few times on a few numbers: to make it fast takes longer.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

import keras
import matplotlib
import pytest
import tensorflow as tf

matplotlib.use("Agg")

# Must happen before TensorFlow creates its devices: replicas are tested on one machine.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes for whole folders, since tracing keeps one core busy; none for a few files.

    Each takes seconds to start TensorFlow and up to 4 GiB, so more of them do not pay everywhere.
    """
    folders = all(pathlib.Path(each.split("::")[0]).is_dir() for each in config.args)
    return 2 if folders else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: at the end a process would wait for the other's last."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test that fails fails again: initial weights, dropout and shuffling are the same."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def tfds_dir() -> str:
    """Folder of data prepared by TFDS; tests that need real images are skipped without one."""
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder:
        pytest.skip("TFDS_DATA_DIR is unset: no folder of prepared MNIST and CIFAR-10")
    return folder


@pytest.fixture
def replicas() -> Callable[[int], tf.distribute.Strategy]:
    """A strategy of n CPU replicas; of one: none."""

    def strategy(n):
        if n == 1:
            return tf.distribute.get_strategy()
        # TensorFlow numbers the collectives of all strategies alike: those of the next one in this
        # process would join the last one's.
        tf.distribute.MirroredStrategy._collective_key_base += 1000
        return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(n)])

    return strategy


@pytest.fixture
def float64() -> Iterator[None]:
    """Layers and losses made meanwhile compute in float64, for finite differences."""
    _set_precision("float64")
    yield
    _set_precision("float32")


def _set_precision(dtype: str) -> None:
    keras.config.set_floatx(dtype)
    # Keras keeps the policy it derived from `floatx` at its first use.
    keras.config.set_dtype_policy(dtype)
