"""`f`, its gradient and its curvature, against Keras and finite differences."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp import Objective

L = keras.layers


def crossentropy(**kwargs):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **kwargs)


def state(model):
    return [variable.numpy().copy() for variable in model.variables]


def assert_same_bits(before, after):
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def assert_close(actual, expected, rel):
    assert np.linalg.norm(actual - expected) <= rel * np.linalg.norm(expected)


def strategy(replicas):
    if replicas == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([f"CPU:{device}" for device in range(replicas)])


# -- models --------------------------------------------------------------------------------------


def conv_net(synchronized=False):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 2))
    hidden = L.Conv2D(4, 3)(inputs)
    hidden = L.ReLU()(L.BatchNormalization(synchronized=synchronized)(hidden))
    hidden = L.Dropout(0.5)(L.Flatten()(L.MaxPooling2D()(hidden)))
    hidden = L.Activation("tanh")(L.BatchNormalization()(L.Dense(8)(hidden)))
    model = keras.Model(inputs, L.Dense(3)(hidden))
    model.compile("sgd", crossentropy())
    return model


def conv_data(examples=2100):
    random = np.random.default_rng(0)
    return random.normal(size=(examples, 8, 8, 2)).astype("f4"), random.integers(0, 3, examples)


class NoTrainingArgument(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.norm = L.Dense(8), L.BatchNormalization()
        self.drop, self.out = L.Dropout(0.5), L.Dense(3)

    def call(self, x):
        return self.out(self.drop(keras.ops.tanh(self.norm(self.hidden(x)))))


class OwnWeight(keras.Model):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 8), name="kernel")
        self.out = L.Dense(3, dtype=self.dtype_policy)
        self.out.build((None, 8))

    def call(self, x, training=False):
        return self.out(keras.ops.tanh(keras.ops.matmul(x, self.kernel)))


@keras.saving.register_keras_serializable("keras_sharp_tests")
class NormalizedCell(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size, self.cell, self.norm = 6, L.SimpleRNNCell(6), L.BatchNormalization()

    def build(self, shape):
        self.cell.build(shape)
        self.norm.build((None, 6))

    def call(self, x, states, training=False):
        out, states = self.cell(x, states, training=training)
        return self.norm(out, training=training), states


def functional(shape, *layers):
    def build():
        inputs = keras.Input(shape)
        hidden = inputs
        for layer in layers:
            hidden = layer()(hidden)
        return keras.Model(inputs, L.Dense(3)(hidden))

    return build


def nested_and_shared():
    inputs = keras.Input((6,))
    inner = keras.Sequential(
        [keras.Input((6,)), L.Dense(5), L.BatchNormalization(), L.Dropout(0.5)]
    )
    shared = L.BatchNormalization()
    return keras.Model(inputs, L.Dense(3)(L.Activation("tanh")(shared(shared(inner(inputs))))))


def attention():
    inputs = keras.Input((4, 6))
    normed = L.LayerNormalization()(inputs)
    hidden = inputs + L.MultiHeadAttention(2, 3)(normed, normed)
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(hidden)))


def tanh():
    return L.Activation("tanh")


MODELS = {
    "batch normalization, convolution, max-pooling": (
        (8, 8, 2),
        functional(
            (8, 8, 2), lambda: L.Conv2D(4, 3), L.BatchNormalization, tanh, L.MaxPooling2D, L.Flatten
        ),
    ),
    "layer normalization": (
        (5, 5, 2),
        functional((5, 5, 2), lambda: L.Conv2D(4, 3), L.LayerNormalization, tanh, L.Flatten),
    ),
    "group normalization": (
        (5, 5, 2),
        functional(
            (5, 5, 2), lambda: L.Conv2D(4, 3), lambda: L.GroupNormalization(2), tanh, L.Flatten
        ),
    ),
    "attention": ((4, 6), attention),
    "LSTM": ((4, 6), functional((4, 6), lambda: L.LSTM(5), L.BatchNormalization)),
    "GRU": ((4, 6), functional((4, 6), lambda: L.GRU(5), L.BatchNormalization)),
    "recurrent cell with batch normalization": (
        (4, 6),
        functional((4, 6), lambda: L.Bidirectional(L.RNN(NormalizedCell()))),
    ),
    "time-distributed batch normalization": (
        (4, 6),
        functional(
            (4, 6), lambda: L.Dense(3), lambda: L.TimeDistributed(L.BatchNormalization()), L.Flatten
        ),
    ),
    "nested and shared": ((6,), nested_and_shared),
    "subclassed": ((6,), NoTrainingArgument),
}


# -- derivatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", ["inference", "batch"])
@pytest.mark.parametrize("name", MODELS)
def test_derivatives_agree_with_finite_differences(float64, name, batch_norm):
    shape, build = MODELS[name]
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    model, x, y = build(), random.normal(size=(24, *shape)), random.integers(0, 3, 24)
    model(x, training=True)  # builds, and moves the moving statistics off their start
    before = state(model)
    objective = Objective(model, (x, y), crossentropy(), batch_norm=batch_norm, batch_size=16)
    w, v, h = objective.weights, random.normal(size=objective.size), 1e-5
    value, gradient = objective.value_and_gradient(w)
    assert value == pytest.approx(objective.value(w), rel=1e-12)
    slope = (objective.value(w + h * v) - objective.value(w - h * v)) / (2 * h)
    assert gradient @ v == pytest.approx(slope, rel=1e-6)
    ahead, behind = (objective.value_and_gradient(w + sign * h * v)[1] for sign in (1, -1))
    assert_close(objective.hessian_vector_product(v), (ahead - behind) / (2 * h), 1e-6)
    assert_same_bits(before, state(model))
    if batch_norm == "inference":
        assert value == pytest.approx(float(crossentropy()(y, model(x, training=False))), rel=1e-9)


def test_batch_mode_uses_the_batch_s_statistics_by_hand(float64):
    model = keras.Sequential([keras.Input((2,)), L.BatchNormalization(epsilon=0.125, scale=False)])
    random = np.random.default_rng(0)
    x, y = random.normal(3.0, 2.0, size=(12, 2)), random.normal(size=(12, 2))
    objective = Objective(model, (x, y), "mse", batch_norm="batch", batch_size=8)
    losses = []
    for part in (slice(0, 8), slice(8, 12)):
        normed = (x[part] - x[part].mean(0)) / np.sqrt(x[part].var(0) + 0.125)
        losses.append(np.mean((normed - y[part]) ** 2))
    assert objective.value() == pytest.approx((8 * losses[0] + 4 * losses[1]) / 12, rel=1e-12)
    np.testing.assert_allclose(objective.predict()[8:], normed, rtol=1e-10)


def test_frozen_batch_normalization_stays_in_inference_mode():
    model = conv_net()
    for layer in model.layers:
        layer.trainable = not isinstance(layer, L.BatchNormalization)
    x, y = conv_data(50)
    model(x, training=True)
    objective = Objective(model, (x, y), batch_norm="batch")
    frozen = [layer.name for layer in model.layers if isinstance(layer, L.BatchNormalization)]
    assert objective.settings["frozen_batch_norm_layers"] == frozen
    assert objective.value() == Objective(model, (x, y)).value()


def test_no_path_to_the_loss_is_a_zero_gradient():
    inputs = keras.Input((2,))
    model = keras.Model(
        inputs, [L.Dense(1, name="used")(inputs), L.Dense(1, name="unused")(inputs)]
    )
    objective = Objective(model, (np.ones((3, 2)), [np.ones(3), np.ones(3)]), ["mse", None])
    gradient = objective.value_and_gradient()[1]
    segments = objective.segments
    assert not gradient[segments["unused/kernel"]].any() and gradient[segments["used/kernel"]].all()


# -- invariances ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", ["inference", "batch"])
def test_replicas_do_not_change_the_function(batch_norm):
    x, y = conv_data()
    results, random = {}, np.random.default_rng(5)
    v = random.normal(size=Objective(conv_net(), (x, y)).size)
    for replicas in (1, 2, 4):
        with strategy(replicas).scope():
            model = conv_net(synchronized=True)
        before = state(model)
        objective = Objective(model, (x, y), batch_norm=batch_norm, batch_size=500)
        assert objective.settings["replicas"] == replicas
        results[replicas] = (*objective.value_and_gradient(), objective.hessian_vector_product(v))
        assert objective.predict().shape == (2100, 3)
        assert_same_bits(before, state(model))
    for replicas in (2, 4):
        assert results[replicas][0] == results[1][0]
        np.testing.assert_array_equal(results[replicas][1], results[1][1])
        assert_close(results[replicas][2], results[1][2], 1e-5)


def test_moving_statistics_that_drifted_apart_are_those_that_are_saved():
    with strategy(2).scope():
        model = conv_net()
    drifting = [v for v in model.non_trainable_variables if "moving_mean" in v.path]
    for variable in drifting:
        for number, own in enumerate(variable.value.values):
            own.assign(own + 0.3 * number)
    saved = conv_net()
    saved.set_weights(model.get_weights())
    data = conv_data(100)
    v = np.random.default_rng(0).normal(size=Objective(saved, data).size)
    found, expected = (Objective(each, data, batch_size=25) for each in (model, saved))
    assert found.value() == expected.value()
    np.testing.assert_array_equal(found.value_and_gradient()[1], expected.value_and_gradient()[1])
    np.testing.assert_array_equal(found.predict(), expected.predict())
    assert_close(found.hessian_vector_product(v), expected.hessian_vector_product(v), 1e-5)


def test_batching_does_not_change_the_function_in_inference_mode():
    model, (x, y) = conv_net(), conv_data()
    pipeline = tf.data.Dataset.from_tensor_slices((x, y)).batch(300)
    sources = [((x, y), 1000), ((x, y), 777), ((x, y), None), (pipeline, None), (pipeline, 512)]
    values, gradients = zip(
        *[Objective(model, data, batch_size=size).value_and_gradient() for data, size in sources],
        strict=True,
    )
    assert values == pytest.approx([float(crossentropy()(y, model(x)))] * 5, rel=1e-6)
    for gradient in gradients[1:]:
        assert_close(gradient, gradients[0], 1e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
def test_reductions_and_weights(reduction, weighted):
    model, (x, y) = conv_net(), conv_data(100)
    loss = crossentropy(reduction=reduction)
    weights = (np.random.default_rng(1).uniform(size=100).astype("f4"),) if weighted else ()
    with tf.GradientTape() as tape:
        whole = loss(y, model(x), *weights)
    expected = tape.gradient(whole, [variable.value for variable in model.trainable_variables])
    objective = Objective(model, (x, y, *weights), loss, batch_size=33)
    value, gradient = objective.value_and_gradient()
    assert value == pytest.approx(float(whole), rel=1e-6)
    assert_close(gradient, np.concatenate([np.ravel(part) for part in expected]), 1e-5)


def test_two_inputs_two_outputs_weights_and_penalties_equal_evaluate():
    first, second = keras.Input((4,), name="first"), keras.Input((3,), name="second")
    joined = L.Concatenate()([first, second])
    model = keras.Model(
        {"first": first, "second": second},
        {
            "label": L.Dense(3, name="label", kernel_regularizer="l2")(joined),
            "number": L.Dense(1, name="number", activity_regularizer="l2")(joined),
        },
    )
    model.compile(
        "sgd",
        {"label": crossentropy(), "number": "mse"},
        loss_weights={"label": 1.0, "number": 0.3},
    )
    random = np.random.default_rng(0)
    x = {
        name: random.normal(size=(40, n)).astype("f4") for name, n in (("first", 4), ("second", 3))
    }
    y = {"label": random.integers(0, 3, 40), "number": random.normal(size=(40, 1)).astype("f4")}
    weights = {name: random.uniform(size=40).astype("f4") for name in y}
    metrics = [variable.numpy() for variable in model.metrics_variables]
    objective = Objective(model, (x, y, weights), batch_size=40)
    value = objective.value()
    # An uneven end changes nothing but the activity penalty, which Keras takes per batch.
    alone = [
        Objective(model, (x, y, weights), batch_size=size, penalties=False).value()
        for size in (40, 17)
    ]
    assert alone[0] == pytest.approx(alone[1], rel=1e-6) and alone[0] < value
    assert_same_bits(metrics, [variable.numpy() for variable in model.metrics_variables])
    evaluated = model.evaluate(
        x, y, sample_weight=weights, batch_size=40, verbose=0, return_dict=True
    )
    assert value == pytest.approx(evaluated["loss"], rel=1e-6)
    assert set(objective.predict()) == {"label", "number"}


def test_mixed_precision_with_weights_of_its_own():
    model = OwnWeight(dtype="mixed_float16")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(20, 4)).astype("f4"), random.integers(0, 3, 20)
    outputs = model(x)
    assert outputs.dtype == tf.float16
    objective = Objective(model, (x, y), crossentropy())
    np.testing.assert_array_equal(objective.predict(), outputs.numpy())
    assert objective.value() == pytest.approx(float(crossentropy()(y, outputs)), rel=1e-6)


def certain_net(dtype):
    """A classifier with a loss of about 1e-5 on the 50 examples it comes with."""
    random = np.random.default_rng(3)
    layers = [L.Dense(16, activation="tanh", dtype=dtype), L.Dense(3, dtype=dtype)]
    model = keras.Sequential([keras.Input((8,)), *layers])
    model.set_weights(
        [random.normal(size=v.shape) * [1, 1, 3, 1][i] for i, v in enumerate(model.weights)]
    )
    x = random.normal(size=(2000, 8)).astype("f4")
    outputs = model(x).numpy().astype("f8")
    margins = np.diff(np.sort(outputs))[:, -1]
    return model, (x[margins > 11][:50], outputs.argmax(axis=1)[margins > 11][:50])


def test_float16_neither_underflows_nor_overflows(monkeypatch):
    (model, (x, y)), (exact, _) = certain_net("mixed_float16"), certain_net("float32")
    objective, expected = (Objective(each, (x, y), crossentropy()) for each in (model, exact))
    assert 1e-6 < objective.value() < 2e-5
    v = np.random.default_rng(0).normal(size=objective.size)
    gradient, product = objective.value_and_gradient()[1], objective.hessian_vector_product(v)
    assert_close(gradient, expected.value_and_gradient()[1], 0.05)
    assert_close(product, expected.hessian_vector_product(v), 0.05)
    with strategy(2).scope():
        there = certain_net("mixed_float16")[0]
    # 60,000 examples: 1 / 60,000 of a gradient of 1e-5 is 0 in float16.
    tiled = Objective(there, (np.tile(x, (1200, 1)), np.tile(y, 1200)), crossentropy())
    assert_close(tiled.value_and_gradient()[1], gradient, 0.01)
    assert_close(tiled.hessian_vector_product(v), product, 0.01)
    # A sum of heavy examples is infinite in float16, until the scale is small enough.
    heavy = Objective(model, (x, y, np.full(50, 1e10)), crossentropy(reduction="sum"))
    assert_close(heavy.value_and_gradient()[1], 50e10 * gradient, 0.01)


def test_rounding_is_that_of_the_coarsest_layer(float64):
    def rounding(*policies):
        layers = [L.Dense(2, dtype=policy) for policy in policies]
        return Objective(keras.Sequential([keras.Input((3,)), *layers]), data, "mse").rounding

    data = np.ones((4, 3)), np.ones((4, 2))
    assert rounding("float64", "float64") == 2.0**-52
    assert rounding("float64", "float32") == 2.0**-23
    assert rounding("mixed_float16", "float32") == 2.0**-10
    assert rounding("float32", "mixed_bfloat16", "mixed_float16") == 2.0**-7


def test_value_repeats_to_the_bit():
    objective = Objective(conv_net(), conv_data(500), batch_size=200)
    first, second = objective.value_and_gradient(), objective.value_and_gradient()
    assert first[0] == second[0]
    np.testing.assert_array_equal(first[1], second[1])


def test_settings_tell_functions_apart():
    model, data = conv_net(), conv_data(20)
    options = [{}, {"label_smoothing": 0.1}]
    losses = [keras.losses.CategoricalCrossentropy(from_logits=True, **each) for each in options]
    losses += ["mse", "mae", keras.losses.MeanSquaredError(reduction="sum")]
    one_hot = np.eye(3, dtype="f4")[data[1]]
    described = set()
    for loss in losses:
        objective = Objective(model, (data[0], one_hot), loss)
        objective.value()
        described.add(json.dumps(objective.settings))
    assert len(described) == len(losses)


def test_tensors_in_tensors_out():
    objective = Objective(conv_net(), conv_data(50))
    at = tf.constant(objective.weights)
    value, gradient = objective.value_and_gradient(at)
    assert isinstance(gradient, tf.Tensor) and gradient.dtype == tf.float64
    expected = objective.value_and_gradient(objective.weights)
    assert value == expected[0]
    np.testing.assert_array_equal(gradient, expected[1])


# -- errors --------------------------------------------------------------------------------------


class Dilation(L.Layer):
    def call(self, x):
        ones = [1] * 4
        return tf.nn.dilation2d(x, tf.zeros((2, 2, x.shape[-1])), ones, "SAME", "NHWC", ones)


def test_an_operation_without_a_second_derivative_is_named():
    model = keras.Sequential([keras.Input((4, 4, 1)), L.Conv2D(2, 1), Dilation(), L.Flatten()])
    objective = Objective(model, (np.ones((3, 4, 4, 1)), np.ones((3, 32))), "mse")
    with pytest.raises(NotImplementedError, match="no second derivative.*use_cudnn=False"):
        objective.hessian_vector_product(np.ones(objective.size))


def test_a_gradient_that_comes_first_knows_what_a_mask_leaves():
    tokens = keras.Input((5,))
    model = keras.Model(tokens, L.Dense(3)(L.Embedding(9, 4, mask_zero=True)(tokens)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    random = np.random.default_rng(0)
    x, y = random.integers(1, 9, (7, 5)), random.integers(0, 3, (7, 5))
    x[:4, 2:] = 0
    value, gradient = Objective(model, (x, y), loss, batch_size=3).value_and_gradient()
    with tf.GradientTape() as tape:
        whole = loss(y, model(x))
    parts = tape.gradient(whole, [each.value for each in model.trainable_variables])
    expected = np.concatenate([np.ravel(tf.convert_to_tensor(part)) for part in parts])
    assert value == pytest.approx(float(whole), rel=1e-6)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)


def test_errors():
    model, (x, y) = conv_net(), conv_data(20)
    with pytest.raises(ValueError, match='"inference" or "batch"'):
        Objective(model, (x, y), batch_norm="train")
    with pytest.raises(ValueError, match="labels from 0 to 7; classes: 3"):
        Objective(model, (x, np.where(np.arange(20) == 4, 7, 0))).value()
    with pytest.raises(ValueError, match="labels from 0 to 7; classes: 3"):
        bad = Objective(model, (x, np.where(np.arange(20) == 4, 7, 0)))
        bad.hessian_vector_product(np.ones(bad.size))
    with pytest.raises(ValueError, match="labels from -1 to 0"):
        Objective(model, (x, -(np.arange(20) == 4).astype(int))).value_and_gradient()
    with pytest.raises(ValueError, match="must have shape"):
        Objective(model, (x, y)).value(np.zeros(3))
    with pytest.raises(ValueError, match="compiled with one"):
        Objective(keras.Sequential([keras.Input((2,)), L.Dense(1)]), (x, y))
    zero = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    regression = keras.Sequential([keras.Input((2,)), L.Dense(1)])
    with pytest.raises(ValueError, match="something to average over"):
        Objective(regression, (x[:, 0, 0], y, 0.0 * y), zero).value()
