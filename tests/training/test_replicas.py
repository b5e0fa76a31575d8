"""Any number of replicas and micro-batches takes the same steps as one device at once."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp.training import Trainer

OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "clipped": lambda: keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.1),
    "averaged": lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.1)
    ),
    "adam": lambda: keras.optimizers.Adam(0.01),
}


@pytest.fixture
def train(net, loss, blobs, replicas, weights):
    def run(n, optimizer, batch_norm=None, **options):
        strategy = replicas(n)
        model = net(strategy, batch_norm)
        with strategy.scope():
            optimizer = OPTIMIZERS[optimizer]()
        trainer = Trainer(model, optimizer, loss, metrics=["accuracy"], **options)
        history = trainer.fit(
            blobs, batch_size=32, epochs=6, validation_data=blobs, verbose=0
        ).history
        averages = [v.numpy().ravel() for v in optimizer.variables if "average" in v.path]
        return np.concatenate([weights(model), *averages]), history

    return run


def distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["momentum", "clipped", "averaged", "scaled"])
def test_replicas_agree_after_thirty_steps(train, optimizer):
    one, history = train(1, optimizer, "synchronized")
    for n in (2, 4):
        many, histories = train(n, optimizer, "synchronized")
        assert distance(many, one) < 1e-5
        for name, values in history.items():
            np.testing.assert_allclose(histories[name], values, rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_replicas_have_the_same_losses_with_adam(train):
    _, history = train(1, "adam", "synchronized")
    for n in (2, 4):
        np.testing.assert_allclose(
            train(n, "adam", "synchronized")[1]["loss"], history["loss"], atol=1e-3
        )


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["momentum", "clipped"])
def test_micro_batches_agree_with_the_whole_batch(train, optimizer):
    whole, history = train(1, optimizer)
    for options in ({"jit_compile": True}, {"jit_compile": False}):
        parts, histories = train(1, optimizer, micro_batch=7, **options)
        assert distance(parts, whole) < 1e-6
        np.testing.assert_allclose(histories["accuracy"], history["accuracy"], rtol=1e-6)
    for n in (2, 4):
        assert distance(train(n, optimizer, micro_batch=3)[0], whole) < 1e-6


def test_clipping_does_something(train):
    assert distance(train(1, "clipped")[0], train(1, "momentum")[0]) > 1e-2


def test_a_tail_smaller_than_the_replicas_is_finite_and_replicas_stay_together(
    net, loss, blobs, replicas
):
    strategy = replicas(4)
    model = net(strategy, "plain", dropout=0.5)
    trainer = Trainer(model, "sgd", loss)
    trainer.fit(blobs, batch_size=32, epochs=3, verbose=0)
    assert np.isfinite(trainer.batch_losses).all()
    for variable in model.variables:
        first, *others = [v.numpy() for v in strategy.experimental_local_results(variable.value)]
        assert np.isfinite(first).all()
        for other in others:
            np.testing.assert_array_equal(other, first)


def test_moving_statistics_are_the_mean_over_shards_by_size(replicas):
    # 6 examples on 4 replicas make shards of 1, 2, 1 and 2.
    x = np.arange(6, dtype="float32")[:, None] ** 2
    strategy = replicas(4)
    with strategy.scope():
        norm = keras.layers.BatchNormalization(momentum=0.9)
        model = keras.Sequential([keras.Input((1,)), norm, keras.layers.Dense(1)])
    Trainer(model, "sgd", "mse").fit((x, x), batch_size=6, epochs=1, shuffle=False, verbose=0)
    shards = [x[:1], x[1:3], x[3:4], x[4:]]
    mean = sum(len(s) / 6 * s.mean() for s in shards)
    variance = sum(len(s) / 6 * s.var() for s in shards)
    np.testing.assert_allclose(norm.moving_mean.numpy(), [0.1 * mean], rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance.numpy(), [0.9 + 0.1 * variance], rtol=1e-5)


def test_moving_statistics_are_written_once_a_step(replicas):
    x = np.arange(6, dtype="float32")[:, None] ** 2
    norm = keras.layers.BatchNormalization(momentum=0.9)
    model = keras.Sequential([keras.Input((1,)), norm, keras.layers.Dense(1)])
    trainer = Trainer(model, "sgd", "mse", micro_batch=4)
    trainer.fit((x, x), batch_size=6, epochs=1, shuffle=False, verbose=0)
    variance = (x[:3].var() + x[3:].var()) / 2
    np.testing.assert_allclose(norm.moving_mean.numpy(), [0.1 * x.mean()], rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance.numpy(), [0.9 + 0.1 * variance], rtol=1e-5)


class Recorder(keras.layers.Layer):
    """Keeps what passes through it in training, where a moving statistic would be."""

    def build(self, shape):
        self.seen = self.add_weight(shape=(8,), initializer="zeros", trainable=False)

    def call(self, x, training=False):
        if training:
            self.seen.assign(keras.ops.mean(x, axis=0))
        return x


@pytest.mark.parametrize(("n", "micro_batch"), [(4, None), (1, 1), (2, 1)])
def test_dropout_masks_differ_in_every_piece(replicas, n, micro_batch):
    # Dropout of ones at rate 1/2 gives 0 or 2, and the mean over four equal masks 0 or 2 as well.
    strategy = replicas(n)
    with strategy.scope():
        recorder = Recorder()
        dropout = keras.layers.Dropout(0.5, seed=3)
        model = keras.Sequential([keras.Input((8,)), dropout, recorder, keras.layers.Dense(1)])
    before = dropout.seed_generator.state.numpy()
    ones = np.ones((4, 8), "float32")
    trainer = Trainer(model, "sgd", "mse", micro_batch=micro_batch)
    trainer.fit((ones, ones[:, :1]), batch_size=4, epochs=1, verbose=0)
    seen = recorder.seen.numpy()
    assert set(seen) <= {0.0, 0.5, 1.0, 1.5, 2.0}
    assert not set(seen) <= {0.0, 2.0}
    np.testing.assert_array_equal(dropout.seed_generator.state.numpy() - before, [0, 1])


class AtMost(keras.layers.Layer):
    """Fails if it sees more than eight examples at once."""

    def call(self, x):
        with tf.control_dependencies([tf.debugging.assert_less_equal(tf.shape(x)[0], 8)]):
            return tf.identity(x)


@pytest.mark.parametrize("n", [1, 2])
def test_no_replica_sees_more_than_a_micro_batch(replicas, blobs, loss, n):
    strategy = replicas(n)
    with strategy.scope():
        model = keras.Sequential([keras.Input((10,)), AtMost(), keras.layers.Dense(3)])
    trainer = Trainer(model, "sgd", loss, metrics=["accuracy"], micro_batch=8, jit_compile=False)
    trainer.fit(blobs, batch_size=100, epochs=1, validation_data=blobs, verbose=0)
    expected = trainer.evaluate(blobs)
    for batch_size in (5, 50):
        batches = tf.data.Dataset.from_tensor_slices(blobs).batch(batch_size)
        assert trainer.evaluate(batches) == pytest.approx(expected, rel=1e-5)
