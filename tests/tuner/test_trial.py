"""What a process of a search does, in this one."""

import dataclasses

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from tiny_search import build, data

from keras_sharp.tuner.records import Records
from keras_sharp.tuner.space import Space
from keras_sharp.tuner.splits import load_splits
from keras_sharp.tuner.trial import Task, prepare, train_point


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


def train(task, epochs, micro_batch=None, is_reference=False, **values):
    known = prepare(task)
    task = dataclasses.replace(task, space=known["space"])
    hp = keras_tuner.HyperParameters.from_config(known["hyperparameters"])
    hp.values |= values
    train_point(task, hp.get_config(), epochs, micro_batch, is_reference)
    return Records(task.root).of_point(hp.values, epochs, list(task.seeds))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    task = a_task(folder, sharpness=True)
    (record,) = train(task, 3, is_reference=True, batch_size=16)
    assert not list(folder.rglob("*.npz"))  # the checkpoint is gone
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
    gap = trained["train_accuracy"] - trained["validation_accuracy"]
    assert trained["generalization_gap"] == pytest.approx(gap)
    # Multiples of one example: nothing is averaged over batches of different sizes.
    for name, examples in (("train", 50), ("validation", 30)):
        assert trained[f"{name}_accuracy"] * examples == pytest.approx(
            round(trained[f"{name}_accuracy"] * examples)
        )


def test_hyperband_goes_on_where_it_stopped(trained, tmp_path):
    task, whole = a_task(tmp_path), trained
    (short,) = train(task, 1, batch_size=16)
    (parts,) = train(task, 3, batch_size=16)
    assert short["loss"] == whole["loss"][:1] and parts["loss"] == whole["loss"]
    assert parts["validation_loss"] == whole["validation_loss"]
    assert (short["whole_epochs"], parts["steps"]) == (3, whole["steps"])


def test_replicas_and_parts(tmp_path):
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    task = a_task(tmp_path, build=plain_build, epochs=2, strategy=lambda: mirrored)
    (record,) = train(task, 2, micro_batch=2)
    assert (record["replicas"], record["micro_batch"], record["steps"]) == (2, 2, 2 * 7)
    assert record["loss"][1] < record["loss"][0]


def plain_build(hp):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def regression(hp):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    return model


def test_models_and_data_of_no_use(tmp_path):
    with pytest.raises(ValueError, match="one of Keras's cross-entropies"):
        prepare(a_task(tmp_path, build=regression))
    with pytest.raises(ValueError, match="`build` must return a Keras model that is compiled"):
        prepare(a_task(tmp_path, build=lambda hp: None))
    with pytest.raises(ValueError, match="`data` must be two or three pairs"):
        prepare(a_task(tmp_path, data=(np.zeros(3), np.zeros(3))))
    with pytest.raises(ValueError, match="a batch of 64 of 50 examples"):
        prepare(a_task(tmp_path, space=Space(8, [64])))


def test_named_data_give_up_a_fifth_for_validation():
    splits = load_splits("digits")
    assert [len(x) for x, _ in (splits.train, splits.validation, splits.test)] == [1149, 288, 360]
    shares = [np.bincount(y) / len(y) for _, y in (splits.train, splits.validation)]
    np.testing.assert_allclose(*shares, atol=0.005)
