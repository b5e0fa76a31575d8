"""The two branches of split batch normalization, and what evaluation makes of them."""

import keras
import numpy as np
import pytest

from keras_sharp import Objective
from keras_sharp.layers import GhostBatchNormalization, SplitBatchNormalization
from keras_sharp.normalization import moving_statistics

L = keras.layers


def images(seed=0, mean=2.0):
    return np.random.default_rng(seed).normal(mean, 3, size=(8, 3)).astype("float32")


@pytest.mark.parametrize("kind", [L.BatchNormalization, GhostBatchNormalization])
def test_each_branch_is_a_layer_of_its_own(kind):
    options = {"momentum": 0.8} | ({"virtual_batch_size": 4} if "Ghost" in kind.__name__ else {})
    layer = SplitBatchNormalization(kind(**options))
    clean, adversarial = kind(**options), kind(**options)
    for seed in range(2):
        layer.branch = "main"
        np.testing.assert_array_equal(
            layer(images(seed), training=True), clean(images(seed), training=True)
        )
        layer.branch = "adversarial"
        np.testing.assert_array_equal(
            layer(images(seed, mean=-5), training=True),
            adversarial(images(seed, mean=-5), training=True),
        )
    np.testing.assert_array_equal(layer.main.moving_mean, clean.moving_mean)
    np.testing.assert_array_equal(layer.adversarial.moving_mean, adversarial.moving_mean)
    np.testing.assert_array_equal(layer(images()), adversarial(images()))
    layer.branch = "main"
    np.testing.assert_array_equal(layer(images()), clean(images()))
    assert len(layer.trainable_variables) == 4 and len(layer.non_trainable_variables) == 4


def test_objectives_are_of_the_main_branch():
    split = keras.Sequential([keras.Input((3,)), L.Dense(4), SplitBatchNormalization(), L.Dense(1)])
    plain = keras.Sequential([keras.Input((3,)), L.Dense(4), L.BatchNormalization(), L.Dense(1)])
    plain.set_weights([split.get_weights()[i] for i in (0, 1, 2, 3, 4, 5, 10, 11)])
    x, y = images(), np.ones((8, 1), "float32")
    for mode in ("inference", "batch"):
        objectives = []
        for model in (split, plain):
            model.compile("sgd", "mse")
            objectives.append(Objective(model, (x, y), batch_norm=mode, batch_size=4))
        values = [objective.value_and_gradient() for objective in objectives]
        assert values[0][0] == values[1][0]
        # Dense kernel and bias, gamma and beta; those of the other branch; the last layer.
        gradient = values[0][1]
        np.testing.assert_array_equal(np.delete(gradient, range(24, 32)), values[1][1])
        np.testing.assert_array_equal(gradient[24:32], 0)
    # The other branch is given nothing, and keeps what it has.
    estimate, expected = (objective.estimate_statistics() for objective in objectives)
    paths = np.repeat([v.path for v in moving_statistics(split)], 4)
    other = np.array(["adversarial" in path for path in paths])
    np.testing.assert_array_equal(estimate[~other], expected)
    np.testing.assert_array_equal(estimate[other], [0] * 4 + [1] * 4)


def test_half_precision():
    layer = SplitBatchNormalization(L.BatchNormalization(dtype="mixed_float16"))
    assert layer.adversarial.compute_dtype == "float16"
    assert layer(images().astype("float16"), training=True).dtype == "float16"
    assert layer.adversarial.moving_mean.dtype == "float32"


def test_a_mask_reaches_the_branch():
    x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    mask = np.arange(5) < np.array([[5], [3], [1], [2]])
    layer, plain = SplitBatchNormalization(), L.BatchNormalization()
    np.testing.assert_array_equal(
        layer(x, training=True, mask=mask), plain(x, training=True, mask=mask)
    )


def test_a_saved_model_has_both_branches_and_takes_the_main_one(tmp_path):
    inner = GhostBatchNormalization(4, momentum=0.5)
    model = keras.Sequential([keras.Input((3,)), SplitBatchNormalization(inner)])
    layer = model.layers[0]
    layer(images(), training=True)
    layer.branch = "adversarial"
    layer(images(1), training=True)
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert copy.layers[0].branch == "main"
    assert copy.layers[0].adversarial.virtual_batch_size == 4
    for old, new in zip(model.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="`layer`"):
        SplitBatchNormalization(L.LayerNormalization())
    with pytest.raises(ValueError, match="`branch`"):
        SplitBatchNormalization().branch = "other"
