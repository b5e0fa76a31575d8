"""The mean of the weights of many epochs, and the statistics that belong to it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp.callbacks import SWA
from keras_sharp.training import Trainer

L = keras.layers


def network(strategy=None, normalization=True):
    keras.utils.set_random_seed(0)
    with (strategy or tf.distribute.get_strategy()).scope():
        middle = [L.BatchNormalization()] if normalization else []
        return keras.Sequential([keras.Input((3,)), L.Dense(4), *middle, L.Dense(1)])


def data():
    x = np.random.default_rng(0).normal(1, 2, size=(26, 3)).astype("float32")
    return x, x[:, :1] ** 2


class Weights(keras.callbacks.Callback):
    """The trainable weights after each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append([v.numpy().astype("float64") for v in self.model.trainable_variables])


def fit(loop, model, callbacks, epochs=7, **options):
    x, y = data()
    if loop == "fit":
        model.compile(keras.optimizers.SGD(0.01), "mse")
        return model.fit(x, y, batch_size=8, epochs=epochs, callbacks=callbacks, verbose=0)
    optimizer = options.pop("optimizer", None) or keras.optimizers.SGD(0.01)
    trainer = Trainer(model, optimizer, "mse", strategy=options.pop("strategy", None))
    return trainer.fit(
        (x, y), batch_size=8, epochs=epochs, callbacks=callbacks, verbose=0, **options
    )


@pytest.mark.parametrize("loop", ["fit", "trainer"])
@pytest.mark.parametrize(("start", "every", "counted"), [(4, 1, [4, 5, 6]), (1, 3, [1, 4])])
def test_the_mean_and_its_statistics(loop, start, every, counted):
    model, weights = network(), Weights()
    average = SWA(start, data(), every=every, batch_size=10)
    fit(loop, model, [weights, average])
    assert average.count == len(counted)
    expected = [np.mean(each, 0) for each in zip(*[weights.seen[i] for i in counted], strict=True)]
    for variable, mean in zip(model.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), mean, rtol=1e-5, atol=1e-7)
    x, _ = data()
    given = x.astype("float64") @ expected[0] + expected[1]
    np.testing.assert_allclose(model.layers[1].moving_mean, given.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.layers[1].moving_variance, given.var(0), rtol=1e-4)


def test_the_training_itself_is_not_changed():
    alone, beside = Weights(), Weights()
    fit("trainer", network(), [alone])
    fit("trainer", network(), [SWA(0, data()), beside])
    for old, new in zip(alone.seen, beside.seen, strict=True):
        for one, other in zip(old, new, strict=True):
            np.testing.assert_array_equal(other, one)


def test_two_replicas():
    tf.distribute.MirroredStrategy._collective_key_base += 1000
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    found = []
    for each in (None, strategy):
        with (each or tf.distribute.get_strategy()).scope():
            optimizer = keras.optimizers.SGD(0.01)
        model = network(each, normalization=False)
        fit("trainer", model, [SWA(3)], optimizer=optimizer, strategy=each)
        found.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-6)


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 5:
            raise KeyboardInterrupt


def test_a_training_that_was_stopped_goes_on_with_the_same_bits(tmp_path):
    path = tmp_path / "training.npz"
    with pytest.raises(KeyboardInterrupt):
        fit("trainer", network(), [SWA(3, data()), Stop()], checkpoint=path)
    found = []
    for checkpoint in (path, path, None):  # the second finds a training that has returned
        model = network()
        fit("trainer", model, [SWA(3, data())], checkpoint=checkpoint)
        found.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[2])


def test_a_training_that_is_too_short_warns():
    model = network(normalization=False)
    weights = Weights()
    with pytest.warns(UserWarning, match="ended before epoch 4"):
        fit("fit", model, [weights, SWA(3)], epochs=3)
    for variable, last in zip(model.trainable_variables, weights.seen[-1], strict=True):
        np.testing.assert_array_equal(variable.numpy(), last)


def test_what_goes_wrong_in_the_pass_leaves_the_model_as_it_was_trained(monkeypatch):
    def fail(*arguments):
        raise MemoryError

    model, weights = network(), Weights()
    monkeypatch.setattr("keras_sharp.objective.Objective.estimate_statistics", fail)
    with pytest.raises(MemoryError):
        fit("fit", model, [weights, SWA(0, data())], epochs=2)
    for variable, last in zip(model.trainable_variables, weights.seen[-1], strict=True):
        np.testing.assert_array_equal(variable.numpy(), last)


def test_what_makes_no_sense_is_refused():
    model = network()
    before = model.get_weights()
    with pytest.raises(ValueError, match="`data`|labels"):  # before it trains, not after
        fit("fit", model, [SWA(3, data()[0])])
    np.testing.assert_array_equal(model.get_weights()[0], before[0])
    with pytest.raises(ValueError, match="`ds`"):
        fit("fit", network(), [SWA(3)])
    with pytest.raises(ValueError, match="`start`"):
        SWA(-1)
    with pytest.raises(ValueError, match="`every`"):
        SWA(0, every=0)
    with pytest.raises(ValueError, match="'epochs'"):
        SWA(0, epochs=3)
