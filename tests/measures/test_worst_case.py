"""Worst-case sharpness where the highest point of the ball is known."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp import Objective
from keras_sharp.measures.worst_case import worst_case_sharpness
from keras_sharp.results.adaptive import WorstCaseSharpnessResult

L = keras.layers


def mean_output(y, prediction):
    return prediction[:, 0]


def linear(rows=10, columns=6):
    """A model whose loss is linear in its weights, one of which is 0."""
    random = np.random.default_rng(8)
    model = keras.Sequential([keras.Input((columns,)), L.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign(np.append(random.normal(size=columns - 1), 0.0)[:, None])
    return model, (random.normal(size=(rows, columns)), np.zeros((rows, 1)))


def rise_of(gradient, c, norm):
    return np.linalg.norm(c * gradient, 1 if norm == "linf" else 2)


@pytest.mark.parametrize("m", [None, 10, 4])
@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_linear_loss(float64, norm, adaptive, m):
    model, (x, y) = linear()
    w = model.get_weights()[0].ravel()
    c = np.abs(w) if adaptive else np.ones(6)
    options = {"loss": mean_output, "rho": 0.3, "norm": norm, "adaptive": adaptive, "m": m}
    result = worst_case_sharpness(model, (x, y), **options)
    batches = [x] if m is None else [x[start : start + m] for start in range(0, 10, m)]
    rises = np.array([0.3 * rise_of(batch.mean(axis=0), c, norm) for batch in batches])
    sizes = np.array([len(batch) for batch in batches])
    np.testing.assert_allclose(result.rises, rises, rtol=1e-9)
    np.testing.assert_array_equal(result.sizes, sizes)
    assert result.value == float(result) == pytest.approx(sizes @ rises / 10)
    assert result.loss == pytest.approx(np.mean(x @ w))
    assert result.evaluations == 21 * len(sizes) and result.still_rising == 0
    if len(sizes) == 1:
        assert result.standard_error is None
    else:
        variance = sizes**2 @ (rises - result.value) ** 2 / 100 * 3 / 2
        assert result.standard_error == pytest.approx(np.sqrt(variance))


@pytest.mark.parametrize("adaptive", [True, False])
def test_the_top_eigenvalue_from_an_exact_minimum(known, adaptive):
    model, (x, _), hessian = known["linear"]
    c = np.abs(model.get_weights()[0].ravel()) if adaptive else np.ones(12)
    data = x, model(x).numpy()
    result = worst_case_sharpness(
        model, data, rho=0.1, norm="l2", adaptive=adaptive, m=None, iterations=60
    )
    top = np.linalg.eigvalsh(c[:, None] * hessian * c)[-1]
    highest = 0.1**2 / 2 * top
    assert 0.999 * highest <= result.value <= highest * (1 + 1e-9)
    assert "stationary" in result.status and result.evaluations == 62


def test_never_more_than_the_ball_holds(relu):
    """Against a brute-force search: no point that it finds is much higher."""
    model, data = relu
    random = np.random.default_rng(0)
    objective = Objective(model, data)
    w = objective.weights
    result = worst_case_sharpness(objective, rho=0.05, m=None)
    corners = np.sign(random.normal(size=(300, w.size)))
    brute = max(objective.value(w + 0.05 * np.abs(w) * corner) for corner in corners)
    assert result.loss + result.value > brute
    gradient = np.abs(w) * objective.value_and_gradient(w)[1]
    corner = objective.value(w + 0.05 * np.abs(w) * np.sign(gradient))
    assert result.loss + result.value >= corner * (1 - 1e-12)


def test_restarts_restart(float64):
    """A slope up to the right, and behind a ridge on the left a higher end."""
    model = keras.Sequential([keras.Input((1,)), L.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign([[1.0]])

    def ends(y, prediction):
        u = prediction[:, 0] - 1
        return u + 0.8 * tf.math.softplus(-10 * (u + 0.5))

    options = {"loss": ends, "rho": 1.0, "norm": "linf"}
    data = np.ones((2, 1)), np.ones((2, 1))
    once, often = (worst_case_sharpness(model, data, restarts=r, **options) for r in (1, 12))
    right, left = (u + 0.8 * np.log1p(np.exp(-10 * (u + 0.5))) for u in (1, -1))
    assert once.loss + once.value == pytest.approx(right)
    assert often.loss + often.value == pytest.approx(left)
    assert once.evaluations == 21 and often.evaluations == 12 * 21
    again = worst_case_sharpness(model, data, restarts=12, **options)
    assert again.rises == often.rises


def test_too_few_iterations_are_told(relu):
    result = worst_case_sharpness(*relu, rho=0.1, iterations=1, m=20)
    assert result.still_rising == 2 and "In 2 of 2 batches" in result.status


def test_batches_do_not_depend_on_where_the_data_come_from(relu):
    model, (x, y) = relu
    pipeline = tf.data.Dataset.from_tensor_slices((x, y)).batch(9)
    settings = []
    for source in [
        (model, (x, y)),
        (model, pipeline),
        (Objective(model, pipeline),),
        (Objective(model, (x, y), batch_size=40),),
    ]:
        result = worst_case_sharpness(*source, rho=0.05, m=16)
        settings.append((result.rises.tolist(), result.sizes.tolist()))
        assert result.objective["batch_size"] == 16 and result.objective["batches"] == 3
    assert settings[0][1] == [16, 16, 8]
    for other in settings[1:]:
        np.testing.assert_allclose(other[0], settings[0][0], rtol=1e-9)


def test_batch_statistics_are_those_of_the_batches(float64):
    random = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((3,)), L.Dense(4), L.BatchNormalization(), L.Dense(1)])
    x, y = random.normal(size=(12, 3)), random.normal(size=(12, 1))
    options = {"rho": 0.02, "loss": "mse", "batch_norm": "batch"}
    result = worst_case_sharpness(model, (x, y), m=6, **options)
    alone = [
        worst_case_sharpness(model, (x[half], y[half]), m=None, **options).value
        for half in (slice(0, 6), slice(6, 12))
    ]
    np.testing.assert_allclose(result.rises, alone, rtol=1e-9)


def test_json_repr_and_the_model_stays(relu):
    model, data = relu
    before = [variable.numpy().copy() for variable in model.variables]
    result = worst_case_sharpness(model, data, rho=0.01, m=20)
    back = WorstCaseSharpnessResult.from_json(result.to_json())
    np.testing.assert_array_equal(back.rises, result.rises)
    assert repr(back) == repr(result) and "adaptive linf" in repr(result)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def test_errors(relu):
    model, data = relu
    for wrong in (
        {"rho": 0},
        {"norm": "l1"},
        {"adaptive": "yes"},
        {"m": 0},
        {"iterations": 0},
        {"restarts": 0},
        {"verbose": 3},
    ):
        with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
            worst_case_sharpness(model, data, **{"rho": 0.1, **wrong})
    with pytest.raises(TypeError, match="NormalizedLogits"):
        worst_case_sharpness(Objective(model, data), rho=0.1, normalize_logits=True)
    with pytest.raises(ValueError, match="from_logits=True"):
        worst_case_sharpness(model, data, rho=0.1, normalize_logits=True, loss="mse")
    with pytest.raises(FloatingPointError, match="smaller `rho`"):
        worst_case_sharpness(model, data, rho=1e200, adaptive=False)
    model.set_weights([np.zeros(variable.shape) for variable in model.weights])
    with pytest.raises(ValueError, match="`adaptive` must be False"):
        worst_case_sharpness(model, data, rho=0.1)
    model.set_weights([np.full(variable.shape, np.nan) for variable in model.weights])
    with pytest.raises(ValueError, match="finite"):
        worst_case_sharpness(model, data, rho=0.1)
