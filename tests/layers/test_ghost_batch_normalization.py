"""Ghost batch normalization against its definition, and in training and measuring."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp import Objective
from keras_sharp.layers import GhostBatchNormalization
from keras_sharp.training import Trainer

L = keras.layers
GAMMA, BETA = np.array([0.5, 2.0, 1.5]), np.array([0.1, -1.0, 0.0])


def by_hand(x, sizes, axis=-1):
    """Outputs, and the means over examples of the ghost batches' means and variances."""
    x = np.moveaxis(x.astype("float64"), axis, -1)
    outputs, means, variances = [], [], []
    for part in np.split(x, np.cumsum(sizes)[:-1]):
        around = tuple(range(part.ndim - 1))
        mean, variance = part.mean(around), part.var(around)
        outputs.append(GAMMA * (part - mean) / np.sqrt(variance + 1e-3) + BETA)
        means.append(mean)
        variances.append(variance)
    outputs = np.moveaxis(np.concatenate(outputs), -1, axis)
    return outputs, np.average(means, 0, sizes), np.average(variances, 0, sizes)


@pytest.mark.parametrize("traced", [False, "graph", "xla"])
@pytest.mark.parametrize("shape", [(3,), (4, 5, 3), (3, 4)])
@pytest.mark.parametrize(
    ("examples", "sizes"), [(12, [4, 4, 4]), (15, [4, 4, 7]), (7, [7]), (3, [3]), (9, [4, 5])]
)
def test_against_each_ghost_batch_by_hand(examples, sizes, shape, traced):
    axis = 1 if shape == (3, 4) else -1
    x = np.random.default_rng(0).normal(2, 3, size=(examples, *shape)).astype("float32")
    layer = GhostBatchNormalization(4, axis=axis, momentum=0.8)
    layer.build((None, *shape))
    layer.gamma.assign(GAMMA)
    layer.beta.assign(BETA)
    call = lambda x: layer(x, training=True)  # noqa: E731
    if traced:
        unknown = [tf.TensorSpec([None] * x.ndim if traced == "graph" else x.shape)]
        call = tf.function(call, input_signature=unknown, jit_compile=traced == "xla")
    outputs, mean, variance = by_hand(x, sizes, axis)
    np.testing.assert_allclose(call(x), outputs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, 0.2 * mean, rtol=1e-4)
    np.testing.assert_allclose(layer.moving_variance, 0.8 + 0.2 * variance, rtol=1e-4)
    expected = GAMMA * (np.moveaxis(x, axis, -1) - layer.moving_mean.numpy())
    expected = expected / np.sqrt(layer.moving_variance.numpy() + 1e-3) + BETA
    np.testing.assert_allclose(
        layer(x, training=False), np.moveaxis(expected, -1, axis), rtol=1e-4, atol=1e-5
    )


def test_frozen_it_uses_the_moving_statistics():
    x = np.random.default_rng(0).normal(2, 3, size=(8, 3)).astype("float32")
    layer = GhostBatchNormalization(4, trainable=False)
    np.testing.assert_allclose(layer(x, training=True), x / np.sqrt(1.001), rtol=1e-5)


def test_half_precision_outputs_from_single_precision_statistics():
    x = (1000 + np.random.default_rng(0).normal(size=(8, 3))).astype("float16")
    layer = GhostBatchNormalization(4, center=False, scale=False, dtype="mixed_float16")
    outputs = layer(x, training=True)
    assert outputs.dtype == "float16"
    assert layer.moving_mean.dtype == "float32"
    wide = x.astype("float64").reshape(2, 4, 3)
    expected = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(outputs, expected.reshape(8, 3), atol=2e-3)


def network(strategy=None):
    keras.utils.set_random_seed(0)
    with (strategy or tf.distribute.get_strategy()).scope():
        ghost = GhostBatchNormalization(4, momentum=0.9, epsilon=0.1)
        return keras.Sequential([keras.Input((5,)), L.Dense(6), ghost, L.Dense(2)])


def data(examples=32):
    random = np.random.default_rng(0)
    x = random.normal(size=(examples, 5)).astype("float32")
    return x, x[:, :2] ** 2


def test_replicas_and_micro_batches_of_whole_ghost_batches_take_the_same_steps():
    found = []
    for replicas, micro_batch in ((1, None), (1, 8), (4, None)):
        strategy = None
        if replicas > 1:
            tf.distribute.MirroredStrategy._collective_key_base += 1000
            strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
        model = network(strategy)
        trainer = Trainer(model, "sgd", "mse", strategy=strategy, micro_batch=micro_batch)
        trainer.fit(data(), batch_size=16, epochs=3, shuffle=False, verbose=0)
        found.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-4, atol=1e-6)


def test_an_objective_by_batch_cuts_the_evaluation_batch():
    model, (x, y) = network(), data(10)
    model.compile("sgd", "mse")
    before = [v.numpy() for v in model.variables]
    first, ghost, last = model.layers
    normalized = GhostBatchNormalization(4, epsilon=0.1)(first(x), training=True)
    expected = np.mean((last(normalized).numpy() - y) ** 2)
    objective = Objective(model, (x, y), batch_norm="batch", batch_size=10)
    assert objective.value() == pytest.approx(expected, rel=1e-5)
    assert objective.settings["batch_norm_layers"] == 1
    estimate = objective.estimate_statistics()
    parts = np.split(first(x).numpy().astype("float64"), [4])
    means = np.average([part.mean(0) for part in parts], 0, [4, 6])
    variances = np.average([part.var(0) for part in parts], 0, [4, 6])
    np.testing.assert_allclose(estimate, [*means, *variances], rtol=1e-4, atol=1e-6)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)


def test_second_derivatives_against_differences_of_the_gradient(float64):
    model, (x, y) = network(), data(10)
    model.compile("sgd", "mse")
    data64 = x.astype("float64"), y.astype("float64")
    objective = Objective(model, data64, batch_norm="batch", batch_size=10)
    weights = objective.weights
    along = np.random.default_rng(1).normal(size=weights.size)
    ahead = objective.value_and_gradient(weights + 1e-5 * along)[1]
    behind = objective.value_and_gradient(weights - 1e-5 * along)[1]
    product = objective.hessian_vector_product(along)
    np.testing.assert_allclose(product, (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-7)


def test_a_saved_model_is_the_same(tmp_path):
    model = network()
    model.compile("sgd", "mse")
    model.fit(*data(), batch_size=15, verbose=0)
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert copy.layers[1].get_config() == model.layers[1].get_config()
    assert copy.layers[1].virtual_batch_size == 4
    x, _ = data()
    np.testing.assert_array_equal(copy(x), model(x))
    np.testing.assert_array_equal(copy(x, training=True), model(x, training=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"virtual_batch_size": 0}, "`virtual_batch_size`"),
        ({"virtual_batch_size": 2.0}, "`virtual_batch_size`"),
        ({"synchronized": True}, "`synchronized`"),
        ({"renorm": True}, "`renorm`"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GhostBatchNormalization(**options)


def test_masks_and_normalizing_over_features_are_refused():
    with pytest.raises(ValueError, match="takes no mask"):
        GhostBatchNormalization()(np.ones((4, 2, 3)), mask=np.ones((4, 2), bool))
    with pytest.raises(ValueError, match="`axis`"):
        GhostBatchNormalization(axis=0).build((8, 3))
