"""Measuring during a training against measuring the model by hand after each epoch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp import sharpness
from keras_sharp.callbacks import MeasureDuringTraining
from keras_sharp.measures import report as module
from keras_sharp.measures.noise_scale import noise_scale
from keras_sharp.training import Trainer
from keras_sharp.training.callbacks import needs_every_batch

L = keras.layers


def blobs():
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 4)).astype("float32")
    return x, np.argmax(x[:, :3], axis=1)


def net(strategy=None):
    keras.utils.set_random_seed(0)
    with (strategy or tf.distribute.get_strategy()).scope():
        return keras.Sequential([keras.Input((4,)), L.Dense(6, activation="tanh"), L.Dense(3)])


LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def fit_with_trainer(model, callbacks, epochs=4, **options):
    trainer = Trainer(model, "sgd", LOSS)
    return trainer.fit(
        blobs(), batch_size=20, epochs=epochs, callbacks=callbacks, verbose=0, **options
    )


def fit_with_keras(model, callbacks, epochs=4, **options):
    model.compile("sgd", LOSS)
    return model.fit(
        *blobs(), batch_size=20, epochs=epochs, callbacks=callbacks, verbose=0, **options
    )


FITS = pytest.mark.parametrize("fit", [fit_with_trainer, fit_with_keras])


class ByHand(keras.callbacks.Callback):
    """Measures after each epoch without the callback under test."""

    def __init__(self):
        super().__init__()
        self.values, self.logs = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.values.append(sharpness(self.model, blobs(), epsilon=5e-4, loss=LOSS).value)
        self.logs.append(dict(logs))


@FITS
def test_values_reach_history_and_later_callbacks(fit):
    hand = ByHand()
    watch = MeasureDuringTraining(
        blobs(), [("sharpness", {"epsilon": 5e-4}), ("noise_scale", {"small_batch": 2})], every=2
    )
    history = fit(net(), [watch, hand])
    label = "sharpness(epsilon=0.0005)"
    assert list(watch.reports) == [1, 3]
    assert history.history[label] == pytest.approx(hand.values[1::2], rel=1e-6)
    assert history.history[label] == [float(r[label]) for r in watch.reports.values()]
    assert len(history.history["loss"]) == 4
    assert [label in logs for logs in hand.logs] == [False, True, False, True]
    values = [r["noise_scale(small_batch=2)"].value for r in watch.reports.values()]
    logged = history.history.get("noise_scale(small_batch=2)", [])
    assert logged == [value for value in values if value is not None]


@FITS
def test_values_reach_tensorboard(fit, tmp_path):
    watch = MeasureDuringTraining(blobs(), every=2)
    fit(net(), [watch, keras.callbacks.TensorBoard(tmp_path, write_graph=False)])
    found = {}
    for file in (tmp_path / "train").glob("events.*"):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                if value.tag == "epoch_sharpness":
                    found[event.step] = float(tf.make_ndarray(value.tensor))
    expected = {epoch: float(r["sharpness"]) for epoch, r in watch.reports.items()}
    assert found == pytest.approx(expected, rel=1e-6)


@FITS
def test_the_training_is_the_same_without(fit):
    weights = []
    for callbacks in ([], [MeasureDuringTraining(blobs(), ["sharpness", "noise_scale"])]):
        model = net()
        fit(model, callbacks)
        weights.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_array_equal(*weights)


def test_other_callbacks_can_act_on_it():
    stop = keras.callbacks.EarlyStopping("sharpness", mode="max", baseline=1e9, patience=2)
    history = fit_with_trainer(net(), [MeasureDuringTraining(blobs()), stop], epochs=9)
    assert len(history.epoch) == 2


def test_many_steps_stay_in_one_call():
    assert not needs_every_batch(MeasureDuringTraining(blobs()))


def test_a_model_built_by_its_first_batch():
    model = keras.Sequential([L.Dense(3)])
    history = fit_with_keras(model, [MeasureDuringTraining(blobs(), "noise_scale")], epochs=1)
    assert history.history["noise_scale"] == [
        pytest.approx(noise_scale(model, blobs()).value, rel=1e-6)
    ]


def test_replicas():
    tf.distribute.MirroredStrategy._collective_key_base += 1000  # as in tests/training/conftest.py
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    model, watch = net(strategy), MeasureDuringTraining(blobs(), batch_size=25)
    fit_with_trainer(model, [watch], epochs=1)
    assert watch.reports[0].objective["replicas"] == 2
    expected = sharpness(model, blobs(), loss=LOSS, batch_size=25).value
    assert watch.reports[0]["sharpness"].value == pytest.approx(expected, rel=1e-6)


def test_a_resumed_training_keeps_its_reports(tmp_path):
    class Stop(Exception):
        pass

    class StopAfter(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise Stop

    def train(path, *others):
        watch = MeasureDuringTraining(blobs(), ["sharpness", "noise_scale"], every=2)
        history = fit_with_trainer(
            net(), [watch, *others], epochs=6, checkpoint=tmp_path / path
        ).history
        return watch, history

    whole, expected = train("whole.npz")
    with pytest.raises(Stop):
        train("parts.npz", StopAfter())
    again, history = train("parts.npz")
    assert history == expected
    assert list(again.reports) == list(whole.reports) == [1, 3, 5]
    for epoch in (1, 3, 5):
        values = [
            [each.value for each in watch.reports[epoch].results.values()]
            for watch in (again, whole)
        ]
        assert values[0] == values[1]


def test_a_second_training_begins_afresh():
    watch, model = MeasureDuringTraining(blobs()), net()
    fit_with_keras(model, [watch], epochs=2)
    model.layers[0].trainable = False
    fit_with_keras(model, [watch], epochs=1)
    assert list(watch.reports) == [0]
    assert watch.reports[0].objective["weights"] == 21


# -- failures ------------------------------------------------------------------------------------


@pytest.fixture
def fuse(monkeypatch):
    """A measure that fails the second time."""
    calls = []

    def blow(objective, *, seed=0, verbose=0):
        calls.append(seed)
        if len(calls) == 2:
            raise FloatingPointError("the fuse is blown")
        return noise_scale(objective, small_batch=1)

    monkeypatch.setitem(module.MEASURES, "fuse", blow)


def test_a_failure_warns_and_the_training_goes_on(fuse):
    watch = MeasureDuringTraining(blobs(), ["fuse", "sharpness"])
    with pytest.warns(UserWarning, match="fuse could not be measured after epoch 2.*blown"):
        history = fit_with_trainer(net(), [watch], epochs=3).history
    assert len(history["sharpness"]) == 3 and len(history["fuse"]) == 2
    assert "blown" in watch.reports[1].failures["fuse"]


def test_nothing_but_failures_warns_and_the_training_goes_on(fuse):
    watch = MeasureDuringTraining(blobs(), "fuse")
    with pytest.warns(UserWarning, match="Nothing was measured after epoch 2.*\n.*blown"):
        history = fit_with_trainer(net(), [watch], epochs=3).history
    assert list(watch.reports) == [0, 2] and len(history["loss"]) == 3


def test_data_of_no_use_are_an_error_before_anything_is_trained():
    (x, y), model, begun = blobs(), net(), []
    begin = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: begun.append(epoch))
    for data, message in (((x, y[:7]), "same first dimension"), ((x, y + 3), "Labels must be")):
        with pytest.raises(ValueError, match=message):
            fit_with_trainer(model, [begin, MeasureDuringTraining(data, every=3)])
    assert begun == []
    # What its first batch builds cannot be measured before.
    with pytest.raises(ValueError, match="Labels must be"):
        unbuilt = keras.Sequential([L.Dense(3)])
        fit_with_keras(unbuilt, [begin, MeasureDuringTraining((x, y + 3), every=3)])
    assert begun == [0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"measures": "loudness"}, "A measure must be one of"),
        ({"measures": [("sharpness", {"epsilon": -1})]}, "`epsilon` must be positive"),
        ({"every": 0}, "`every` must be an integer of at least 1"),
        ({"seed": -1}, "`seed`"),
        ({"batchnorm": "batch"}, r"Received: \['batchnorm'\]"),
    ],
)
def test_bad_arguments_are_refused_before_the_training(arguments, message):
    with pytest.raises(ValueError, match=message):
        MeasureDuringTraining(blobs(), **arguments)
