"""A training that was stopped ends like one that was not."""

import json
import os
import signal
import tempfile

import keras
import numpy as np
import pytest
from forks import Forks

from keras_sharp.training import AllReduce, Plain, Trainer, checkpoint

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
        names = ("gradient", "communication", "micro_batch", "jit_compile")
        settings = {"jit_compile": False} | {k: options.pop(k) for k in names if k in options}
        model = net(batch_norm="plain", dropout=options.pop("dropout", 0.5))
        given = options.pop("loss", loss)
        trainer = Trainer(model, optimizer, given, metrics=["accuracy"], **settings)
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


@pytest.mark.slow
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
    assert_same(train(9, callbacks=callbacks()), expected)
    # Stopped early is finished, with the best weights put back.
    assert_same(train(9, callbacks=[*callbacks(), stop_before(0)]), expected)


def test_what_keras_callbacks_saved_or_swapped_is_known(train, tmp_path):
    def callbacks(name):
        (tmp_path / name).mkdir()
        paths = [str(tmp_path / name / f"{kind}-{{epoch}}.weights.h5") for kind in ("best", "step")]
        options = {"mode": "max", "save_best_only": True, "save_weights_only": True}
        return [
            keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
            keras.callbacks.ModelCheckpoint(paths[0], "val_loss", **options),
            keras.callbacks.ModelCheckpoint(paths[1], save_weights_only=True, save_freq=3),
        ]

    def files(*names):
        return sorted(path.name for name in names for path in (tmp_path / name).iterdir())

    def optimizer():
        return keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)

    options = {"batch_size": 65, "dropout": 0.0}
    expected = train(4, callbacks=callbacks("all"), path=None, optimizer=optimizer(), **options)
    # The validation loss only falls; of eight steps the third and the sixth are kept.
    assert files("all") == ["best-1.weights.h5", "step-2.weights.h5", "step-3.weights.h5"]
    with pytest.raises(Stop):
        train(4, callbacks=[*callbacks("a"), stop_before(2)], optimizer=optimizer(), **options)
    found = train(4, callbacks=callbacks("b"), optimizer=optimizer(), **options)
    assert_same(found, expected)
    assert files("a", "b") == files("all")


def test_a_callback_that_is_new_begins_when_it_comes(train):
    train(3)
    stopping = STOPPING("val_loss", mode="max", patience=4)
    assert train(20, callbacks=[stopping])[1].epoch[-1] == 3 + 4


@pytest.mark.parametrize("stops", [True, False])
def test_killed_before_the_end_it_takes_no_further_step(train, stops):
    """The last epoch is stored, but its callbacks were not yet told that the training ends."""

    def callbacks():
        patience = 2 if stops else 9
        return [STOPPING("val_loss", mode="max", patience=patience, restore_best_weights=True)]

    def optimizer():
        return keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)

    def fail(logs=None):
        raise Stop

    def keep(logs=None):
        told.append(logs)

    told = []
    options = {"dropout": 0.0, "steps_per_call": 5}
    end = keras.callbacks.LambdaCallback(on_train_end=keep)
    expected = train(5, callbacks=[*callbacks(), end], path=None, optimizer=optimizer(), **options)
    assert len(expected[1].epoch) == (3 if stops else 5)
    with pytest.raises(Stop):
        failing = keras.callbacks.LambdaCallback(on_train_end=fail)
        train(5, callbacks=[failing, *callbacks()], optimizer=optimizer(), **options)
    again = [stop_before(len(expected[1].epoch)), *callbacks(), end]
    assert_same(train(5, callbacks=again, optimizer=optimizer(), **options), expected)
    assert told[0] == told[1]


class Counting:
    """Something with a state of its own: how often a training was begun with it."""

    def __init__(self):
        self.started = 0

    def get_state(self):
        return {"started": self.started, "list": [np.arange(3)]}

    def set_state(self, state):
        assert list(state["list"][0]) == [0, 1, 2]
        self.started = state["started"] + 1


class CountingRule(Counting, Plain):
    pass


class CountingCommunication(Counting, AllReduce):
    pass


class CountingSchedule(Counting, keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.01

    def get_config(self):
        return {}


def in_optimizer(schedule):
    return {"optimizer": keras.optimizers.SGD(schedule)}


def in_scaled_optimizer(schedule):
    return {"optimizer": keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(schedule))}


@pytest.mark.parametrize(
    ("kind", "slot"),
    [
        (CountingRule, lambda rule: {"gradient": rule}),
        (CountingCommunication, lambda communication: {"communication": communication}),
        (CountingSchedule, in_optimizer),
        (CountingSchedule, in_scaled_optimizer),
    ],
)
def test_parts_with_a_state_go_on(train, kind, slot):
    with pytest.raises(Stop):
        train(3, callbacks=[stop_before(1)], **slot(kind()))
    part = kind()
    train(3, **slot(part))
    assert part.started == 1


class Scaled(Plain):
    """A rule with a setting."""

    def __init__(self, factor):
        self._factor = factor


def squared(power):
    def loss(y, y_pred):
        return keras.ops.mean(keras.ops.abs(y - y_pred[:, :1]) ** power, axis=-1)

    return loss


@pytest.mark.parametrize(
    ("first", "then", "name"),
    [
        ({"gradient": Scaled(1.0)}, {"gradient": Scaled(2.0)}, "gradient._factor=1.0"),
        ({"loss": squared(2)}, {"loss": squared(3)}, r"loss.values=\[2\]"),
        ({"dropout": 0.5}, {"dropout": 0.4}, "Dropout.rate=0.5"),
    ],
)
def test_settings_of_one_name_and_different_values_are_refused(train, first, then, name):
    train(1, **first)
    train(1, **first)
    with pytest.raises(ValueError, match=f"the same settings. .* has .*{name}. Received"):
        train(2, **then)


def test_a_folder_that_can_not_be_written_to(train, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    message = "`checkpoint` must be in a folder that exists and can be written to"
    for path in (tmp_path / "none" / "a.npz", tmp_path / "file" / "a.npz"):
        with pytest.raises(ValueError, match=message):
            train(path=path, callbacks=[stop_before(0)])

    def forbid(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", forbid)
    with pytest.raises(ValueError, match=f"{message}.*Permission denied"):
        train(callbacks=[stop_before(0)])


def test_a_last_step_that_diverges_leaves_the_checkpoint(train, tmp_path):
    expected = train(2, batch_size=130)
    content = (tmp_path / "training.npz").read_bytes()
    optimizer = keras.optimizers.Adam(0.01)

    def explode(epoch, logs=None):
        optimizer.learning_rate = float("inf")

    with pytest.raises(FloatingPointError, match="weights are not finite in epoch 3, step 1"):
        callback = keras.callbacks.LambdaCallback(on_epoch_begin=explode)
        train(5, optimizer=optimizer, callbacks=[callback], batch_size=130)
    assert (tmp_path / "training.npz").read_bytes() == content
    assert_same(train(2, batch_size=130), expected)


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 33},
        {"seed": 1},
        {"shuffle": False},
        {"optimizer": keras.optimizers.Adam(0.02)},
        {"micro_batch": 8},
        {"gradient": CountingRule()},
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
    other = blobs[0].copy()
    other[-1, -1] += 1e-3
    with pytest.raises(ValueError, match="has other data, by their hashes arrays="):
        train(2, data=(other, blobs[1]), validation_data=blobs)
    with pytest.raises(ValueError, match="has other data, by their hashes validation.arrays="):
        train(2, validation_data=(other, blobs[1]))
    trainer = Trainer(net(), keras.optimizers.Adam(0.01), loss)
    with pytest.raises(ValueError, match="must be of the same model and optimizer"):
        trainer.fit(blobs, batch_size=32, epochs=2, checkpoint=tmp_path / "training.npz")


def test_damaged_and_foreign_files_are_refused(train, tmp_path):
    path = tmp_path / "training.npz"
    trainer, _ = train(1)
    whole = path.read_bytes()
    middle = len(whole) // 2
    inside = whole.index(trainer.model.layers[0].kernel.numpy().tobytes()) + 99
    flipped = whole[:inside] + bytes([whole[inside] ^ 1]) + whole[inside + 1 :]
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


def test_any_damage_is_noticed_or_does_no_harm(tmp_path):
    path = tmp_path / "file.npz"
    checkpoint.save(str(path), [np.arange(3.0)], {"a": [1, np.arange(2)]})
    whole, refused = path.read_bytes(), 0
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 255]) + whole[i + 1 :])
        try:
            [values], state = checkpoint.load(str(path), [(3,)])
        except ValueError:
            refused += 1
        else:
            np.testing.assert_array_equal(values, np.arange(3.0))
            np.testing.assert_array_equal(state["a"][1], np.arange(2))
    assert refused > len(whole) / 2


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
import os, signal, sys
import keras, numpy as np
from keras_sharp.training import Trainer, checkpoint
from keras_sharp.training.record import Record

name, where, turn = sys.argv[1], sys.argv[2], int(sys.argv[3])

def killing(function):
    def call(*arguments, **options):
        global turn
        turn -= 1
        if turn == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

class MidEpoch(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if where == "mid-epoch" and batch == 4:
            killing(int)()

if where == "write":  # the new file is half written
    write = killing(np.savez)
    def savez(file, **arrays):
        if turn == 1:
            file.write(b"half a file")
            file.flush()
        write(file, **arrays)
    checkpoint.np.savez = savez
if where == "replace":
    os.replace = killing(os.replace)
if where == "end":  # all epochs are done, and the average is not yet in the model
    Record.end = killing(Record.end)

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
x = rng.normal(size=(300, 10)).astype("float32")
layers = [keras.layers.Dense(64, "relu"), keras.layers.BatchNormalization()]
layers += [keras.layers.Dropout(0.5), keras.layers.Dense(1)]
model = keras.Sequential([keras.Input((10,)), *layers])
optimizer = keras.optimizers.Adam(use_ema=True, ema_momentum=0.9)
callbacks = [MidEpoch(), keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=1.0)]
history = Trainer(model, optimizer, "mse", jit_compile=False).fit(
    (x, x[:, :1]), batch_size=32, epochs=12, checkpoint=name + ".npz", callbacks=callbacks,
    verbose=0)
variables = [*model.variables, *model.optimizer.variables]
np.savez(name + ".end", *[v.numpy() for v in variables], history.history["loss"])
"""


@pytest.fixture
def forks():
    forks = Forks("keras_sharp.training")
    yield forks
    forks.close()


@pytest.mark.slow
def test_killed_again_and_again(forks, tmp_path):
    (tmp_path / "killed.py").write_text(SCRIPT)

    def run(name, where="nowhere", turn=0):
        arguments = tmp_path / name, where, turn
        return forks.start(tmp_path / "killed.py", arguments, tmp_path / "log").wait(300)

    def epoch():
        if not stored.exists():
            return 0
        with np.load(stored) as file:
            return json.loads(file["state"].tobytes())["epoch"]

    assert run("whole") == 0
    stored, unfinished = tmp_path / "killed.npz", tmp_path / "killed.npz.tmp"
    # Where it is killed at which turn, the epochs it has finished then, and whether it was writing.
    for where, turn, finished, writing in [
        ("mid-epoch", 1, 0, False),
        ("replace", 1, 0, True),
        ("write", 3, 2, True),
        ("mid-epoch", 3, 4, False),
        ("replace", 4, 7, True),
        ("end", 1, 12, False),
    ]:
        assert run("killed", where, turn) == -signal.SIGKILL
        assert epoch() == finished
        assert unfinished.exists() is writing
    assert run("killed") == 0
    assert not unfinished.exists()
    with np.load(tmp_path / "whole.end.npz") as whole, np.load(tmp_path / "killed.end.npz") as end:
        assert len(whole.files) > 20
        for name in whole.files:
            np.testing.assert_array_equal(end[name], whole[name])
