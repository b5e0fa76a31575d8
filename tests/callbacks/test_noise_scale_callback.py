"""The noise scale of a training against gradients of its batches by hand, and the function."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp.callbacks import NoiseScale
from keras_sharp.measures.noise_scale import noise_scale
from keras_sharp.training import Trainer

L = keras.layers


def problem(strategy=None, examples=66):
    """A linear model under mse, and data of which it explains a part."""
    random = np.random.default_rng(0)
    x = random.normal(size=(examples, 3)).astype("float32")
    y = (x.sum(axis=1, keepdims=True) + random.normal(size=(examples, 1))).astype("float32")
    with (strategy or tf.distribute.get_strategy()).scope():
        model = keras.Sequential([keras.Input((3,)), L.Dense(1)])
    model.set_weights([np.full((3, 1), 0.5), np.array([0.1])])
    return model, (x, y)


def mirrored(count):
    tf.distribute.MirroredStrategy._collective_key_base += 1000  # as in tests/training/conftest.py
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])


def parts_by_hand(weights, x, y, cuts):
    """`tr(Sigma)` and `|G|^2` from the gradients of the parts of one batch."""
    gradients = 2 * (x @ weights[:3] + weights[3] - y) * np.c_[x, np.ones(len(x))]
    parts = np.split(gradients, cuts)
    sizes, means = [len(part) for part in parts], [part.mean(axis=0) for part in parts]
    mean = gradients.mean(axis=0)
    spread = sum(n * np.sum((m - mean) ** 2) for n, m in zip(sizes, means, strict=True))
    trace = spread / (len(parts) - 1)
    return trace, np.sum(mean**2) - trace / len(x), 2 * mean[:3], 2 * mean[3]


def by_hand(x, y, steps, rate, decay):
    """The averages over a training by gradient descent, `steps` the slices and cuts of each."""
    weights = np.array([0.5, 0.5, 0.5, 0.1])[:, None]
    estimates = []
    for rows, cuts in steps:
        xb, yb = x[rows].astype("float64"), y[rows].astype("float64")
        estimates.append(parts_by_hand(weights, xb, yb, cuts)[:2] if cuts else None)
        gradient = 2 * np.c_[xb, np.ones(len(xb))].T @ (xb @ weights[:3] + weights[3] - yb)
        weights = weights - rate * gradient / len(xb)
    estimates = np.array([each for each in estimates if each is not None])
    fading = decay ** np.arange(len(estimates))[::-1]
    trace, norm = fading @ estimates / fading.sum()
    return trace, norm, estimates, fading


# A batch of 30 in micro-batches of at most 10, or on three replicas, makes three parts of 10; the
# last batch of 6 fits into one micro-batch, and makes three parts of 2.
STEPS = [(slice(0, 30), [10, 20]), (slice(30, 60), [10, 20]), (slice(60, 66), None)]


@pytest.mark.parametrize("steps_per_call", [1, None])
def test_micro_batches_against_gradients_by_hand(steps_per_call):
    model, (x, y) = problem()
    callback = NoiseScale(decay=0.8)
    trainer = Trainer(model, keras.optimizers.SGD(0.1), "mse", micro_batch=10)
    history = trainer.fit(
        (x, y),
        batch_size=30,
        epochs=2,
        shuffle=False,
        callbacks=[callback],
        steps_per_call=steps_per_call,
        verbose=0,
    )
    for epochs, logged in enumerate(history.history["noise_scale"], 1):
        trace, norm, estimates, fading = by_hand(x, y, STEPS * epochs, 0.1, 0.8)
        assert logged == pytest.approx(trace / norm, rel=1e-4)
    assert callback.steps == 4  # the last batch of an epoch is a single part
    assert callback.covariance_trace == pytest.approx(trace, rel=1e-4)
    assert callback.square_norm == pytest.approx(norm, rel=1e-4)
    # The error of a weighted mean of independent numbers of one variance.
    share = np.sum(fading**2) / np.sum(fading) ** 2
    differences = estimates @ [1, -trace / norm]
    variance = fading @ differences**2 / np.sum(fading) / (1 - share)
    assert callback.standard_error == pytest.approx(np.sqrt(variance * share) / norm, rel=1e-3)


@pytest.mark.parametrize(
    ("replicas", "micro_batch", "cuts"),
    [(3, None, [10, 20]), (3, 4, [3, 6, 10, 13, 16, 20, 23, 26]), (2, 10, [7, 15, 22])],
)
def test_replicas_against_gradients_by_hand(replicas, micro_batch, cuts):
    strategy = mirrored(replicas)
    model, (x, y) = problem(strategy)
    callback = NoiseScale()
    Trainer(model, "sgd", "mse", strategy=strategy, micro_batch=micro_batch).fit(
        (x[:30], y[:30]), batch_size=30, shuffle=False, callbacks=[callback], verbose=0
    )
    trace, norm, *_ = by_hand(x, y, [(slice(0, 30), cuts)], 0, 0)
    assert callback.covariance_trace == pytest.approx(trace, rel=1e-4)
    assert callback.square_norm == pytest.approx(norm, rel=1e-4)
    assert callback.standard_error is None  # one step says nothing of how steps differ


def test_uneven_parts_and_parts_without_examples():
    strategy = mirrored(4)
    model, (x, y) = problem(strategy)
    callback = NoiseScale(decay=0)
    trainer = Trainer(model, "sgd", "mse", strategy=strategy)
    for size, cuts in ((30, [7, 15, 22]), (3, [1, 2])):  # a replica of four has none of three
        model.set_weights([np.full((3, 1), 0.5), np.array([0.1])])
        trainer.fit(
            (x[:size], y[:size]), batch_size=size, shuffle=False, callbacks=[callback], verbose=0
        )
        trace, norm, *_ = by_hand(x, y, [(slice(0, size), cuts)], 0, 0)
        assert callback.covariance_trace == pytest.approx(trace, rel=1e-4)
        assert callback.square_norm == pytest.approx(norm, rel=1e-4)


def test_single_examples_are_what_the_function_measures():
    model, data = problem()
    callback = NoiseScale()
    expected = noise_scale(model, data, loss="mse", small_batch=1)
    Trainer(model, "sgd", "mse", micro_batch=1).fit(
        data, batch_size=66, callbacks=[callback], verbose=0
    )
    assert callback.value == pytest.approx(expected.value, rel=1e-4)
    assert callback.square_norm == pytest.approx(expected.square_norm, rel=1e-4)


def test_a_masked_loss_counts_parts_as_the_step_does():
    """Parts are shares of the gradient of the batch, so that they add up to it."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(12, 5, 3)).astype("f4"), random.integers(0, 4, (12, 5))
    y[random.uniform(size=y.shape) < 0.4] = -1
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    callbacks = []
    for micro_batch in (1, 4):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((5, 3)), L.Dense(4)])
        if micro_batch == 1:
            expected = noise_scale(model, (x, y), loss=loss, small_batch=1)
        callbacks.append(NoiseScale())
        Trainer(model, "sgd", loss, micro_batch=micro_batch).fit(
            (x, y), batch_size=12, callbacks=callbacks[-1:], verbose=0
        )
    ones, fours = callbacks
    assert ones.value == pytest.approx(expected.value, rel=1e-4)
    total = [each.square_norm + each.covariance_trace / 12 for each in callbacks]  # |g|^2
    assert total[0] == pytest.approx(total[1], rel=1e-4)
    assert fours.steps == 1


# -- the same training ---------------------------------------------------------------------------


class TwoPasses:
    """A gradient rule that steps along the gradient ahead."""

    def __call__(self, step):
        loss, gradient = step.gradient()
        ahead = step.map(
            lambda weights, g: [w - 0.1 * d for w, d in zip(weights, g, strict=True)],
            step.weights,
            gradient,
        )
        return loss, step.gradient(at=ahead)[1]


def test_the_first_pass_counts_whatever_the_rule():
    callbacks = []
    for rule in (None, TwoPasses()):
        model, data = problem()
        callbacks.append(NoiseScale())
        Trainer(model, "sgd", "mse", micro_batch=11, gradient=rule).fit(
            data, batch_size=66, shuffle=False, callbacks=callbacks[-1:], verbose=0
        )
    assert callbacks[0].value == pytest.approx(callbacks[1].value, rel=1e-6)


def test_the_training_is_the_same_without():
    weights = []
    for callbacks in ([], [NoiseScale()]):
        model, data = problem()
        trainer = Trainer(model, "adam", "mse", micro_batch=8)
        trainer.fit(data, batch_size=30, epochs=2, callbacks=callbacks, verbose=0)
        weights.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_array_equal(*weights)


def test_a_trainer_takes_it_up_and_lets_it_go():
    model, data = problem()
    trainer = Trainer(model, "sgd", "mse", micro_batch=8)
    options = {"batch_size": 30, "verbose": 0}
    assert "noise_scale" not in trainer.fit(data, **options).history
    assert "noise_scale" in trainer.fit(data, callbacks=[NoiseScale()], **options).history
    trainer.evaluate(data)
    assert "noise_scale" not in trainer.fit(data, **options).history


def test_many_steps_stay_in_one_call():
    calls = []

    class Spy(NoiseScale):
        def on_train_steps_end(self, figures):
            calls.append(len(figures["size"]))
            super().on_train_steps_end(figures)

    model, data = problem()
    Trainer(model, "sgd", "mse", micro_batch=2).fit(
        data, batch_size=6, callbacks=[Spy()], steps_per_call=5, verbose=0
    )
    assert calls == [5, 5, 1]


def test_a_resumed_training_ends_with_the_same_averages(tmp_path):
    class Stop(Exception):
        pass

    class StopAfter(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise Stop

    def train(path, *others):
        model, data = problem()
        callback = NoiseScale()
        trainer = Trainer(model, "sgd", "mse", micro_batch=8)
        history = trainer.fit(
            data,
            batch_size=30,
            epochs=4,
            callbacks=[callback, *others],
            checkpoint=tmp_path / path,
            verbose=0,
        )
        return callback, history.history["noise_scale"]

    whole, history = train("whole.npz")
    with pytest.raises(Stop):
        train("parts.npz", StopAfter())
    again, resumed = train("parts.npz")
    assert resumed == history and again.steps == whole.steps
    assert again.value == whole.value and again.standard_error == whole.standard_error


def test_steps_that_are_not_finite_do_not_count():
    callback = NoiseScale()
    callback.on_train_begin()
    good = {"size": [8], "parts": [2], "square": [1.0], "part_squares": [1.25]}
    for figures in (good, good | {"part_squares": [np.inf]}, good | {"square": [np.nan]}):
        callback.on_train_steps_end(figures)
        assert callback.steps == 1 and callback.value == 2 / 0.75


def test_no_value_is_no_entry_in_the_logs():
    callback, logs = NoiseScale(), {"loss": 1.0}
    callback.on_train_begin()
    callback.on_train_steps_end({"size": [8], "parts": [2], "square": [1.0], "part_squares": [3.0]})
    assert callback.covariance_trace == 16 and callback.square_norm == -1
    assert callback.value is None and callback.standard_error is None
    callback.on_epoch_end(0, logs)
    assert logs == {"loss": 1.0}


def test_the_stated_error_covers():
    """Steps whose estimates scatter: the average of one in twenty is off by two errors."""
    random, off = np.random.default_rng(0), []
    for _ in range(400):
        callback = NoiseScale(decay=0.99)
        callback.on_train_begin()
        # Four parts of 8: entries of g_p are N(0.5, 1 / 8) in 30 dimensions.
        parts = 0.5 + random.normal(size=(300, 4, 30)) / np.sqrt(8)
        callback.on_train_steps_end(
            {
                "size": np.full(300, 32.0),
                "parts": np.full(300, 4.0),
                "square": np.sum(parts.mean(axis=1) ** 2, axis=1),
                "part_squares": np.mean(np.sum(parts**2, axis=2), axis=1),
            }
        )
        off.append((callback.value - 30 / (30 * 0.25)) / callback.standard_error)
    assert np.mean(np.abs(off) < 2) == pytest.approx(0.95, abs=0.03)


# -- errors --------------------------------------------------------------------------------------


def test_one_part_is_an_error_that_says_what_to_do():
    for micro_batch in (None, 66):
        model, data = problem()
        trainer = Trainer(model, "sgd", "mse", micro_batch=micro_batch)
        with pytest.raises(ValueError, match="`micro_batch` to `Trainer`, smaller than"):
            trainer.fit(data, batch_size=66, callbacks=[NoiseScale()], verbose=0)


def test_model_fit_is_an_error_that_says_what_to_do():
    model, (x, y) = problem()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="Train with `keras_sharp.training.Trainer`"):
        model.fit(x, y, callbacks=[NoiseScale()], verbose=0)


def test_other_communications_do_not_know_the_gradient():
    model, data = problem()
    trainer = Trainer(model, "sgd", "mse", micro_batch=8, communication=lambda g, share: g)
    with pytest.raises(ValueError, match=r"`communication` must be `AllReduce\(\)`"):
        trainer.fit(data, batch_size=30, callbacks=[NoiseScale()], verbose=0)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2])
def test_bad_decay(decay):
    with pytest.raises(ValueError, match="`decay` must be at least 0 and less than 1"):
        NoiseScale(decay)
