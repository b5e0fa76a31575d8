"""Local steps by hand, and a checkpoint of replicas that differ."""

import contextlib

import keras
import numpy as np
import pytest
from replica_weights import KeepReplicas

from keras_sharp.training import Trainer
from keras_sharp.training.local_sgd import LocalSGD

# Keras rounds the momentum to float32.
RATE, BETA = 0.1, 0.875


@pytest.fixture
def examples():
    """A batch of 8, four for each of two replicas, and a last one of 1: none for the first."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(9, 3)), rng.normal(size=(9, 1))


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:  # after a local step
            raise KeyboardInterrupt


def make(strategy):
    with strategy.scope():
        dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((3,)), dense])
        optimizer = keras.optimizers.SGD(RATE, momentum=BETA)
    # Two steps an epoch: the first is common, and the weights are averaged after the fourth.
    return Trainer(model, optimizer, "mse", communication=LocalSGD(3, after=1))


def by_hand(x, y):
    """Returns the weights of two replicas after each of three epochs of two steps, `(3, 2, 3)`."""
    w, v, epochs = np.ones((2, 3)), np.zeros((2, 3)), []
    for step in range(6):
        parts = [slice(8, 8), slice(8, 9)] if step % 2 else [slice(0, 4), slice(4, 8)]
        size = 1 if step % 2 else 8
        g = np.zeros((2, 3))
        for i, p in enumerate(parts):
            # Their mean is the gradient of the batch.
            g[i] = 2 * 2 * x[p].T @ (x[p] @ w[i] - y[p, 0]) / size
        if step < 1:
            g[:] = g.mean(0)
        v = BETA * v - RATE * g
        w = w + v
        if step == 3:
            w[:] = w.mean(0)
        if step % 2:
            epochs.append(w)
    return np.stack(epochs)


def of_each_replica(trainer):
    replicas = trainer.strategy.experimental_local_results(trainer.model.weights[0].value)
    return [replica.numpy()[:, 0] for replica in replicas]


@pytest.mark.usefixtures("float64")
def test_post_local_steps_by_hand_and_a_resumed_training(replicas, examples, tmp_path):
    x, y = examples
    epochs = by_hand(x, y)
    expected, means = epochs[-1], epochs.mean(1)
    options = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0}
    options["validation_data"] = examples
    strategy = replicas(2)
    trainer = make(strategy)
    communication = trainer._communication
    keep = KeepReplicas(communication)
    history = trainer.fit(examples, **options, callbacks=[keep]).history
    # To more digits than float32 has.
    np.testing.assert_allclose(keep.weights, expected, rtol=1e-12)
    for weights in of_each_replica(trainer):
        np.testing.assert_allclose(weights, means[-1], rtol=1e-12)
    distances = ((epochs - means[:, None]) ** 2).sum(2).mean(1)
    assert distances[0] > 1e-3 and distances[2] > 1e-3
    np.testing.assert_allclose(history["consensus_distance"], distances, rtol=1e-10)
    # What is validated is the mean.
    losses = ((means @ x.T - y[:, 0]) ** 2).mean(1)
    np.testing.assert_allclose(history["val_loss"], losses, rtol=1e-6)
    # Each node by itself, on all of them.
    losses = ((epochs @ x.T - y[:, 0]) ** 2).mean((1, 2))
    np.testing.assert_allclose(history["val_mean_of_nodes_loss"], losses, rtol=1e-6)
    # Two replicas send what they hold once; three weights of eight bytes.
    sent = [communication.bytes_per_step(step) for step in range(6)]
    assert sent == [24, 0, 0, 24, 0, 0]

    file = tmp_path / "training.npz"
    stopped = make(strategy)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(examples, **options, checkpoint=file, callbacks=[Stop()])
    for weights in of_each_replica(stopped):
        np.testing.assert_allclose(weights, means[0], rtol=1e-12)
    with pytest.raises(ValueError, match="has replicas=2. Received: replicas=1"):
        make(replicas(1)).fit(examples, **options, checkpoint=file)
    again = make(strategy)
    keep = KeepReplicas(again._communication)
    histories = again.fit(examples, **options, checkpoint=file, callbacks=[keep]).history
    assert histories == history
    np.testing.assert_array_equal(again.model.get_weights(), trainer.model.get_weights())
    np.testing.assert_allclose(keep.weights, expected, rtol=1e-12)

    check_the_mean_for_a_while(again)
    early = keras.callbacks.ModelCheckpoint(tmp_path / "model.keras", save_freq=1)
    with pytest.raises(ValueError, match='`save_freq` must be "epoch" for LocalSGD'):
        again.fit(examples, **options, callbacks=[early])
    with strategy.scope():
        other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="`communication` must be another object for every model"):
        Trainer(other, "sgd", "mse", communication=communication).fit(examples, **options)


def check_the_mean_for_a_while(trainer):
    """What is changed meanwhile stays so, in a checkpoint too; the rest is as it was."""
    communication, kernel = trainer._communication, trainer.model.weights[0]
    state = communication.get_state()["replicas"]
    differing = [values + np.arange(2).reshape(2, *[1] * (values.ndim - 1)) for values in state]
    communication.set_state({"replicas": differing})
    own = differing[0][:, :, 0]
    with pytest.raises(KeyError), contextlib.closing(communication.nodes()) as nodes:
        for node, _ in enumerate(nodes):
            for weights in of_each_replica(trainer):
                np.testing.assert_array_equal(weights, own[node])
            if node == 1:
                raise KeyError
    np.testing.assert_array_equal(of_each_replica(trainer), own)
    with communication.consensus():
        kernel.assign(np.full((3, 1), 7.0))
        stored = communication.get_state()["replicas"]
    expected = [np.full((2, 3, 1), 7.0), *differing[1:]]
    assert len(expected) > 1
    for found in (stored, communication.get_state()["replicas"]):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="equally many replicas"):
        communication.set_state({"replicas": [values[:1] for values in differing]})
    with pytest.raises(KeyError), communication.settled():
        raise KeyError
    for weights in of_each_replica(trainer):
        np.testing.assert_array_equal(weights, np.full(3, 7.0))


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
    with pytest.raises(ValueError, match="must not have `use_ema` for LocalSGD"):
        LocalSGD(2).check_optimizer(keras.optimizers.Adam(use_ema=True))
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    trainer = Trainer(net(), optimizer, loss, communication=LocalSGD(2))
    with pytest.raises(ValueError, match="LossScaleOptimizer"):
        trainer.fit(blobs, batch_size=32, verbose=0)
