import concurrent.futures
import multiprocessing
import re
import types

import benchmark
import benchmark_measures
import keras
import numpy as np
import pytest
from benchmark_cases import FULL, compiled, images, short_of_memory
from benchmark_memory import peak_after, resnet20
from benchmark_methods import OPTIMIZERS, RULES

from keras_sharp import Objective
from keras_sharp.measures.hessian import HessianOperator
from keras_sharp.networks import NETWORKS, Network


def test_what_does_not_fit_says_so():
    assert short_of_memory(0) is None
    reason = short_of_memory(1e6)
    assert reason is None or "needs about 1,000,000 GiB" in reason


def test_the_goals_are_all_measured():
    assert [case[:3] for case in FULL.training] == [
        ("F1", "digits", 32),
        ("F1", "mnist", 256),
        ("C1", "cifar10", 256),
        ("C1", "cifar10", 5000),
    ]
    assert FULL.examples == 60_000
    sizes = FULL.batch_sizes
    assert FULL.micro_batch < min(sizes) < max(sizes) / 10
    assert [case[:2] for case in FULL.curvature] == [("F1", "mnist"), ("C1", "cifar10")]
    assert FULL.curvature[0].batch_size * FULL.curvature[0].batches == FULL.examples // 3
    assert max(FULL.eigenpairs) == 10_000
    assert FULL.subspace == ("C2", "cifar10", 100) and 0 in FULL.subspace_megabytes
    costs = {name: cost for name, (_, cost) in RULES.items()}
    assert [costs[name] for name in ("SAM", "DisAdv", "ConAdv")] == [2, 3, 3]
    assert next(iter(OPTIMIZERS)) == "Adam (Keras)"


def test_the_residual_network_has_its_weights():
    # Convolutions, then two numbers of normalisation per filter, then the last layer.
    kernels = 9 * (3 * 16 + 6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2)
    shortcuts, filters = 16 * 32 + 32 * 64, 7 * 16 + 7 * 32 + 7 * 64
    model = resnet20()
    trainable = sum(int(np.prod(each.shape)) for each in model.trainable_variables)
    assert trainable == kernels + shortcuts + 2 * filters + 65 * 10 == 272_474


def test_what_is_beyond_the_products_by_a_clock_of_our_own(monkeypatch):
    x, y = images("digits", 8)
    objective = benchmark_measures.Timed(compiled("F1", (64,)), (x, y))

    def measure(objective, verbose):
        for _ in range(2):
            objective.hessian_vector_product(np.ones(objective.size))
        return types.SimpleNamespace(products=2)

    # Two products of 2 s and 3 s between the first second and the eleventh: as long again.
    clock = iter([1.0, 2.0, 4.0, 5.0, 8.0, 11.0])
    monkeypatch.setattr(
        benchmark_measures, "time", types.SimpleNamespace(perf_counter=lambda: next(clock))
    )
    assert benchmark_measures.beyond_products(objective, measure) == (2, 1.0)


def growth():
    """Returns the peak memory in KiB after two products over 2 batches, and after many more."""

    def products(batches, number):
        x = np.random.default_rng(0).random((50 * batches, 32, 32, 3), "float32")
        operator = HessianOperator(Objective(model, (x, x[:, 0, 0]), "mse", batch_size=50))
        for _ in range(number):
            operator @ np.ones(operator.shape[0])

    inputs = keras.Input((32, 32, 3))
    hidden = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(hidden))
    few = peak_after(products, 2, 2)
    peak_after(products, 2, 20)
    return few, peak_after(products, 30, 2)


def test_memory_grows_neither_with_products_nor_with_batches():
    new = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=new) as pool:
        few, many = pool.submit(growth).result()
    # The data are 17 MB. What a layer puts out, kept of each batch, would be 40 MB more, and so
    # would each derivative.
    assert many - few < 40 * 1024


def smoke(table, folder):
    output = folder / "table.txt"
    benchmark.main(["--smoke", "--only", table, "--output", str(output)])
    return output.read_text()


@pytest.mark.slow
def test_training_on_tiny_sizes(tmp_path):
    text = smoke("training", tmp_path)
    (timed,) = re.findall(r"F1 │ +digits │ +32 │(.*)", text)
    assert len(re.findall(r"[\d,]+ \([\d.]+\)", timed)) == 4
    if short_of_memory(1e6):
        assert "left out: needs about 1,000,000 GiB" in text


def small(input_shape, classes, **options):
    layers = [keras.layers.Flatten(), keras.layers.Dense(6), keras.layers.Dense(classes)]
    return keras.Sequential([keras.Input(input_shape), *layers])


def test_sharpness_on_tiny_sizes(tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "F1", Network(small, "mnist", "small"))
    text = smoke("sharpness", tmp_path)
    for name in ("sharpness(model, data)", "full space, traced", "subspace of 100"):
        (row,) = [line for line in text.splitlines() if name in line]
        passes, seconds, one, ratio = (float(each) for each in row.strip("│").split("│")[2:])
        assert passes >= 2 and seconds >= 0 and one >= 0 and ratio > 0


@pytest.mark.slow
def test_curvature_on_tiny_sizes(tmp_path):
    (row,) = re.findall(r"F1, digits \(32\) │(.*)", smoke("curvature", tmp_path))
    *seconds, largest, density = row.strip("│").split("│")
    assert [float(each) >= 0 for each in seconds] == [True] * 3
    assert re.fullmatch(r" +[+-][\d.]+% of \d+ ", largest)
    assert re.fullmatch(r" +[+-][\d.]+% of 3 ", density)


@pytest.mark.slow
def test_methods_on_tiny_sizes(tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "F1", Network(small, "digits", "small"))
    text = smoke("methods", tmp_path)
    assert re.search(r"│ plain +│ +F1, digits, 16 │ +1 │ +1.00 │ +1.00 │", text)
    assert re.search(r"│ Adam \(Keras\) +│ +F1, digits │ +1.00 │ +1.00 │", text)
    rows = [
        rf"│ {re.escape(name)} +│ +F1, digits, 16 │ +{cost:g} │(.*)"
        for name, (_, cost) in RULES.items()
    ]
    rows += [rf"│ {re.escape(name)} +│ +F1, digits │(.*)" for name in OPTIMIZERS]
    for row in rows:
        (cells,) = re.findall(row, text)
        assert all(float(each) > 0 for each in cells.strip("│").split("│"))


@pytest.mark.slow
def test_memory_on_tiny_sizes(tmp_path):
    text = smoke("memory", tmp_path)
    (peaks,) = re.findall(r"│ +64 │(.*)", text)
    (peak,) = re.findall(r"│ +16 │ +([\d.]+) GiB", text)
    assert 0.2 < float(peak) < 3
    assert re.search(r"│ +0 MiB │ +0.\d+ GiB │ +\d+ │", text)
    # TensorFlow alone takes more than 0.2 GiB.
    assert [float(each) > 0.2 for each in re.findall(r"([\d.]+) GiB", peaks)] == [True, True]
