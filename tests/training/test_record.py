"""A training that was stopped ends like one that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_sharp.training import Plain, Trainer, checkpoint

STOPPING = keras.callbacks.EarlyStopping
PLATEAU = keras.callbacks.ReduceLROnPlateau


class Stop(Exception):
    pass


def stop_before(epoch):
    def stop(now, logs=None):
        if now == epoch:
            raise Stop

    return keras.callbacks.LambdaCallback(on_epoch_begin=stop)


@pytest.fixture
def train(net, loss, blobs, tmp_path):
    """Trains with dropout, with everything made anew as in another process."""

    def run(epochs=5, data=blobs, callbacks=(), path=tmp_path / "training.npz", **options):
        optimizer = options.pop("optimizer", None) or keras.optimizers.Adam(0.01)
        names = ("gradient", "micro_batch", "jit_compile")
        settings = {"jit_compile": False} | {k: options.pop(k) for k in names if k in options}
        model = net(batch_norm="plain", dropout=0.5)
        trainer = Trainer(model, optimizer, loss, metrics=["accuracy"], **settings)
        options = {"batch_size": 32, "validation_data": data, "verbose": 0} | options
        history = trainer.fit(
            data, epochs=epochs, checkpoint=path, callbacks=list(callbacks), **options
        )
        return trainer, history

    return run


def state(trainer):
    return [v.numpy() for v in [*trainer.model.variables, *trainer.model.optimizer.variables]]


def assert_same(found, expected):
    for a, b in zip(state(found[0]), state(expected[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(found[0].batch_losses, expected[0].batch_losses)
    assert found[1].history == expected[1].history
    assert found[1].epoch == expected[1].epoch


def test_stopped_twice_it_ends_bit_for_bit_the_same(train):
    expected = train(path=None, jit_compile="auto")
    for epoch in (2, 3):
        with pytest.raises(Stop):
            train(callbacks=[stop_before(epoch)], jit_compile="auto")
    assert_same(train(jit_compile="auto"), expected)


def test_a_finished_training_returns_at_once(train):
    expected = train()
    assert_same(train(callbacks=[stop_before(0)]), expected)


def test_more_epochs_go_on(train):
    expected = train(7, path=None)
    train(5)
    assert_same(train(7), expected)
    with pytest.raises(ValueError, match=r"`epochs` must be at least .* 7. Received: epochs=6"):
        train(6)


def test_callbacks_go_on_where_they_were(train):
    def callbacks():
        stopping = STOPPING("val_loss", mode="max", patience=4, restore_best_weights=True)
        return [PLATEAU("val_loss", mode="max", patience=2, cooldown=1), stopping]

    expected = train(9, callbacks=callbacks(), path=None)
    assert len(expected[1].epoch) == 5  # the validation loss only falls
    for epoch in (1, 3, 4):
        with pytest.raises(Stop):
            train(9, callbacks=[*callbacks(), stop_before(epoch)])
    with pytest.raises(ValueError, match="the same callbacks. It holds the states of"):
        train(9, callbacks=[])
    assert_same(train(9, callbacks=callbacks()), expected)
    # Stopped early is finished, with the best weights put back.
    assert_same(train(9, callbacks=[*callbacks(), stop_before(0)]), expected)


class Counting(Plain):
    """A rule with a state of its own."""

    def __init__(self):
        self.started = 0

    def get_state(self):
        return {"started": self.started, "list": [np.arange(3)]}

    def set_state(self, state):
        assert list(state["list"][0]) == [0, 1, 2]
        self.started = state["started"] + 1


def test_rules_with_a_state_go_on(train):
    with pytest.raises(Stop):
        train(gradient=Counting(), callbacks=[stop_before(2)])
    rule = Counting()
    train(gradient=rule)
    assert rule.started == 1


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 33},
        {"seed": 1},
        {"shuffle": False},
        {"optimizer": keras.optimizers.Adam(0.02)},
        {"micro_batch": 8},
        {"gradient": Counting()},
    ],
)
def test_other_settings_are_refused(train, change):
    train(1)
    with pytest.raises(ValueError, match="must be of a training with the same settings"):
        train(2, **change)


def test_other_data_and_other_models_are_refused(train, blobs, net, loss, tmp_path):
    train(1)
    with pytest.raises(ValueError, match="has examples=130. Received: examples=100"):
        train(2, data=(blobs[0][:100], blobs[1][:100]))
    trainer = Trainer(net(), keras.optimizers.Adam(0.01), loss)
    with pytest.raises(ValueError, match="must be of the same model and optimizer"):
        trainer.fit(blobs, batch_size=32, epochs=2, checkpoint=tmp_path / "training.npz")


def test_damaged_and_foreign_files_are_refused(train, tmp_path):
    path = tmp_path / "training.npz"
    train(1)
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    for content in (b"", b"no archive", whole[:middle], flipped):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged or something else"):
            train(2)
    np.savez(path, weights=np.zeros(3))
    with pytest.raises(ValueError, match="is damaged or something else"):
        train(2)


def test_a_loss_that_is_not_finite_leaves_the_checkpoint(train, tmp_path):
    path = tmp_path / "training.npz"
    expected = train(2)
    content = path.read_bytes()

    def explode(epoch, logs=None):
        trainer_of[0].learning_rate = float("inf")

    optimizer = keras.optimizers.Adam(0.01)
    trainer_of = [optimizer]
    with pytest.raises(FloatingPointError, match="epoch 3, step 2"):
        callback = keras.callbacks.LambdaCallback(on_epoch_begin=explode)
        train(5, optimizer=optimizer, callbacks=[callback])
    assert path.read_bytes() == content
    assert_same(train(2), expected)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = str(tmp_path / "file.npz")
    checkpoint.save(path, [np.arange(3.0)], {"a": [1, None, np.zeros(2)]})

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, [np.zeros(3)], {})
    values, state = checkpoint.load(path, [(3,)])
    np.testing.assert_array_equal(values, [np.arange(3.0)])
    assert state["a"][:2] == [1, None] and state["a"][2].shape == (2,)


def test_replicas_go_on_too(net, loss, blobs, replicas, tmp_path):
    def run(path, *callbacks):
        strategy = replicas(2)
        model = net(strategy, "plain", dropout=0.5)
        trainer = Trainer(model, "adam", loss)
        history = trainer.fit(
            blobs, batch_size=32, epochs=3, checkpoint=path, callbacks=callbacks, verbose=0
        )
        return trainer, history

    expected = run(None)
    with pytest.raises(Stop):
        run(tmp_path / "training.npz", stop_before(1))
    assert_same(run(tmp_path / "training.npz"), expected)


SCRIPT = """
import sys, time
import keras, numpy as np
from keras_sharp.training import Trainer
keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
x = rng.normal(size=(300, 10)).astype("float32")
layers = [keras.layers.Dense(64, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
model = keras.Sequential([keras.Input((10,)), *layers])
trainer = Trainer(model, keras.optimizers.Adam(), "mse")
slow = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: time.sleep(float(sys.argv[2])))
trainer.fit((x, x[:, :1]), batch_size=32, epochs=40, checkpoint=sys.argv[1] + ".npz",
            callbacks=[slow], verbose=0)
variables = [*model.variables, *model.optimizer.variables]
np.savez(sys.argv[1] + ".end.npz", *[v.numpy() for v in variables])
"""


@pytest.mark.slow
def test_killed_twice_in_a_row(tmp_path):
    def start(name, pause):
        arguments = [sys.executable, "-c", SCRIPT, str(tmp_path / name), str(pause)]
        return subprocess.Popen(arguments, stderr=subprocess.DEVNULL)

    assert start("whole", 0).wait(300) == 0
    stored = tmp_path / "killed.npz"
    for _ in range(2):
        before = stored.stat().st_mtime_ns if stored.exists() else 0
        process = start("killed", 0.2)
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and process.poll() is None:
            if stored.exists() and stored.stat().st_mtime_ns > before:
                break
            time.sleep(0.02)
        time.sleep(0.7)  # some epochs further, at an odd moment
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert start("killed", 0).wait(300) == 0
    with np.load(tmp_path / "whole.end.npz") as whole, np.load(tmp_path / "killed.end.npz") as end:
        assert len(whole.files) > 6
        for name in whole.files:
            np.testing.assert_array_equal(end[name], whole[name])
    assert not Path(f"{stored}.tmp").exists()
