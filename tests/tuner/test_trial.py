"""What a process of a search does, in this one."""

import dataclasses
import functools
import json
import pickle
from types import SimpleNamespace

import keras
import keras_tuner
import numpy as np
import pytest
from tiny_search import build, data

from keras_sharp.objective import Objective
from keras_sharp.tuner import measuring
from keras_sharp.tuner.measuring import Clock
from keras_sharp.tuner.records import Records
from keras_sharp.tuner.space import Space
from keras_sharp.tuner.splits import load_splits
from keras_sharp.tuner.trial import Plan, Task, prepare, train_point


def a_task(folder, **changes):
    task = Task(
        root=str(folder),
        build=build,
        data=data,
        space=Space(8, [16], [0.1]),
        epochs=3,
        steps=None,
        seeds=(0,),
        sharpness=False,
        strategy=None,
    )
    return dataclasses.replace(task, **changes)


def train(task, plan, **values):
    known = prepare(task)
    task = dataclasses.replace(task, space=known["space"])
    hp = keras_tuner.HyperParameters.from_config(known["hyperparameters"])
    hp.values |= values
    train_point(task, hp.get_config(), plan)
    return Records(task.root).of_point(hp.values, plan.epochs, list(task.seeds))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    task = a_task(folder, sharpness=True)
    (record,) = train(task, Plan(3, is_reference=True), batch_size=16)
    assert not list(folder.rglob("*.npz"))  # the checkpoint is gone
    assert not list(folder.rglob("measuring.json"))
    return record


def test_all_of_a_training_is_recorded(trained):
    assert trained["values"] == {
        "batch_size": 16,
        "learning_rate": 0.1,
        "optimizer": "sgd",
        "gradient": "plain",
        "scaling": "sqrt",
        "width": 6,
    }
    assert trained["peak_learning_rate"] == pytest.approx(0.1 * 2**0.5)
    assert trained["steps"] == 3 * 4  # 50 examples are four batches
    assert trained["seconds"] > 0 and trained["sharpness"] > 0 and len(trained["loss"]) == 3
    assert trained["test_accuracy"] is None
    assert trained["evaluation_batch"] == 1000
    gap = trained["train_accuracy"] - trained["validation_accuracy"]
    assert trained["generalization_gap"] == pytest.approx(gap)
    # Multiples of one example: nothing is averaged over batches of different sizes.
    for name, examples in (("train", 50), ("validation", 30)):
        assert trained[f"{name}_accuracy"] * examples == pytest.approx(
            round(trained[f"{name}_accuracy"] * examples)
        )


def test_hyperband_goes_on_where_it_stopped(trained, tmp_path):
    task, whole = a_task(tmp_path), trained
    (short,) = train(task, Plan(1), batch_size=16)
    (parts,) = train(task, Plan(3), batch_size=16)
    assert short["loss"] == whole["loss"][:1] and parts["loss"] == whole["loss"]
    assert parts["validation_loss"] == whole["validation_loss"]
    assert (short["whole_epochs"], parts["steps"]) == (3, whole["steps"])


def test_replicas_and_parts(tmp_path, replicas, monkeypatch):
    """A failed sharpness is no failed training; both seeds share one strategy."""
    made, known = [], []

    def strategy():
        made.append(replicas(2))
        return made[-1]

    def no_sharpness(*_, **__):
        # Whatever becomes of the process now, all else is on the disk.
        (file,) = tmp_path.rglob("measuring.json")
        known.append(json.loads(file.read_text())["record"])
        raise FloatingPointError("too sharp")

    monkeypatch.setattr(measuring, "sharpness", no_sharpness)
    task = a_task(tmp_path, build=plain_build, epochs=2, strategy=strategy, seeds=(0, 1))
    task = dataclasses.replace(task, sharpness=True)
    records = train(task, Plan(2, micro_batch=2))
    assert len(made) == 2  # one to look at the model, and one to train
    for record in records:
        assert (record["replicas"], record["micro_batch"], record["steps"]) == (2, 2, 2 * 7)
        assert record["loss"][1] < record["loss"][0] and record["evaluation_batch"] == 2
        assert record["sharpness"] is None and "too sharp" in record["sharpness_status"]
        later = {name: record[name] for name in ("sharpness_status", "total_seconds")}
        assert known.pop(0) | later == record


def test_accuracies_are_measured_on_equal_terms():
    """No dropout, and the statistics of all training examples, whatever training left behind."""
    splits, random = load_splits(data), np.random.default_rng(1)
    model = dropped(0.5)
    normalization = model.layers[1]
    normalization.moving_mean.assign(random.normal(size=6))
    normalization.moving_variance.assign(random.uniform(1, 9, size=6))
    objective = Objective(model, splits.train, batch_size=1000)
    measured = measuring.measure(objective, splits, 1000)
    w, gamma, beta, v = (variable.numpy() for variable in model.trainable_variables)
    hidden = splits.train[0] @ w
    mean, variance = hidden.mean(axis=0), hidden.var(axis=0)
    for name in ("train", "validation"):
        x, y = getattr(splits, name)
        z = (x @ w - mean) / np.sqrt(variance + normalization.epsilon) * gamma + beta
        logits = np.maximum(z, 0) @ v
        losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]
        assert measured[f"{name}_loss"] == pytest.approx(losses.mean(), rel=1e-5)
        assert measured[f"{name}_accuracy"] == pytest.approx(np.mean(logits.argmax(axis=1) == y))
    gap = measured["train_accuracy"] - measured["validation_accuracy"]
    assert measured["generalization_gap"] == pytest.approx(gap) and gap != 0


def test_numbers_that_json_cannot_hold():
    assert [measuring.finite(x) for x in (np.inf, np.nan, None, 1)] == [None, None, None, 1.0]


def test_steps_under_loss_scaling(tmp_path):
    """Also those in which the optimizer did nothing, as their gradients overflowed."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        task = a_task(tmp_path, build=plain_build, data=large_data, epochs=1)
        (record,) = train(task, Plan(1), batch_size=16)
    finally:
        keras.config.set_dtype_policy("float32")
    assert record["steps"] == 4


def test_the_time_of_tracing_is_left_out_once_for_each_batch_size():
    logs = {
        "epoch_seconds": [9.0, 2.0, 4.0, 7.0, 1.0, 8.0],
        "epoch_batch": [32, 32, 32, 64, 64, 128],
        "epoch_traced": [1.0, 0.0, 0.0, 1.0, 0.0, 1.0],
    }
    assert Clock.seconds(logs) == (3 + 2 + 4) + (1 + 1) + 8
    clock = Clock({0: 32, 1: 64})
    traced = []
    for epoch in range(3):
        clock.on_epoch_begin(epoch)
        clock.on_epoch_end(epoch, seen := {})
        traced.append((seen["epoch_batch"], seen["epoch_traced"]))
    assert traced == [(32, 1.0), (64, 1.0), (64, 0.0)]


def test_the_noise_is_that_of_shuffled_examples_half_way():
    x = np.repeat(np.arange(5.0), 20)[:, None]
    (mixed, labels) = measuring.shuffled((x, x[:, 0]), seed=0)
    assert sorted(mixed[:, 0]) == sorted(x[:, 0]) and np.array_equal(mixed[:, 0], labels)
    means = mixed.reshape(5, 20).mean(axis=1)
    assert means.std() < 0.7 < x.reshape(5, 20).mean(axis=1).std()
    noise = measuring.NoiseHalfWay((x, x[:, 0]), epochs=10, batch_size=8, seed=0)
    measured = []
    noise._objective = object()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            measuring.MeasureDuringTraining, "on_epoch_end", lambda _, e, logs: measured.append(e)
        )
        for epoch in range(10):
            noise.on_epoch_end(epoch, {})
    assert measured == [4]
    result = SimpleNamespace(standard_error=7.0, status="It is clear.")
    noise.reports[4] = {"noise_scale": result}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring.MeasureDuringTraining, "on_epoch_end", lambda *_: None)
        noise.on_epoch_end(4, logs := {})
    assert logs == {"noise_scale_error": 7.0, "noise_scale_status": "It is clear."}


def plain_build(hp):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def dropped(rate, hp=None):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(rate),
            layers.Dense(3, use_bias=False),
        ]
    )
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


class Hyper(keras_tuner.HyperModel):
    def __init__(self, units):
        super().__init__()
        self.units = units

    def build(self, hp):
        hp.Int("depth", self.units, 9)
        return plain_build(hp)


def test_a_model_is_told_from_another():
    """By its layers' arguments, in a process that names them otherwise."""
    half, again, other = (
        prepare(a_task("", build=functools.partial(dropped, rate))) for rate in (0.5, 0.5, 0.1)
    )
    assert (half["layers"], half["loss"]) == (again["layers"], again["loss"])
    changed = [name for name, layer in half["layers"].items() if other["layers"][name] != layer]
    kinds = {name.split()[1] for name in changed}
    assert "Dropout" in kinds and "Dense" not in kinds


def test_hyper_models_are_accepted(tmp_path):
    build = pickle.loads(pickle.dumps(Hyper(5).build))  # as in another process
    space = prepare(a_task(tmp_path, build=build))["hyperparameters"]["space"]
    assert space[-1]["config"]["name"] == "depth" and space[-1]["config"]["min_value"] == 5


def large_data():
    return tuple((1e3 * x, y) for x, y in data())


def seed_build(hp):
    hp.Int("seed", 1, 3)
    return plain_build(hp)


def rate_build(hp):
    hp.Float("learning_rate", 0.1, 0.2)
    return plain_build(hp)


def regression(hp):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    return model


def test_models_and_data_of_no_use(tmp_path):
    with pytest.raises(ValueError, match="one of Keras's cross-entropies"):
        prepare(a_task(tmp_path, build=regression))
    with pytest.raises(ValueError, match="`build` must return a Keras model that is compiled"):
        prepare(a_task(tmp_path, build=lambda hp: None))
    with pytest.raises(ValueError, match="must not declare .* columns. Received: seed"):
        prepare(a_task(tmp_path, build=seed_build))
    with pytest.raises(ValueError, match="what the search decides.* Received: learning_rate"):
        prepare(a_task(tmp_path, build=rate_build))
    with pytest.raises(ValueError, match="`data` must be two or three pairs"):
        prepare(a_task(tmp_path, data=(np.zeros(3), np.zeros(3))))
    with pytest.raises(ValueError, match="a batch of 64 of 50 examples"):
        prepare(a_task(tmp_path, space=Space(8, [64])))


def test_named_data_give_up_a_fifth_for_validation():
    splits = load_splits("digits")
    assert [len(x) for x, _ in (splits.train, splits.validation, splits.test)] == [1149, 288, 360]
    shares = [np.bincount(y) / len(y) for _, y in (splits.train, splits.validation)]
    np.testing.assert_allclose(*shares, atol=0.005)
