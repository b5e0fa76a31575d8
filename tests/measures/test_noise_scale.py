"""The noise scale against gradients of single examples by hand, and its error against samples."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp import Objective
from keras_sharp.measures.noise_scale import Estimate, jackknife, noise_scale, unbiased
from keras_sharp.results.noise import NoiseScaleResult

L = keras.layers


def regression(examples=90, columns=3, noise=1.0, seed=0, penalty=None):
    """A linear model with a bias, and data of which it explains a part."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(examples, columns)).astype("float32")
    y = (x.sum(axis=1, keepdims=True) + noise * random.normal(size=(examples, 1))).astype("float32")
    model = keras.Sequential([keras.Input((columns,)), L.Dense(1, kernel_regularizer=penalty)])
    model.set_weights([np.full((columns, 1), 0.5), np.array([0.1])])
    model.compile(loss="mse")
    return model, x, y


def by_hand(model, x, y):
    """The gradients of single examples, `(N, columns + 1)`: those of `(x w + b - y)^2`."""
    kernel, bias = (w.astype("float64") for w in model.get_weights())
    x, y = x.astype("float64"), y.astype("float64")
    return 2 * (x @ kernel + bias - y) * np.c_[x, np.ones(len(x))]


def estimated(gradients):
    """`tr(Sigma)` and `|G|^2` from the gradients of single examples."""
    trace = np.trace(np.cov(gradients.T))
    return trace, np.sum(gradients.mean(axis=0) ** 2) - trace / len(gradients)


# -- dense ---------------------------------------------------------------------------------------


def test_single_examples_give_the_dense_covariance():
    model, x, y = regression()
    result = noise_scale(model, (x, y), small_batch=1)
    trace, norm = estimated(by_hand(model, x, y))
    assert result.small_batch == 1 and result.small_batches == 90
    assert result.covariance_trace == pytest.approx(trace, rel=1e-5)
    assert result.square_norm == pytest.approx(norm, rel=1e-5)
    assert float(result) == result.value == pytest.approx(trace / norm, rel=1e-5)
    assert result.loss == pytest.approx(np.mean((model(x) - y) ** 2), rel=1e-6)


def dense_jackknife(parts):
    """The estimate and its errors, everything computed again without each part."""

    def of(kept):
        sizes = np.array([len(part) for part in kept])
        means = np.array([part.mean(axis=0) for part in kept])
        mean = np.concatenate(kept).mean(axis=0)
        trace = sizes @ np.sum((means - mean) ** 2, axis=1) / (len(kept) - 1)
        return trace, np.sum(mean**2) - trace / sizes.sum()

    left_out = [of(parts[:i] + parts[i + 1 :]) for i in range(len(parts))]
    trace, norm = of(parts)
    k = len(parts)
    covariance = (k - 1) / k * (k - 1) * np.cov(np.transpose(left_out))
    slope = np.array([1, -trace / norm]) / norm  # of trace / norm
    return Estimate(
        trace / norm,
        np.sqrt(slope @ covariance @ slope),
        trace,
        np.sqrt(covariance[0, 0]),
        norm,
        np.sqrt(covariance[1, 1]),
    )


@pytest.mark.parametrize("cuts", [[9, 20, 50, 51, 70], [15, 30, 45, 60, 75]])
def test_uneven_batches_and_their_jackknife(cuts):
    model, x, y = regression()
    pieces = list(zip(np.split(x, cuts), np.split(y, cuts), strict=True))
    pipeline = tf.data.Dataset.from_generator(
        lambda: iter(pieces),
        output_signature=(tf.TensorSpec((None, 3)), tf.TensorSpec((None, 1))),
    )
    result = noise_scale(model, pipeline, small_batch=max(map(len, np.split(x, cuts))))
    expected = dense_jackknife(np.split(by_hand(model, x, y), cuts))
    assert result.small_batches == 6
    for name, value in expected._asdict().items():
        assert getattr(result, name) == pytest.approx(value, rel=1e-4), name


def test_an_empty_batch_of_a_pipeline_is_none():
    model, x, y = regression(examples=30)
    whole = tf.data.Dataset.from_tensor_slices((x, y)).batch(10)
    empty = tf.data.Dataset.from_tensors((x[:0], y[:0]))
    values = [noise_scale(model, ds, small_batch=10) for ds in (whole, whole.concatenate(empty))]
    assert [each.small_batches for each in values] == [3, 3]
    assert values[0].value == values[1].value


def test_even_batches_give_the_formulas_of_the_paper():
    model, x, y = regression(examples=64)
    result = noise_scale(model, tf.data.Dataset.from_tensor_slices((x, y)).batch(8), small_batch=8)
    gradients = by_hand(model, x, y)
    big = np.sum(gradients.mean(axis=0) ** 2)
    small = np.mean([np.sum(g.mean(axis=0) ** 2) for g in np.split(gradients, 8)])
    assert result.square_norm == pytest.approx((64 * big - 8 * small) / (64 - 8), rel=1e-5)
    assert result.covariance_trace == pytest.approx((small - big) / (1 / 8 - 1 / 64), rel=1e-5)


def test_sample_weights_weigh_the_gradients_of_examples():
    model, x, y = regression()
    weights = np.random.default_rng(1).uniform(0, 2, len(x)).astype("float32")
    result = noise_scale(model, (x, y, weights), small_batch=1)
    trace, norm = estimated(weights[:, None] * by_hand(model, x, y))
    assert result.value == pytest.approx(trace / norm, rel=1e-5)


def test_a_mean_of_weights_is_that_over_all_data():
    """The divisor is one number, so that batches add up to the whole."""
    model, x, y = regression()
    weights = np.random.default_rng(1).uniform(0, 2, len(x)).astype("float32")
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    result = noise_scale(model, (x, y, weights), loss=loss, small_batch=1)
    share = (weights / weights.mean())[:, None]
    trace, norm = estimated(share * by_hand(model, x, y))
    assert result.covariance_trace == pytest.approx(trace, rel=1e-5)
    assert result.square_norm == pytest.approx(norm, rel=1e-5)


def test_a_sum_over_examples_has_the_noise_scale_of_their_mean():
    model, x, y = regression()
    mean = noise_scale(model, (x, y))
    total = noise_scale(model, (x, y), loss=keras.losses.MeanSquaredError(reduction="sum"))
    assert total.value == pytest.approx(mean.value, rel=1e-4)
    assert total.standard_error == pytest.approx(mean.standard_error, rel=1e-4)


def test_a_penalty_is_part_of_the_gradient_and_no_noise():
    model, x, y = regression()
    bare = noise_scale(model, (x, y), small_batch=1)
    model, x, y = regression(penalty=keras.regularizers.L2(0.3))
    penalized = noise_scale(model, (x, y), small_batch=1)
    gradient = by_hand(model, x, y)
    gradient[:, :3] += 2 * 0.3 * model.get_weights()[0].T
    assert penalized.covariance_trace == pytest.approx(bare.covariance_trace, rel=1e-4)
    assert penalized.square_norm == pytest.approx(estimated(gradient)[1], rel=1e-4)
    assert noise_scale(model, (x, y), small_batch=1, penalties=False).value == pytest.approx(
        bare.value, rel=1e-6
    )


# -- over samples --------------------------------------------------------------------------------


def samples(sizes, count, seed=0):
    """Estimates from samples of a known population: `g = G + A z` with independent `z`.

    The entries of `z` are skew. Yields each `Estimate`.
    """
    random = np.random.default_rng(seed)
    cuts = np.cumsum(sizes)[:-1]
    for _ in range(count):
        z = random.exponential(size=(sum(sizes), len(MEAN))) - 1
        parts = np.split(MEAN + z @ MIX.T, cuts)
        means = np.array([part.mean(axis=0) for part in parts])
        g = np.average(means, axis=0, weights=sizes)
        deviations, along = np.sum((means - g) ** 2, axis=1), (means - g) @ g
        yield jackknife(np.array(sizes), deviations, along, float(g @ g))


MEAN = np.linspace(0.3, 0.6, 20)
MIX = np.random.default_rng(5).normal(size=(20, 20)) / 4
TRACE, NORM = np.sum(MIX**2), np.sum(MEAN**2)


@pytest.mark.parametrize("sizes", [[16] * 40, [4, 28] * 20, [16] * 39 + [3]])
def test_estimates_are_unbiased_and_errors_cover(sizes):
    found = list(samples(sizes, 1500))
    for name, truth in (("covariance_trace", TRACE), ("square_norm", NORM)):
        values = np.array([getattr(each, name) for each in found])
        errors = np.array([getattr(each, f"{name}_error") for each in found])
        assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(len(values))
        # The jackknife states the spread over samples, a little too much rather than too little.
        assert 0.95 < np.sqrt(np.mean(errors**2)) / values.std() < 1.15
    values = np.array([each.value for each in found])
    errors = np.array([each.standard_error for each in found])
    assert np.mean(np.abs(values - TRACE / NORM) < 2 * errors) == pytest.approx(0.95, abs=0.03)


def test_the_estimate_of_the_squared_mean_may_be_negative():
    trace, norm = unbiased(12.0, 4, 8, 0.25)
    assert (trace, norm) == (4.0, -0.25)


def test_samples_of_a_regression_scatter_as_stated():
    """`x ~ N(0, I)` and residuals `x d + e`: `G = 2d`, `tr(Sigma) = 4 (4 (|d|^2 + 1) + |d|^2)`."""
    trace, norm = 36.0, 4.0  # of d = (0.5, 0.5, 0.5, 0.5)
    model = keras.Sequential([keras.Input((4,)), L.Dense(1, use_bias=False)])
    model.set_weights([np.full((4, 1), 0.5)])
    random, x, y = np.random.default_rng(3), np.zeros((160, 4), "f4"), np.zeros((160, 1), "f4")
    # One function, read and traced once; the arrays it looks at become one sample after another.
    objective = Objective(model, (x, y), loss="mse")
    found = []
    for seed in range(100):
        x[:], y[:] = random.normal(size=x.shape), random.normal(size=y.shape)
        found.append(noise_scale(objective, small_batch=8, seed=seed))
    for name, truth in (("covariance_trace", trace), ("square_norm", norm)):
        values = np.array([getattr(result, name) for result in found])
        assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(len(values))
    off = np.array([(result.value - trace / norm) / result.standard_error for result in found])
    assert np.mean(np.abs(off) < 2) > 0.85


# -- invariances ---------------------------------------------------------------------------------


def test_arrays_sorted_by_label_give_what_shuffled_ones_do():
    random = np.random.default_rng(0)
    x = np.repeat(random.normal(size=(4, 5)), 60, axis=0) + 0.3 * random.normal(size=(240, 5))
    y = np.repeat(np.arange(4), 60)
    model = keras.Sequential([keras.Input((5,)), L.Dense(4)])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    exact = noise_scale(model, (x, y), small_batch=1).value
    sorted_ = noise_scale(model, (x, y), small_batch=8)
    assert abs(sorted_.value - exact) < 3 * sorted_.standard_error
    # What the shuffling is for:
    pipeline = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    assert noise_scale(model, pipeline, small_batch=8).value > 2 * exact


def test_the_seed_draws_the_batches():
    model, x, y = regression()
    one, same, other = (noise_scale(model, (x, y), small_batch=10, seed=s) for s in (1, 1, 2))
    assert one.value == same.value != other.value
    tensors = (tf.constant(x), tf.constant(y))
    assert noise_scale(model, tensors, small_batch=10, seed=1).value == one.value


def test_evaluation_batches_and_replicas_change_nothing():
    model, x, y = regression()
    one = noise_scale(model, (x, y), small_batch=7, batch_size=50)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1", "CPU:2"])
    with strategy.scope():
        mirrored = regression()[0]
    several = noise_scale(mirrored, (x, y), small_batch=7, batch_size=90)
    assert several.objective["replicas"] == 3
    assert several.value == pytest.approx(one.value, rel=1e-6)
    assert several.standard_error == pytest.approx(one.standard_error, rel=1e-6)


def test_batch_statistics_take_the_evaluation_batches():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(80, 4)), random.integers(0, 3, 80)
    model = keras.Sequential([keras.Input((4,)), L.Dense(5), L.BatchNormalization(), L.Dense(3)])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    result = noise_scale(model, (x, y), batch_norm="batch", batch_size=16)
    objective = Objective(model, (x, y), batch_norm="batch", batch_size=80)
    parts = [
        Objective(model, (x[i : i + 16], y[i : i + 16]), batch_norm="batch", batch_size=16)
        for i in range(0, 80, 16)
    ]
    gradients = np.array([part.value_and_gradient()[1] for part in parts])
    trace = 16 * np.sum(np.var(gradients, axis=0, ddof=1))
    assert result.small_batches == 5
    assert result.covariance_trace == pytest.approx(trace, rel=1e-5)
    with pytest.raises(ValueError, match="another function"):
        noise_scale(objective, small_batch=8)
    model.layers[1].trainable = False  # frozen, it uses its moving statistics
    assert noise_scale(model, (x, y), batch_norm="batch", small_batch=8).small_batches == 10


# -- what is said --------------------------------------------------------------------------------


def test_a_minimum_has_no_noise_scale():
    model, x, y = regression(noise=5.0)
    solution = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    model.set_weights([solution[:3], solution[3]])
    result = noise_scale(model, (x, y))
    assert result.value is None and result.standard_error is None
    assert result.square_norm < 0 < result.covariance_trace
    assert "not positive" in result.status and "no value" in repr(result)
    with pytest.raises(ValueError, match="no value here.*not positive"):
        float(result)
    assert NoiseScaleResult.from_json(result.to_json()) == result


def test_a_gradient_near_its_noise_is_said_to_be():
    clear, x, y = regression(noise=0.5)
    assert "can be trusted" in noise_scale(clear, (x, y)).status
    near, x, y = regression(noise=5.0)
    near.set_weights([np.full((3, 1), 0.9), np.zeros(1)])
    result = noise_scale(near, (x, y), small_batch=1)
    assert result.value is None or "skew" in result.status


def test_the_result_says_what_it_is_of():
    model, x, y = regression()
    result = noise_scale(model, (x, y), seed=4)
    assert result.small_batches == 90 and result.evaluations == 2 and result.seed == 4
    assert f"{float(result):.4g}" in repr(result) and f"{result:.2f}" == f"{result.value:.2f}"
    assert NoiseScaleResult.from_json(result.to_json()) == result
    big = noise_scale(model, (np.repeat(x, 10, axis=0), np.repeat(y, 10, axis=0)))
    assert big.small_batch == 900 // 64 and big.small_batches >= 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"small_batch": 0}, "`small_batch` must be an integer of at least 1"),
        ({"small_batch": 91}, "must not exceed the evaluation batch"),
        ({"small_batch": 45}, "at least 3 small batches.*Lower `small_batch`"),
        ({"verbose": 2}, "`verbose`"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_bad_arguments(arguments, message):
    model, x, y = regression()
    with pytest.raises(ValueError, match=message):
        noise_scale(model, (x, y), batch_size=90, **arguments)


def test_a_loss_that_is_not_finite():
    model, x, y = regression()
    y[3] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        noise_scale(model, (x, y))


def test_the_model_is_untouched():
    model, x, y = regression()
    before = [v.numpy().copy() for v in model.variables]
    noise_scale(model, (x, y))
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
