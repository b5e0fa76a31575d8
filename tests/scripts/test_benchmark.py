import re

import benchmark
import pytest


def test_what_does_not_fit_says_so():
    assert benchmark.short_of_memory(0) is None
    reason = benchmark.short_of_memory(1e6)
    assert reason is None or "needs about 1,000,000 GiB" in reason


def test_the_goals_are_all_measured():
    assert [case[:3] for case in benchmark.FULL.training] == [
        ("F1", "digits", 32),
        ("F1", "mnist", 256),
        ("C1", "cifar10", 256),
        ("C1", "cifar10", 5000),
    ]
    assert benchmark.FULL.examples == 60_000
    sizes = benchmark.FULL.batch_sizes
    assert benchmark.FULL.micro_batch < min(sizes) < max(sizes) / 10


def smoke(table, folder):
    output = folder / "table.txt"
    benchmark.main(["--smoke", "--only", table, "--output", str(output)])
    return output.read_text()


@pytest.mark.slow
def test_training_on_tiny_sizes(tmp_path):
    text = smoke("training", tmp_path)
    (timed,) = re.findall(r"F1 │ +digits │ +32 │(.*)", text)
    assert len(re.findall(r"[\d,]+ \([\d.]+\)", timed)) == 4
    if benchmark.short_of_memory(1e6):
        assert "left out: needs about 1,000,000 GiB" in text


@pytest.mark.slow
def test_sharpness_on_tiny_sizes(tmp_path):
    text = smoke("sharpness", tmp_path)
    for name in ("sharpness(model, data)", "full space, traced", "subspace of 100"):
        (row,) = [line for line in text.splitlines() if name in line]
        passes, seconds, one, ratio = (float(each) for each in row.strip("│").split("│")[2:])
        assert passes >= 2 and seconds > 0 and one >= 0 and ratio > 0


@pytest.mark.slow
def test_memory_on_tiny_sizes(tmp_path):
    (peaks,) = re.findall(r"│ +64 │(.*)", smoke("memory", tmp_path))
    # TensorFlow alone takes more than 0.2 GiB.
    assert [float(each) > 0.2 for each in re.findall(r"([\d.]+) GiB", peaks)] == [True, True]
