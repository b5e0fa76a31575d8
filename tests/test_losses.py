"""The loss of a whole, put together from uneven parts, is the loss Keras computes of the whole."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp.losses import LossTerms

RANDOM = np.random.default_rng(0)
REDUCTIONS = ("sum_over_batch_size", "sum", "mean_with_sample_weight")


def combined(terms, model, x, y, weights, cuts):
    """Adds up parts the way every user of LossTerms must."""
    parts = []
    for start, stop in zip([0, *cuts], [*cuts, len(x)], strict=True):
        current = [(variable, variable.value) for variable in model.trainable_variables]
        with keras.StatelessScope(current, collect_losses=True):
            sliced = None if weights is None else weights[start:stop]
            parts.append(terms(y[start:stop], model(x[start:stop]), sliced))
    total = 0.0
    for same in zip(*parts, strict=True):
        divisor = 1.0 if same[0].reduction == "sum" else sum(float(part.mass) for part in same)
        total += same[0].weight * sum(float(part.numerator) for part in same) / divisor
    return total


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_dense_classifier(reduction, weighted):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    model.compile("sgd", loss)
    x, y = RANDOM.normal(size=(11, 4)).astype("f4"), RANDOM.integers(0, 3, 11)
    weights = RANDOM.uniform(size=11).astype("f4") if weighted else None
    whole = float(loss(y, model(x), weights))
    assert combined(LossTerms(model), model, x, y, weights, [4, 9]) == pytest.approx(
        whole, rel=1e-6
    )


@pytest.mark.parametrize(
    "activation, loss, labels",
    [
        (None, keras.losses.SparseCategoricalCrossentropy(from_logits=True), [1, 1]),
        ("softmax", "sparse_categorical_crossentropy", [1, 1]),
        ("softmax", "categorical_crossentropy", [[0, 1], [0, 1]]),
        (None, keras.losses.BinaryCrossentropy(from_logits=True), [[0, 1], [0, 1]]),
        ("sigmoid", "binary_crossentropy", [[0, 1], [0, 1]]),
    ],
)
def test_a_loss_near_zero_keeps_its_digits(activation, loss, labels):
    """`log(1 + exp(-margin))`, of which float32 would keep one digit."""
    margins = np.array([15.0, 17.0])
    model = keras.Sequential([keras.Input((2,)), keras.layers.Activation(activation or "linear")])
    between = 1 if "binary" in getattr(loss, "name", loss) else 2
    x = np.outer(margins / between, [-1, 1]).astype("f4")
    found = combined(LossTerms(model, loss, dtype=tf.float64), model, x, np.array(labels), None, [])
    assert found == pytest.approx(np.log1p(np.exp(-margins)).mean(), rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*received `from_logits=True`")
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float32"])
def test_in_float64_it_is_the_loss_that_keras_computes(policy):
    """From probabilities that Keras converts it takes no logits; from those it finds, always."""
    x, y = RANDOM.normal(size=(6, 4)).astype("f4"), RANDOM.integers(0, 3, 6)
    dense = keras.layers.Dense(
        3, dtype=policy, kernel_initializer=keras.initializers.RandomNormal(0, 9)
    )
    for activation, from_logits in (
        (keras.activations.softmax, False),
        (keras.activations.linear, True),
        (tf.nn.softmax, True),
    ):
        last = keras.layers.Lambda(activation, dtype=policy)
        model = keras.Sequential([keras.Input((4,)), dense, last])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
        keras_s = tf.function(lambda m=model, f=loss: f(y, m(x)))
        ours = tf.function(
            lambda m=model, f=loss: LossTerms(m, f, dtype=tf.float64)(y, m(x))[0].numerator
        )
        with keras.StatelessScope(collect_losses=True):
            numerator = ours()
        assert float(numerator) / 6 == pytest.approx(float(keras_s()), rel=1e-5)


@pytest.mark.parametrize("ignored", [None, 2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_masked_sequences(reduction, weighted, ignored):
    tokens = keras.Input((5,))
    hidden = keras.layers.Embedding(9, 4, mask_zero=True)(tokens)
    model = keras.Model(
        tokens, keras.layers.Dense(3)(keras.layers.GRU(6, return_sequences=True)(hidden))
    )
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction=reduction, ignore_class=ignored
    )
    model.compile("sgd", loss)
    x, y = RANDOM.integers(0, 9, (8, 5)), RANDOM.integers(0, 3, (8, 5))
    x[:, 3:] = 0
    weights = RANDOM.uniform(size=(8, 5)).astype("f4") if weighted else None
    whole = float(loss(y, model(x), weights))
    assert combined(LossTerms(model), model, x, y, weights, [3]) == pytest.approx(whole, rel=1e-5)


def test_penalties_are_counted_once():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(1, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.1)),
        ]
    )
    model.compile("sgd", "mse")
    x, y = RANDOM.normal(size=(9, 4)).astype("f4"), RANDOM.normal(size=(9, 1)).astype("f4")
    kernel = model.get_weights()[0]
    mse = float(np.mean((x @ kernel - y) ** 2))
    with_penalty = mse + 0.1 * float(np.sum(kernel**2))
    assert combined(LossTerms(model), model, x, y, None, [2]) == pytest.approx(
        with_penalty, rel=1e-5
    )
    without = combined(LossTerms(model, penalties=False), model, x, y, None, [2])
    assert without == pytest.approx(mse, rel=1e-5)


def test_a_loss_that_returns_a_scalar_is_a_mean_over_examples():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    x, y = RANDOM.normal(size=(11, 4)).astype("f4"), RANDOM.normal(size=(11, 1)).astype("f4")

    def scalar(y_true, y_pred):
        return keras.ops.mean(keras.ops.abs(y_true - y_pred))

    terms = LossTerms(model, scalar)
    whole = float(np.mean(np.abs(y - model(x))))
    assert combined(terms, model, x, y, None, [10]) == pytest.approx(whole, rel=1e-6)
    with pytest.raises(ValueError, match="one value per example"):
        combined(terms, model, x, y, np.ones(11), [10])


def test_weights_of_examples_under_a_mask_of_steps():
    tokens = keras.Input((5,))
    hidden = keras.layers.Embedding(9, 4, mask_zero=True)(tokens)
    model = keras.Model(tokens, keras.layers.Dense(3)(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )
    x, y = RANDOM.integers(0, 3, (8, 5)), RANDOM.integers(0, 3, (8, 5))
    weights = RANDOM.uniform(size=(8, 1)).astype("f4")
    whole = float(loss(y, model(x), weights))
    assert combined(LossTerms(model, loss), model, x, y, weights, [3]) == pytest.approx(whole)


def test_of_several_losses_for_one_output_keras_takes_the_first():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", ["mse", "mae"])
    x, y = RANDOM.normal(size=(6, 4)).astype("f4"), RANDOM.normal(size=(6, 1)).astype("f4")
    expected = model.evaluate(x, y, verbose=0)[0]
    assert combined(LossTerms(model), model, x, y, None, [2]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "sparse_categorical_crossentropy",
        keras.losses.sparse_categorical_crossentropy,
    ],
)
def test_labels_out_of_range_are_reported(loss):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    terms = LossTerms(model, loss)
    x = tf.zeros((2, 4))
    with keras.StatelessScope(collect_losses=True):
        good, bad = terms(np.array([0, 2]), model(x))[0], terms(np.array([0, 3]), model(x))[0]
    assert bool(good.labels_in_range) and not bool(bad.labels_in_range)


def test_labels_without_a_meaning_are_reported():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="sigmoid")])
    x, fine = tf.zeros((2, 4)), np.array([[0, 1, 0.5], [1, 1, 0]])
    for loss, good, bad in [
        ("binary_crossentropy", fine, 2 * fine),
        ("binary_crossentropy", fine > 0, -fine),
        ("binary_focal_crossentropy", fine, fine + 0.1),
        ("sparse_categorical_crossentropy", np.array([0.0, 2.0]), np.array([0.0, 1.7])),
    ]:
        terms = LossTerms(model, loss)
        with keras.StatelessScope(collect_losses=True):
            assert bool(terms(good, model(x))[0].labels_in_range), loss
            assert not bool(terms(bad, model(x))[0].labels_in_range), loss


@pytest.mark.parametrize(
    ("labels", "message"),
    [(np.array(["a", "b"]), "Labels must be numbers"), (np.eye(3)[:2], "one class an example")],
)
def test_labels_of_another_kind(labels, message):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    terms = LossTerms(model, "sparse_categorical_crossentropy")
    with keras.StatelessScope(), pytest.raises(ValueError, match=message):
        terms(labels, model(tf.zeros((2, 4))))


def test_labels_of_narrow_types():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(300)])
    terms = LossTerms(model, "sparse_categorical_crossentropy")
    for dtype in ("uint8", "int8", "float16"):
        with keras.StatelessScope(collect_losses=True):
            labels = np.array([0, 99], dtype=dtype)
            assert bool(terms(labels, model(tf.zeros((2, 4))))[0].labels_in_range)


def test_a_loss_with_a_call_of_its_own_is_an_error():
    class Own(keras.losses.Loss):
        def __call__(self, y_true, y_pred, sample_weight=None):
            return 0.0

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="must override `call`"):
        LossTerms(model, Own())(tf.zeros((2, 1)), model(tf.zeros((2, 4))))


def test_no_loss_is_an_error():
    with pytest.raises(ValueError, match="compiled with one"):
        LossTerms(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]))


def test_own_compute_loss_is_an_error():
    class Own(keras.Model):
        def compute_loss(self, *args, **kwargs):
            return 0.0

    with pytest.raises(ValueError, match="overrides `compute_loss`"):
        LossTerms(Own())


def test_an_unreduced_loss_is_an_error():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    terms = LossTerms(model, keras.losses.MeanSquaredError(reduction="none"))
    with pytest.raises(ValueError, match="reduction=None|reduction='none'"):
        terms(tf.zeros((2, 1)), model(tf.zeros((2, 4))))
