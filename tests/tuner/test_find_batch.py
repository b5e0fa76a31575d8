"""The largest batch that fits: against a memory whose size and use are known."""

import sys

import pytest

from keras_sharp.tuner import find_batch
from keras_sharp.tuner.processes import Outcome

MODULE = sys.modules["keras_sharp.tuner.find_batch"]
BASE, EACH = 1000, 10  # bytes of a program, and of an example in a batch


@pytest.fixture
def memory(monkeypatch):
    """Stands in for processes on a device with so many bytes."""

    def use(bytes_, on_cpu=False, examples=10_000):
        tried = []

        def run(function, task, *arguments, log):
            if function.__name__ == "look":
                return Outcome("finished", (examples, on_cpu))
            if function.__name__ == "measure_noise":
                return Outcome("finished", 77.0)
            (size,) = arguments
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
    assert int(find_batch(ceiling=100)) == 100 == max(tried)
    memory(10**9, examples=48)
    assert int(find_batch()) == 48
    memory(BASE)
    found = find_batch()
    assert found.batch_size is None and "Not even" in found.status
    with pytest.raises(ValueError, match="Not even"):
        int(found)
    assert type(found).from_json(found.to_json()) == found


def test_it_does_train(monkeypatch, tmp_path):
    monkeypatch.setattr(MODULE, "run", lambda f, *a, log: Outcome("finished", f(*a)))
    found = find_batch("small", "digits", ceiling=1, memory=10**12)
    assert found.batch_size == 1 and [size for size, _ in found.tried] == [1]
    assert all(used > 10**6 for _, used in found.tried)
    assert found.noise_scale is None or found.noise_scale > 0


@pytest.mark.parametrize(
    "arguments", [{"margin": 1}, {"ceiling": 0}, {"memory": -1}, {"build": "F7"}], ids=str
)
def test_arguments_of_no_use(arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}` must"):
        find_batch(**arguments)
