"""Batch sizes that change between epochs, and trainings that start where another ended."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp.schedules import increased_batches
from keras_sharp.training import Trainer
from keras_sharp.training.data import Examples
from keras_sharp.training.loop import StepsPerCall


class Diary(keras.callbacks.Callback):
    """Writes down the size and the rate of every step, and how many an epoch is said to have."""

    def __init__(self):
        super().__init__()
        self.sizes, self.rates, self.steps = [], [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.steps.append(self.params["steps"])

    def on_train_steps_end(self, figures):
        self.sizes += figures["size"].tolist()
        self.rates += figures["learning_rate"].tolist()


class Stop(Exception):
    pass


class StopBefore(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise Stop


def state(model):
    return [v.numpy().tolist() for v in [*model.variables, *model.optimizer.variables]]


@pytest.mark.parametrize("n", [1, 2])
def test_a_line_fitted_by_hand(replicas, capfd, n):
    """Of 7 examples an epoch has 4 batches of 2 or 3 of 3, the last one uneven in both."""
    x = np.array([0.5, -1.0, 2.0, 1.5, -0.5, 1.0, -2.0], "float32")
    y = 3 * x + np.array([0.1, -0.2, 0.0, 0.3, -0.1, 0.2, 0.1], "float32")
    plan = increased_batches([2], [0.1, 0.05], 2, 3)
    sizes = [2, 2, 2, 1] * 2 + [3, 3, 1] * 2 + [2, 2, 2, 1]
    rates = [0.1] * 8 + [0.075] * 10

    weight, history, tested, step = 0.0, [], [], 0
    for batches in (4, 4, 3, 3, 4):
        begin = total = 0
        for size, rate in zip(sizes[step : step + batches], rates[step:], strict=False):
            part = slice(begin, begin + size)
            error = weight * x[part] - y[part]
            total += np.sum(error**2)
            weight -= rate * np.mean(2 * error * x[part])
            begin, step = begin + size, step + 1
        history.append(total / 7)
        tested.append(np.mean((weight * x - y) ** 2))

    with (strategy := replicas(n)).scope():
        layers = [keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")]
        model = keras.Sequential([keras.Input((1,)), *layers])
        optimizer = keras.optimizers.SGD(plan.learning_rate(7))
    trainer, diary = Trainer(model, optimizer, "mse", strategy=strategy), Diary()
    data = x[:, None], y[:, None]
    found = trainer.fit(
        data,
        validation_data=data,
        batch_size=plan.batch_size | {4: 2},
        epochs=5,
        shuffle=False,
        callbacks=[diary],
        verbose=2,
    ).history
    assert float(model.weights[0][0, 0]) == pytest.approx(weight, rel=1e-5)
    assert found["loss"] == pytest.approx(history, rel=1e-5)
    assert found["val_loss"] == pytest.approx(tested, rel=1e-5)
    assert diary.sizes == sizes
    assert diary.rates == pytest.approx(rates)
    assert diary.steps == [4, 4, 3, 3, 4]
    bars = re.findall(r"(\d+)/(\d+) - ", capfd.readouterr().out)
    assert bars == [("4", "4"), ("4", "4"), ("3", "3"), ("3", "3"), ("4", "4")]
    # One graph for each size of a batch and one for each remainder, though a size came back.
    graphs = trainer._engine.training.over_indices._list_all_concrete_functions()
    assert len(graphs) == 4


def test_stopped_at_a_change_it_ends_bit_for_bit_the_same(net, loss, blobs, tmp_path):
    def train(batch_size, path=tmp_path / "training.npz", stop=9):
        trainer = Trainer(net(dropout=0.5), "adam", loss, jit_compile=False)
        history = trainer.fit(
            blobs,
            batch_size=batch_size,
            epochs=4,
            checkpoint=path,
            callbacks=[StopBefore(stop)],
            verbose=0,
        ).history
        return state(trainer.model), history, trainer.batch_losses.tolist()

    sizes = {2: 65, 0: 26, 3: 130}
    expected = train(sizes, None)
    assert len(expected[2]) == 1
    for epoch in (2, 3):
        with pytest.raises(Stop):
            train(sizes, stop=epoch)
    assert train(sizes) == expected
    changed = re.escape("batch_size=[[0, 26], [2, 65], [3, 130]]. Received: batch_size=26.")
    for same in (26, {0: 26}, {np.int64(0): np.int64(26), 1: 26}):
        with pytest.raises(ValueError, match=changed):
            train(same)


def test_a_call_cut_short_still_tells_that_steps_became_slow():
    calls = StepsPerCall(None)
    calls.took(1, 0.01)
    calls.took(8, 0.08)
    assert calls.count == 64
    calls.took(10, 0.5)  # the end of an epoch
    assert calls.count == 64
    calls.took(10, 2.5)
    assert calls.count == 4


@pytest.mark.parametrize(
    ("batch_size", "message"),
    [
        ({}, "must map the first epochs"),
        ({1: 2}, "must map the first epochs"),
        ({0: 2, -1: 2}, "must map the first epochs"),
        ({0: 2, 0.5: 2}, "must map the first epochs"),
        ({False: 2}, "must map the first epochs"),
        ({0: 2, 3: 131}, "between 1 and the number of examples, 130, .* 3: 131"),
        ({0: 0}, "between 1 and the number of examples"),
        ({0: 2, 3: True}, "between 1 and the number of examples"),
    ],
)
def test_mappings_that_make_no_sense(blobs, batch_size, message):
    with pytest.raises(ValueError, match=message):
        Examples(blobs, batch_size, tf.distribute.get_strategy())


def test_a_warm_start_is_two_trainings_of_one_model(net, loss, blobs, tmp_path):
    """Each with an optimizer and a checkpoint of its own."""

    def program(folder=None, stop=9):
        model = net(batch_norm="plain", dropout=0.5)
        for size, epochs in [(65, 2), (130, 3)]:
            checkpoint = None if folder is None else folder / f"{size}.npz"
            options = {"checkpoint": checkpoint, "callbacks": [StopBefore(stop)], "verbose": 0}
            trainer = Trainer(model, "adam", loss, jit_compile=False)
            trainer.fit(blobs, batch_size=size, epochs=epochs, **options)
        return model

    expected = program()
    assert int(expected.optimizer.iterations) == 3  # the second optimizer is fresh
    with pytest.raises(Stop):
        program(tmp_path, stop=2)
    assert state(program(tmp_path)) == state(expected)
