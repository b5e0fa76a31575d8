"""Local steps by hand, and a checkpoint of replicas that differ."""

import keras
import numpy as np
import pytest
from replica_weights import KeepReplicas

from keras_sharp.training import Trainer
from keras_sharp.training.local_sgd import LocalSGD

RATE, BETA = 0.1, 0.9


@pytest.fixture
def examples():
    rng = np.random.default_rng(0)
    return rng.normal(size=(16, 3)).astype("float32"), rng.normal(size=(16, 1)).astype("float32")


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def make(strategy):
    with strategy.scope():
        dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((3,)), dense])
        optimizer = keras.optimizers.SGD(RATE, momentum=BETA)
    # Two steps an epoch: the first is common, and the weights are averaged after the fourth.
    return Trainer(model, optimizer, "mse", communication=LocalSGD(3, after=1))


def by_hand(x, y):
    """Returns the weights of two replicas after six steps, `(2, 3)`."""
    w, v = np.ones((2, 3)), np.zeros((2, 3))
    for step in range(6):
        begin = step % 2 * 8
        parts = [slice(begin, begin + 4), slice(begin + 4, begin + 8)]
        g = np.stack(
            [2 * x[p].T @ (x[p] @ w[i] - y[p, 0]) / 4 for i, p in enumerate(parts)], dtype=float
        )
        if step < 1:
            g[:] = g.mean(0)
        v = BETA * v - RATE * g
        w = w + v
        if step == 3:
            w[:] = w.mean(0)
    return w


def test_post_local_steps_by_hand_and_a_resumed_training(replicas, examples, tmp_path):
    expected = by_hand(*examples)
    options = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0}
    strategy = replicas(2)
    trainer = make(strategy)
    communication = trainer._communication
    keep = KeepReplicas(communication)
    history = trainer.fit(examples, **options, callbacks=[keep]).history
    np.testing.assert_allclose(keep.weights, expected, rtol=1e-5)
    mean = trainer.model.get_weights()[0][:, 0]
    np.testing.assert_allclose(mean, expected.mean(0), rtol=1e-5)
    distance = ((expected - expected.mean(0)) ** 2).sum(1).mean()
    assert history["consensus_distance"][-1] == pytest.approx(distance, rel=1e-4)
    # Two replicas send what they hold once; three weights of four bytes.
    sent = [communication.bytes_per_step(step) for step in range(6)]
    assert sent == [12, 0, 0, 12, 0, 0]

    file = tmp_path / "training.npz"
    with pytest.raises(KeyboardInterrupt):
        make(strategy).fit(examples, **options, checkpoint=file, callbacks=[Stop()])
    again = make(strategy)
    keep = KeepReplicas(again._communication)
    histories = again.fit(examples, **options, checkpoint=file, callbacks=[keep]).history
    assert histories == history
    np.testing.assert_array_equal(again.model.get_weights()[0][:, 0], mean)
    np.testing.assert_allclose(keep.weights, expected, rtol=1e-5)


def test_on_one_replica_nothing_is_averaged(examples):
    x, y = examples
    models = []
    for communication in (LocalSGD(2), None):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        trainer = Trainer(model, "adam", "mse", communication=communication)
        trainer.fit((x, y), batch_size=8, epochs=2, verbose=0)
        models.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_allclose(models[0], models[1], rtol=1e-6)


def test_what_is_of_no_use_is_refused(net, loss, blobs):
    with pytest.raises(ValueError, match="`every` must be an integer of at least 1"):
        LocalSGD(0)
    with pytest.raises(ValueError, match="`after` must be an integer of at least 0"):
        LocalSGD(1, after=-1)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    trainer = Trainer(net(), optimizer, loss, communication=LocalSGD(2))
    with pytest.raises(ValueError, match="LossScaleOptimizer"):
        trainer.fit(blobs, batch_size=32, verbose=0)
