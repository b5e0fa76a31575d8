"""Batches of the data as functions of their own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp import Objective
from keras_sharp.measures.neighbourhood import Neighbourhood, checked

L = keras.layers


class Sequence(keras.utils.PyDataset):
    """Batches of 9 examples, the last of 4."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return tuple(part[9 * index : 9 * index + 9] for part in self.data)


def arguments(m, **other):
    defaults = {"rho": 1, "norm": "l2", "adaptive": True, "normalize_logits": False, "seed": 0}
    return checked(m=m, **defaults, **other)


@pytest.mark.parametrize("m", [7, 20, 40, 100])
@pytest.mark.parametrize("source", ["arrays", "pipeline", "sequence"])
def test_batches_are_the_examples_in_their_order(relu, source, m):
    model, (x, y) = relu
    data = {
        "arrays": (x, y),
        "pipeline": tf.data.Dataset.from_tensor_slices((x, y)).batch(11),
        "sequence": Sequence((x, y)),
    }[source]
    around = Neighbourhood(model, data, arguments(m), {})
    values, logits = [], []
    for part in around.batches():
        values.append(part.value())
        logits.append(part.predict())
        rows = slice(sum(around.sizes[:-1]), sum(around.sizes))
        alone = Objective(model, (x[rows], y[rows]))
        assert values[-1] == pytest.approx(alone.value(), rel=1e-12)
        np.testing.assert_allclose(
            part.value_and_gradient()[1], alone.value_and_gradient()[1], rtol=1e-9, atol=1e-12
        )
        assert part.settings["data_digest"] == alone.settings["data_digest"]
    assert around.sizes == [min(m, 40 - start) for start in range(0, 40, m)]
    assert around.count == len(values)
    assert around.settings["batch_size"] == min(m, 40) and around.settings["losses"]
    whole = Objective(model, (x, y))
    assert around.shares @ values == pytest.approx(whole.value(), rel=1e-12)
    np.testing.assert_allclose(np.concatenate(logits), whole.predict(), rtol=1e-12)


def test_without_m_it_is_the_whole_set_in_its_own_batches(relu):
    around = Neighbourhood(*relu, arguments(None), {"batch_size": 16})
    (whole,) = around.batches()
    assert around.sizes == [40] and whole.settings == around.settings
    assert around.settings["batch_size"] == 16


def test_structures_and_sample_weights():
    inputs = {"a": keras.Input((2,), name="a"), "b": keras.Input((3,), name="b")}
    model = keras.Model(inputs, L.Dense(1)(L.Concatenate()(list(inputs.values()))))
    random = np.random.default_rng(0)
    x = {"a": random.normal(size=(10, 2)), "b": random.normal(size=(10, 3))}
    y, weights = random.normal(size=(10, 1)), random.uniform(size=10)
    objective = Objective(model, (x, y, weights), "mse", batch_size=4)
    for number, part in enumerate(objective.parts(5)):
        rows = slice(5 * number, 5 * number + 5)
        own = {name: each[rows] for name, each in x.items()}
        alone = Objective(model, (own, y[rows], weights[rows]), "mse")
        assert part.value() == pytest.approx(alone.value(), rel=1e-6)


def test_a_strategy_changes_nothing():
    random = np.random.default_rng(0)
    data = random.normal(size=(10, 3)).astype("f4"), random.normal(size=(10, 1)).astype("f4")
    values = []
    for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
        with tf.distribute.MirroredStrategy(devices).scope():
            model = keras.Sequential([keras.Input((3,)), L.Dense(1, kernel_initializer="ones")])
        parts = Objective(model, data, "mse").parts(4)
        values.append([part.value_and_gradient()[0] for part in parts])
    assert values[0] == values[1]
