"""AutoWU on losses of known shape, and in both loops."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp.callbacks import AutoWU
from keras_sharp.schedules import AutoWURate
from keras_sharp.training import Trainer

L = keras.layers


def linear_model(rate, strategy=None):
    """A linear model under mse, and data in batches of 8, 8, 8 and 2."""
    random = np.random.default_rng(0)
    x = random.normal(size=(26, 3)).astype("float32")
    y = (x.sum(axis=1, keepdims=True) + random.normal(size=(26, 1))).astype("float32")
    with (strategy or tf.distribute.get_strategy()).scope():
        model = keras.Sequential([keras.Input((3,)), L.Dense(1)])
        model.set_weights([np.full((3, 1), 0.5), np.array([0.1])])
        optimizer = keras.optimizers.SGD(rate)
    return model, optimizer, x, y


def feed(losses, rate, **options):
    """Runs AutoWU on losses instead of a training, until the warm-up ends."""
    callback = AutoWU(rate, **options)
    model, optimizer, *_ = linear_model(rate)
    model.compile(optimizer, "mse")
    callback.set_model(model)
    callback.set_params({"epochs": rate.epochs, "steps": rate.steps_per_epoch})
    callback.on_train_begin()
    per_epoch = rate.steps_per_epoch
    for epoch in range(rate.epochs):
        if rate.decay_start is not None:
            break
        callback.on_epoch_begin(epoch)
        callback.on_train_steps_end({"loss": losses[epoch * per_epoch : (epoch + 1) * per_epoch]})
        optimizer.iterations.assign((epoch + 1) * per_epoch)
        callback.on_epoch_end(epoch, {})
    return callback


def bowl(rate, bottom, noise):
    """Losses whose mean is a parabola in the logarithm of the rate, its minimum at a step."""
    steps = np.arange(rate.warmup_steps)
    decades = (steps - bottom) * np.log10(1e5) / rate.warmup_steps
    random = np.random.default_rng(0)
    return 1 + 0.3 * decades**2 + noise * random.normal(size=len(steps))


@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_the_rate_goes_back_to_the_bottom_of_a_bowl(noise):
    rate = AutoWURate(epochs=30, steps_per_epoch=20)
    callback = feed(bowl(rate, 160, noise), rate)
    # The bottom is at the end of epoch 8, and each of the three votes is after it.
    assert rate.decay_start >= 220
    assert rate.decay_start % 20 == 0
    assert 1 / 1.5 < rate.peak / float(rate.rising(160)) < 1.5
    assert callback.votes[-3:] == [True] * 3
    assert not all(callback.votes[-4:])
    assert len(callback.losses) == rate.decay_start


def test_a_loss_that_falls_all_the_way_reaches_the_cap_and_warns():
    rate = AutoWURate(epochs=13, steps_per_epoch=10, decay="constant")
    losses = 2 - np.linspace(0, 1, 130) + 0.01 * np.random.default_rng(0).normal(size=130)
    with pytest.warns(UserWarning, match="cap of 65 steps"):
        callback = feed(losses, rate)
    assert callback.votes == [False] * 6
    assert rate.decay_start == 65
    # In the middle of an epoch; the rate stays what it was in the last step of the warm-up.
    assert float(rate(64)) == pytest.approx(10 ** (-5 / 65), rel=1e-5)
    assert float(rate(65)) == float(rate(100)) == float(rate(64))


def test_the_losses_decide_the_rate():
    rates = []
    for _ in range(2):
        rate = AutoWURate(epochs=20, steps_per_epoch=30)
        feed(bowl(rate, 80, 0.1), rate)
        rates.append([float(rate(step)) for step in range(600)])
    assert rates[0] == rates[1]
    assert rate.decay_start is not None


def test_votes_must_be_in_a_row(monkeypatch):
    answers = iter([0.99, 0.99, 0.1, 0.99, 0.99, 0.99])
    monkeypatch.setattr(
        "keras_sharp.callbacks.autowu.passed_minimum",
        # Two draws of five are against it; the places of the minima have the mean 0.5.
        lambda *_, **__: (np.array([next(answers)] * 3 + [0.0] * 2), np.linspace(0.3, 0.7, 5)),
    )
    rate = AutoWURate(20, 5, growth="linear", initial_learning_rate=0.1)
    callback = feed(np.ones(100), rate)
    assert callback.votes == [True, True, False, True, True, True]
    assert rate.decay_start == 30
    # A rate that grows linearly: the mean of the rates is the rate half the way to step 29.
    assert rate.peak == pytest.approx(0.1 + 0.9 * 14.5 / 50)


def test_mirrored_and_micro_batched_and_plain_trainers_give_the_same_losses():
    found = []
    for replicas, options in ((1, {}), (1, {"micro_batch": 3}), (2, {})):
        strategy = None
        if replicas > 1:
            tf.distribute.MirroredStrategy._collective_key_base += 1000
            strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with (strategy or tf.distribute.get_strategy()).scope():
            rate = AutoWURate(10, 4, 1e-3, 0.3)
        model, optimizer, x, y = linear_model(rate, strategy)
        callback = AutoWU(rate, confidence=1e-9)  # votes for the end from the first epoch on
        trainer = Trainer(model, optimizer, "mse", strategy=strategy, **options)
        trainer.fit((x, y), batch_size=8, epochs=5, shuffle=False, callbacks=[callback], verbose=0)
        assert rate.decay_start == 12
        found.append([*callback.losses, *trainer.batch_losses, rate.peak])
    assert len(found[0]) == 12 + 4 + 1
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-4)


class Rates(keras.callbacks.Callback):
    """What `Trainer` tells of its steps, and in how many calls."""

    def on_train_begin(self, logs=None):
        self.calls, self.rates, self.losses = 0, [], []

    def on_train_steps_end(self, figures):
        self.calls += 1
        self.rates += figures["learning_rate"].tolist()
        self.losses += figures["loss"].tolist()


def test_in_trainer_the_steps_stay_in_the_graph_and_follow_the_rate():
    rate = AutoWURate(10, 4, 1e-3, 0.3)
    model, optimizer, x, y = linear_model(rate)
    callback, rates = AutoWU(rate, confidence=1e-9), Rates()
    Trainer(model, optimizer, "mse").fit(
        (x, y), batch_size=8, epochs=10, steps_per_call=3, callbacks=[callback, rates], verbose=0
    )
    assert rates.calls == 20  # three batches of 8, and one of 2
    np.testing.assert_allclose(rates.rates, [float(rate(step)) for step in range(40)], rtol=1e-6)
    assert callback.losses.tolist() == rates.losses[:12]
    assert 1e-3 <= rate.peak <= float(rate.rising(11))


@pytest.mark.parametrize("loop", ["fit", "trainer"])
def test_losses_are_those_of_the_batches(loop):
    rate = AutoWURate(10, 4, 1e-3, 0.3)
    model, optimizer, x, y = linear_model(rate)
    callback = AutoWU(rate)
    if loop == "fit":
        model.compile(optimizer, "mse")
        fit = model.fit
        data = (x, y)
    else:
        fit = Trainer(model, optimizer, "mse").fit
        data = ((x, y),)
    fit(*data, batch_size=8, epochs=2, shuffle=False, callbacks=[callback], verbose=0)
    weights, expected = np.array([0.5, 0.5, 0.5, 0.1])[:, None], []
    for step in range(8):
        rows = slice(step % 4 * 8, step % 4 * 8 + 8)
        design = np.c_[x[rows], np.ones(len(x[rows]))]
        error = design @ weights - y[rows]
        expected.append(np.mean(error**2))
        weights = weights - float(rate(step)) * 2 * design.T @ error / len(design)
    np.testing.assert_allclose(callback.losses, expected, rtol=1e-5)


def test_fit_under_a_strategy_has_the_losses_of_global_batches():
    tf.distribute.MirroredStrategy._collective_key_base += 1000
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    rate = AutoWURate(10, 3, 1e-6, 1e-5)  # so small that the weights hardly move
    model, optimizer, x, y = linear_model(rate, strategy)
    with strategy.scope():
        model.compile(optimizer, "mse")
    callback = AutoWU(rate)
    model.fit(
        x[:24], y[:24], batch_size=8, shuffle=False, epochs=2, callbacks=[callback], verbose=0
    )
    error = (x[:24] @ np.full((3, 1), 0.5) + 0.1 - y[:24]).reshape(3, 8)
    np.testing.assert_allclose(callback.losses, [*np.mean(error**2, axis=1)] * 2, rtol=1e-3)


def test_mixed_precision_finds_its_schedule():
    rate = AutoWURate(10, 4, 1e-3, 0.3)
    model, optimizer, x, y = linear_model(rate)
    scaled = keras.optimizers.LossScaleOptimizer(optimizer)
    callback = AutoWU(rate, confidence=1e-9)
    Trainer(model, scaled, "mse").fit(
        (x, y), batch_size=8, epochs=4, callbacks=[callback], verbose=0
    )
    assert rate.decay_start == 12


class Stop(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("epoch", [2, 4])
def test_a_training_that_was_stopped_goes_on_with_the_same_bits(tmp_path, epoch):
    def train(checkpoint=None, callbacks=()):
        rate = AutoWURate(8, 4, 1e-3, 0.3)
        model, optimizer, x, y = linear_model(rate)
        callback = AutoWU(rate, confidence=1e-9)
        Trainer(model, optimizer, "mse").fit(
            (x, y),
            batch_size=8,
            epochs=8,
            callbacks=[callback, *callbacks],
            checkpoint=checkpoint,
            verbose=0,
        )
        weights = np.concatenate([w.ravel() for w in model.get_weights()])
        return weights, rate.get_state(), callback.losses, callback.votes

    path = tmp_path / "training.npz"
    with pytest.raises(KeyboardInterrupt):
        train(path, [Stop(epoch)])  # before the decision, and after it
    weights, state, losses, votes = train(path)
    expected = train()
    assert state == expected[1] and votes == expected[3]
    assert state["decay_start"] == 12
    np.testing.assert_array_equal(losses, expected[2])
    np.testing.assert_array_equal(weights, expected[0])


def test_the_cap_is_remembered(tmp_path):
    rate = AutoWURate(6, 4, 1e-3, 0.01)
    model, optimizer, x, y = linear_model(rate)
    trainer, path = Trainer(model, optimizer, "mse"), tmp_path / "training.npz"
    options = {"batch_size": 8, "checkpoint": path, "verbose": 0}
    with pytest.warns(UserWarning, match="cap of 12 steps"):
        trainer.fit((x, y), epochs=4, callbacks=[AutoWU(rate)], **options)
    trainer.fit((x, y), epochs=6, callbacks=[AutoWU(rate)], **options)  # a warning is an error


def test_fit_goes_on_where_it_was():
    rate = AutoWURate(8, 4, 1e-3, 0.3)
    model, optimizer, x, y = linear_model(rate)
    model.compile(optimizer, "mse")
    callback = AutoWU(rate, confidence=1e-9)
    for first, last in ((0, 2), (2, 4)):
        model.fit(
            x, y, batch_size=8, initial_epoch=first, epochs=last, callbacks=[callback], verbose=0
        )
    assert rate.decay_start == len(callback.losses) == 12


def test_fit_goes_on_from_a_backup_at_the_same_rates(tmp_path):
    def train(name=None, stop=None, state_file=True):
        rate = AutoWURate(12, 4, 1e-3, 0.3)
        model, optimizer, x, y = linear_model(rate)
        model.compile(optimizer, "mse", run_eagerly=True)
        callbacks = []
        if name is not None:
            file = tmp_path / f"{name}.json" if state_file else None
            callbacks += [AutoWU(rate, confidence=1e-9, state_file=file)]
            callbacks += [keras.callbacks.BackupAndRestore(tmp_path / name)]
        else:
            callbacks += [AutoWU(rate, confidence=1e-9)]
        if stop is not None:
            callbacks += [Stop(stop)]
        options = {"batch_size": 8, "epochs": 12, "shuffle": False, "verbose": 0}
        model.fit(x, y, callbacks=callbacks, **options)
        return np.concatenate([w.ravel() for w in model.get_weights()]), rate.get_state()

    expected, state = train()
    assert state["decay_start"] == 12
    # Before the decision and after it, in the first half and in the second.
    for stop in (2, 5, 8):
        with pytest.raises(KeyboardInterrupt):
            train(f"stop-{stop}", stop)
        weights, found = train(f"stop-{stop}")
        assert found == state
        np.testing.assert_array_equal(weights, expected)
    for stop in (2, 8):
        with pytest.raises(KeyboardInterrupt):
            train(f"lost-{stop}", stop, state_file=False)
        with pytest.raises(ValueError, match=rf"state_file.*0 losses of {4 * stop} steps"):
            train(f"lost-{stop}", state_file=False)


def test_a_new_training_begins_anew():
    rate = AutoWURate(8, 4, 1e-3, 0.3)
    callback = AutoWU(rate, confidence=1e-9)
    for _ in range(2):
        model, optimizer, x, y = linear_model(rate)
        model.compile(optimizer, "mse")
        model.fit(x, y, batch_size=8, epochs=3, callbacks=[callback], verbose=0)
        assert callback.votes == [True] * 3
        assert len(callback.losses) == 12


def test_trainings_that_do_not_fit_are_refused():
    rate = AutoWURate(4, 4, warmup_share=1.0)
    model, optimizer, x, y = linear_model(rate)
    options = {"batch_size": 8, "callbacks": [AutoWU(rate)], "verbose": 0}
    model.compile(optimizer, "mse")
    with pytest.raises(ValueError, match="4 epochs of 4 steps. Received: 2 epochs of 3 steps"):
        model.fit(x[:24], y[:24], epochs=2, **options)
    with pytest.raises(ValueError, match="4 epochs of 4 steps. Received: 5 epochs of 4 steps"):
        model.fit(x, y, epochs=5, **options)
    model.fit(x, y, epochs=1, **options)
    before = model.get_weights()
    with pytest.raises(ValueError, match="losses of all steps.*0 losses of 4 steps"):
        model.fit(x, y, epochs=1, **{**options, "callbacks": [AutoWU(rate)]})
    np.testing.assert_array_equal(model.get_weights()[0], before[0])  # no epoch was lost
    optimizer.iterations.assign(16)
    with pytest.raises(ValueError, match="ended after 16 steps"):
        model.fit(x, y, epochs=1, **options)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="must use the schedule"):
        model.fit(x, y, epochs=1, **options)
    # An equal schedule: the decay would go to the other one.
    model.compile(keras.optimizers.SGD(AutoWURate(4, 4, warmup_share=1.0)), "mse")
    with pytest.raises(ValueError, match="must use the schedule"):
        model.fit(x, y, epochs=1, **options)
    model.compile(keras.optimizers.SGD(rate, gradient_accumulation_steps=2), "mse")
    with pytest.raises(ValueError, match="Received: gradient_accumulation_steps=2"):
        model.fit(x, y, epochs=1, **options)


def test_a_batch_that_grows_is_refused_before_it_trains():
    rate = AutoWURate(4, 4, warmup_share=1.0)
    model, optimizer, x, y = linear_model(rate)
    trainer, sizes = Trainer(model, optimizer, "mse", jit_compile=False), {0: 8, 1: 13}
    options = {"callbacks": [AutoWU(rate)], "verbose": 0}
    with pytest.raises(ValueError, match="4 epochs of 4 steps. Received: 4 epochs of 2 steps"):
        trainer.fit((x, y), batch_size=sizes, epochs=4, **options)
    assert optimizer.iterations.numpy() == 4


def test_a_loop_that_skips_batches_is_refused():
    rate = AutoWURate(2, 4)
    model, optimizer, x, y = linear_model(rate)
    model.compile(optimizer, "mse", steps_per_execution=2)
    with pytest.raises(ValueError, match="steps_per_execution=1"):
        model.fit(x, y, batch_size=8, callbacks=[AutoWU(rate)], verbose=0)


def test_a_model_that_does_not_count_its_loss_is_refused():
    class Silent(keras.Model):
        def train_step(self, data):
            return {"loss": 0.0}

    rate = AutoWURate(2, 1)
    _, optimizer, x, y = linear_model(rate)
    model = Silent()
    model.compile(optimizer, "mse")
    with pytest.raises(ValueError, match="Received: Silent"):
        model.fit(x, y, batch_size=26, callbacks=[AutoWU(rate)], verbose=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.1}, "`rate`"),
        ({"patience": 0}, "`patience`"),
        ({"draws": 1.5}, "`draws`"),
        ({"confidence": 1.0}, "`confidence`"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AutoWU(**{"rate": AutoWURate(10, 5), **options})
