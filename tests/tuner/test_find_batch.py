"""The largest batch that fits: against a memory whose size and use are known."""

import sys

import numpy as np
import pytest

from keras_sharp.tuner import find_batch
from keras_sharp.tuner.processes import Outcome
from keras_sharp.tuner.space import Space
from keras_sharp.tuner.trial import Task

MODULE = sys.modules["keras_sharp.tuner.find_batch"]
BASE, EACH = 1000, 10  # bytes of a program, and of an example in a batch


@pytest.fixture
def memory(monkeypatch):
    """Stands in for processes on a device with so many bytes."""

    def use(bytes_, on_cpu=False, examples=10_000, noise=None):
        tried = []

        def run(function, task, *arguments, log):
            if function.__name__ == "look":
                return Outcome("finished", (examples, on_cpu))
            if function.__name__ == "measure_noise":
                return noise or Outcome("finished", (77.0, "Clear."))
            size, optimizer = arguments
            assert optimizer == "sgd"
            tried.append(size)
            used = BASE + EACH * size
            return Outcome("finished", used) if used <= bytes_ else Outcome("out of memory")

        monkeypatch.setattr(MODULE, "run", run)
        monkeypatch.setattr(MODULE, "free_memory", lambda: bytes_)
        return tried

    return use


def test_on_a_device_of_unknown_size_it_is_tried(memory):
    tried = memory(BASE + EACH * 700)
    found = find_batch(margin=0.1)
    largest = max(size for size, used in found.tried if used is not None)
    assert 0.95 * 700 <= largest <= 700 < max(tried)
    assert int(found) == int(0.9 * largest)
    assert found.noise_scale == 77 and found.memory is None


def test_on_a_cpu_what_would_not_fit_is_not_even_tried(memory):
    tried = memory(BASE + EACH * 700, on_cpu=True)
    found = find_batch(margin=0.1)
    allowed = (0.9 * (BASE + EACH * 700) - BASE) / EACH  # 620
    assert max(tried) <= allowed
    assert 0.95 * allowed - 1 <= int(found) <= allowed


def test_ceiling_and_floor(memory):
    tried = memory(10**9)
    # That a tenth is left free only a batch larger by it can show.
    assert int(find_batch(ceiling=100)) == 100 and max(tried) == 112
    memory(BASE + EACH * 105)
    assert 85 <= int(find_batch(ceiling=100)) <= 94
    memory(10**9, examples=48)
    assert int(find_batch()) == 48
    memory(BASE)
    found = find_batch()
    assert found.batch_size is None and "Not even" in found.status
    with pytest.raises(ValueError, match="Not even"):
        int(found)
    assert type(found).from_json(found.to_json()) == found


def test_a_noise_scale_that_fails_does_not_lose_the_batch(memory):
    memory(10**9, noise=Outcome("failed", reason="ValueError: no noise"))
    found = find_batch(ceiling=100)
    assert int(found) == 100 and found.noise_scale is None
    assert found.noise_status == "ValueError: no noise"


def test_it_trains_with_all_the_data_at_hand_and_only_so_many_steps(monkeypatch):
    seen = []

    class Watched(MODULE.Trainer):
        def fit(self, data, **arguments):
            history = super().fit(data, **arguments)
            seen.append((len(data[0]), int(self.model.optimizer.iterations.numpy())))
            return history

    monkeypatch.setattr(MODULE, "Trainer", Watched)
    x, y = np.zeros((6, 2), "float32"), np.array([0, 1, 2] * 2)
    task = Task("", "small", ((x, y), (x, y)), Space(), 1, None, (0,), False, None)
    MODULE.try_batch(task, 2, "adam")
    MODULE.try_batch(task, 8, "sgd")
    assert seen == [(6, 2), (8, 2)]


def test_it_does_train(monkeypatch, tmp_path):
    monkeypatch.setattr(MODULE, "run", lambda f, *a, log: Outcome("finished", f(*a)))
    x, y = np.eye(24, 3, dtype="float32"), np.arange(24) % 3
    found = find_batch("small", ((x, y), (x, y)), ceiling=1, memory=10**12)
    assert found.batch_size == 1 and [size for size, _ in found.tried] == [1]
    assert all(used > 10**6 for _, used in found.tried)
    assert found.noise_scale is None or found.noise_scale > 0
    assert found.noise_status


@pytest.mark.parametrize(
    "arguments",
    [{"margin": 1}, {"ceiling": 0}, {"memory": -1}, {"build": "F7"}, {"optimizer": "x"}],
    ids=str,
)
def test_arguments_of_no_use(arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}` must"):
        find_batch(**arguments)
