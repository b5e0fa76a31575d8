import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp.optimizers import LARS, SNGM
from keras_sharp.optimizers.wide import norm, widen


def spared(model):
    optimizer = LARS(1.0)
    optimizer.build(model.trainable_variables)
    return {v.path for v in model.trainable_variables if optimizer.is_bias_or_norm(v.value)}


def test_biases_and_normalisation_are_known_by_axes_or_name():
    x = keras.Input((4, 6))
    y = keras.layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    y = keras.layers.LayerNormalization(axis=(1, 2), name="norm")(y)
    y = keras.layers.RMSNormalization(name="rms")(y)
    y = keras.layers.Conv1D(2, 2, name="conv")(y)
    y = keras.layers.BatchNormalization(name="batch")(y)
    y = keras.layers.GRU(3, name="gru")(y)
    model = keras.Model(x, keras.layers.Dense(1, name="dense")(y))
    heads = ("query", "key", "value", "attention_output")
    assert spared(model) == {
        *(f"attention/{head}/bias" for head in heads),
        *("norm/gamma", "norm/beta", "rms/scale", "conv/bias", "batch/gamma", "batch/beta"),
        *("gru/gru_cell/bias", "dense/bias"),
    }


def decays(optimizer, variables):
    optimizer.build(variables)
    return [optimizer.decay_of(v.value) for v in variables]


@pytest.fixture
def variables():
    shapes = {"kernel": (2, 2), "embeddings": (3, 2), "bias": (2,)}
    return [keras.Variable(np.ones(shape), name=name) for name, shape in shapes.items()]


def test_who_is_decayed(variables):
    assert decays(LARS(1.0), variables) == [0, 0, 0]
    assert decays(LARS(1.0, weight_decay=0.1), variables) == [0.1, 0.1, 0]
    assert decays(LARS(1.0, weight_decay=0.1, decay_bias_and_norm=True), variables) == [0.1] * 3


def test_keras_s_way_to_exclude_weights_works_too(variables):
    by_name, by_variable = LARS(1.0, weight_decay=0.1), LARS(1.0, weight_decay=0.1)
    by_name.exclude_from_weight_decay(var_names=["embed"])
    by_variable.exclude_from_weight_decay(var_list=[variables[0]])
    assert decays(by_name, variables) == [0.1, 0, 0]
    assert decays(by_variable, variables) == [0, 0.1, 0]


def test_replicas_know_their_weights(replicas):
    # A replica's own variable has another name and identity than the one the optimizer was given.
    strategy = replicas(2)
    with strategy.scope():
        variables = [keras.Variable([[1.0]], name="kernel"), keras.Variable([[1.0]], name="bias")]
        optimizer = LARS(0.5, weight_decay=1.0, rule="legw", trust_coefficient=1.0)
        optimizer.build(variables)

    @tf.function
    def step():
        strategy.run(lambda: optimizer.apply([tf.zeros((1, 1))] * 2, variables))

    step()
    # Without gradient the trust is 1: decay alone moves the kernel.
    assert [v.numpy().item() for v in variables] == [0.5, 1.0]


def test_slices_of_an_embedding_count_as_their_sum():
    # Row 0 occurs twice: the gradient is (2, 0, 1), of length sqrt(5).
    slices = tf.IndexedSlices(tf.ones((3, 1)), tf.constant([0, 0, 2]), tf.constant([3, 1]))
    table = keras.Variable(np.zeros((3, 1)), name="embeddings")
    SNGM(1.0).apply([slices], [table])
    np.testing.assert_allclose(table.numpy()[:, 0], np.array([-2, 0, -1]) / np.sqrt(5), rtol=1e-6)


def test_norms_of_half_precision_are_taken_in_single():
    variable = keras.Variable(np.full(1000, 100.0), dtype="float16")
    (wide,) = widen(variable.value)
    assert wide.dtype == tf.float32
    np.testing.assert_allclose(norm(wide), 100 * np.sqrt(1000), rtol=1e-6)
    assert widen(keras.Variable(1.0, dtype="float64").value)[0].dtype == tf.float64
