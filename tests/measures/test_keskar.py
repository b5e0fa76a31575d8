"""Epsilon-sharpness against closed forms, brute force, and itself in other units."""

import itertools

import keras
import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf
from sklearn.datasets import load_digits

import keras_sharp
from keras_sharp import Objective, sharpness
from keras_sharp.measures import keskar
from keras_sharp.measures.subspace import GaussianSubspace
from keras_sharp.training import Trainer

L = keras.layers


def crossentropy(**kwargs):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **kwargs)


def digits(examples=1797):
    x, y = load_digits(return_X_y=True)
    return (x[:examples] / 16).astype("float32"), y[:examples].astype("int32")


def classifier(dropout=0.0, synchronized=False, width=24):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            L.Dense(width),
            L.BatchNormalization(momentum=0.9, synchronized=synchronized),
            L.ReLU(),
            L.Dropout(dropout, seed=5),
            L.Dense(10),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), crossentropy())
    return model


def orthogonal_regression(columns=6, rows=64):
    """A linear model at the exact minimum of `sum_i d_i (w_i - w*_i)^2`, and `d`."""
    random = np.random.default_rng(2)
    curvatures = np.geomspace(1.0, 4.0, columns)
    q, _ = np.linalg.qr(random.normal(size=(rows, columns)))
    x = (q * np.sqrt(rows * curvatures)).astype("float32")
    model = keras.Sequential([keras.Input((columns,)), L.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign(random.normal(size=(columns, 1)))
    model.compile(loss="mse")
    return model, (x, model(x).numpy()), curvatures


# -- closed forms --------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["l-bfgs-b", "sign-ascent"])
@pytest.mark.parametrize("epsilon", [1e-3, 5e-4])
def test_quadratic_from_its_exact_minimum(solver, epsilon):
    model, data, curvatures = orthogonal_regression()
    result = sharpness(model, data, epsilon=epsilon, solver=solver)
    box = epsilon * (np.abs(model.get_weights()[0].ravel()) + 1)
    assert result.loss == 0 and "stationary" in result.status
    assert result.value == pytest.approx(100 * np.sum(curvatures * box**2), rel=1e-3)
    assert float(result) == result.value and result.at_bounds == 1.0 and result.converged


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("solver", ["l-bfgs-b", "sign-ascent"])
def test_subspace_against_all_corners_from_the_exact_minimum(solver, seed):
    model, data, curvatures = orthogonal_regression()
    w = model.get_weights()[0].ravel().astype("float64")
    basis = GaussianSubspace(w, 3, seed=seed, memory=2**20)
    a = np.stack([basis.lift(unit) - w for unit in np.eye(3)], axis=1)
    half = 1e-3 * (np.abs(np.linalg.pinv(a) @ w) + 1)
    corners = [
        np.sum(curvatures * (a @ (half * signs)) ** 2)
        for signs in itertools.product([-1, 1], repeat=3)
    ]
    result = sharpness(model, data, subspace_dim=3, seed=seed, solver=solver)
    assert result.value == pytest.approx(100 * max(corners), rel=1e-3)


def test_subspace_finds_the_best_corner_where_the_gradient_points_to_it():
    model, (x, y), _ = orthogonal_regression()
    model.layers[0].kernel.assign_add(np.full((6, 1), 0.1))
    w = model.get_weights()[0].ravel().astype("float64")
    basis = GaussianSubspace(w, 3, seed=4, memory=2**20)
    a = np.stack([basis.lift(unit) - w for unit in np.eye(3)], axis=1)
    half = 1e-3 * (np.abs(np.linalg.pinv(a) @ w) + 1)
    losses = [
        np.mean((x @ (w + a @ (half * signs)) - y.ravel()) ** 2)
        for signs in itertools.product([-1, 1], repeat=3)
    ]
    result = sharpness(model, (x, y), subspace_dim=3, seed=4)
    assert result.max_loss == pytest.approx(max(losses), rel=1e-5)
    rise = 100 * (max(losses) - result.loss) / (1 + result.loss)
    assert result.value == pytest.approx(rise, rel=1e-3)


def test_a_constant_loss_has_sharpness_zero():
    model = keras.Sequential([keras.Input((2,)), L.Dense(2), L.ReLU(), L.Dense(1, use_bias=False)])
    model.set_weights([np.zeros((2, 2)), np.full(2, -1.0), np.zeros((2, 1))])  # every unit is dead
    result = sharpness(model, (np.ones((4, 2), "f4"), np.ones((4, 1), "f4")), loss="mse")
    assert result.value == 0 and "no slope" in result.status and not result.converged


# -- the traps of the metric ---------------------------------------------------------------------


def trained_classifier():
    model, data = classifier(width=128), digits(600)
    trainer = Trainer(model, keras.optimizers.Adam(0.1), crossentropy())
    trainer.fit(data, batch_size=600, epochs=600, verbose=0)
    return model, data


def test_a_well_trained_network_is_never_flat_by_tolerance():
    model, data = trained_classifier()
    for batch_norm in ("inference", "batch"):
        result = sharpness(model, data, batch_norm=batch_norm)
        ascent = sharpness(
            model, data, batch_norm=batch_norm, solver="sign-ascent", max_iterations=30
        )
        assert result.loss < 1e-5
        assert result.max_loss - result.loss >= 0.98 * (ascent.max_loss - ascent.loss) > 0


@pytest.mark.parametrize("subspace_dim", [None, 20])
@pytest.mark.parametrize("factor", [1e-5, 1e3])
def test_the_rise_scales_with_the_loss(factor, subspace_dim):
    model, data = classifier(), digits(300)
    model.fit(*data, batch_size=32, epochs=10, verbose=0)
    base = crossentropy()

    def scaled(y_true, y_pred):
        return factor * base(y_true, y_pred)

    one = sharpness(model, data, subspace_dim=subspace_dim)
    other = sharpness(model, data, subspace_dim=subspace_dim, loss=scaled, batch_size=70)
    assert other.max_loss - other.loss == pytest.approx(
        factor * (one.max_loss - one.loss), rel=1e-2
    )


@pytest.mark.parametrize("subspace_dim", [None, 7])
def test_what_the_solver_is_handed(monkeypatch, float64, subspace_dim):
    """The function falls where the loss rises, and its gradient is its own, sign included."""
    model, data = classifier(), digits(200)
    objective = Objective(model, data)
    checked = []

    def check(fun, start, *, bounds, **kwargs):
        random = np.random.default_rng(0)
        y, v = random.uniform(bounds.lb, bounds.ub), random.normal(size=len(start))
        step = 1e-5
        slope = (fun(y + step * v)[0] - fun(y - step * v)[0]) / (2 * step)
        assert fun(y)[1] @ v == pytest.approx(slope, rel=1e-5)
        if subspace_dim is None:
            w = objective.weights
            scale = np.max(np.abs(objective.value_and_gradient(w)[1]))
            assert fun(y)[0] == pytest.approx(-objective.value(w + y) / scale, rel=1e-12)
            np.testing.assert_allclose(bounds.ub, 1e-3 * (np.abs(w) + 1))
            np.testing.assert_array_equal(bounds.lb, -bounds.ub)
        checked.append(True)
        return original(fun, start, bounds=bounds, **kwargs)

    original = scipy.optimize.minimize
    monkeypatch.setattr(scipy.optimize, "minimize", check)
    sharpness(objective, subspace_dim=subspace_dim, seed=1)
    assert checked


def test_corner_is_the_loss_at_the_signed_gradient():
    model, data = classifier(), digits(200)
    objective = Objective(model, data)
    w = objective.weights
    loss, gradient = objective.value_and_gradient(w)
    corner = objective.value(w + 1e-3 * (np.abs(w) + 1) * np.sign(gradient))
    result = sharpness(objective)
    assert result.corner == pytest.approx(100 * (corner - loss) / (1 + loss), rel=1e-9)


# -- nothing is left behind ----------------------------------------------------------------------


def everything(model):
    return [v.numpy().copy() for v in [*model.variables, *model.optimizer.variables]]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("batch_norm", ["inference", "batch"])
def test_the_model_is_untouched(monkeypatch, batch_norm, fails):
    model, data = classifier(dropout=0.5), digits(200)
    model.fit(*data, epochs=1, verbose=0)
    before = everything(model)
    if fails:
        notes = itertools.count()

        def interrupt(self, **values):
            if next(notes) == 3:
                raise KeyboardInterrupt

        monkeypatch.setattr(keskar.Progress, "note", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sharpness(model, data, batch_norm=batch_norm)
    else:
        sharpness(model, data, batch_norm=batch_norm, subspace_dim=5)
    for old, new in zip(before, everything(model), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not any("call" in layer.__dict__ for layer in model.layers)


# -- invariances ---------------------------------------------------------------------------------


def test_batching_and_source():
    model, (x, y) = classifier(), digits()
    model.fit(x, y, epochs=2, verbose=0)
    pipeline = tf.data.Dataset.from_tensor_slices((x, y)).batch(100)
    values = [sharpness(model, (x, y), batch_size=size).value for size in (1000, 777)]
    values.append(sharpness(model, pipeline).value)
    assert values == pytest.approx([values[0]] * 3, rel=1e-2)


@pytest.mark.parametrize("batch_norm", ["inference", "batch"])
def test_replicas(batch_norm):
    x, y = digits()
    weights, values = None, []
    for replicas in (1, 2, 4):
        devices = [f"CPU:{device}" for device in range(replicas)]
        strategy = (
            tf.distribute.MirroredStrategy(devices)
            if replicas > 1
            else tf.distribute.get_strategy()
        )
        with strategy.scope():
            model = classifier(synchronized=True)
        if weights is None:
            model.fit(x, y, epochs=2, verbose=0)
            weights = model.get_weights()
        model.set_weights(weights)
        values.append(sharpness(model, (x, y), batch_norm=batch_norm, batch_size=500).value)
    assert values == pytest.approx([values[0]] * 3, rel=1e-2)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = L.Dense(16, "relu"), L.Dense(10)

    def call(self, x):
        return self.out(self.hidden(x))


def two_outputs():
    image, extra = keras.Input((64,), name="image"), keras.Input((1,), name="extra")
    hidden = L.Dense(16, "relu")(L.Concatenate()([image, extra]))
    outputs = {"label": L.Dense(10, name="label")(hidden), "sum": L.Dense(1, name="sum")(hidden)}
    model = keras.Model({"image": image, "extra": extra}, outputs)
    model.compile(loss={"label": crossentropy(), "sum": "mse"})
    return model


def test_kinds_of_models():
    x, y = digits(100)
    subclassed = Subclassed()
    subclassed.compile(loss=crossentropy())
    subclassed(x)
    frozen = classifier()
    frozen.layers[0].trainable = False
    mixed = keras.Sequential([keras.Input((64,)), L.Dense(10, dtype="mixed_float16")])
    mixed.compile(loss=crossentropy())
    both = {"image": x, "extra": x[:, :1]}
    cases = [
        (subclassed, (x, y), 64 * 16 + 16 + 160 + 10),
        (frozen, (x, y), 48 + 240 + 10),
        (mixed, (x, y, np.linspace(0, 1, 100)), 650),
        (two_outputs(), (both, {"label": y, "sum": x.sum(1)}), 65 * 16 + 16 + 160 + 10 + 17),
    ]
    for model, data, weights in cases:
        result = sharpness(model, data)
        assert result.objective["weights"] == weights
        assert result.corner == pytest.approx(corner_by_keras(model, *data), rel=2e-2)


def corner_by_keras(model, x, y, sample_weight=None):
    """The sharpness of the signed-gradient corner, by moving the weights of the model itself."""

    def loss():
        return model.compute_loss(x, y, model(x, training=False), sample_weight)

    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        before = loss()
    slopes = tape.gradient(before, [variable.value for variable in variables])
    for variable, slope in zip(variables, slopes, strict=True):
        variable.assign_add(1e-3 * (np.abs(variable) + 1) * np.sign(slope))
    return 100 * (float(loss()) - float(before)) / (1 + float(before))


def test_a_subspace_that_does_not_fit_is_the_same_subspace():
    model, data = classifier(), digits(200)
    kept, drawn = (
        sharpness(model, data, subspace_dim=10, seed=3, subspace_memory=memory)
        for memory in (2**30, 0)
    )
    assert kept.value == drawn.value
    assert kept.value != sharpness(model, data, subspace_dim=10, seed=4).value


def test_solvers_agree_and_json_round_trips():
    model, data = classifier(), digits(300)
    model.fit(*data, epochs=3, verbose=0)
    objective = Objective(model, data)
    first, second = (sharpness(objective, solver=name) for name in ("l-bfgs-b", "sign-ascent"))
    assert second.value == pytest.approx(first.value, rel=0.05)
    assert keras_sharp.results.SharpnessResult.from_json(first.to_json()) == first
    assert f"{first:.3f}" == f"{first.value:.3f}"
    assert "l-bfgs-b" in repr(first) and "batches of 300" in repr(first)
    assert first.objective["data_digest"] == second.objective["data_digest"]


def test_numpy_integers_are_as_good_as_python_s():
    arguments = {"seed": np.int64(3), "max_iterations": np.int32(2), "subspace_dim": np.int64(4)}
    result = sharpness(classifier(), digits(20), epsilon=np.float32(1e-3), **arguments)
    assert keras_sharp.results.SharpnessResult.from_json(result.to_json()) == result


def test_the_bar_is_shown_when_asked_for(capsys):
    model, data = classifier(), digits(100)
    sharpness(model, data, verbose=0)
    assert capsys.readouterr().out == ""
    sharpness(model, data, verbose=1)
    printed = capsys.readouterr().out
    assert printed.startswith("sharpness") and "/10" in printed and "loss" in printed


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 0}, "`epsilon` must be positive"),
        ({"epsilon": float("nan")}, "`epsilon` must be positive"),
        ({"epsilon": "1"}, "`epsilon` must be positive"),
        ({"subspace_dim": 3.0}, "`subspace_dim` must be an integer of at least 1"),
        ({"max_iterations": 0}, "`max_iterations` must be"),
        ({"solver": "adam"}, "`solver` must be"),
        ({"seed": -1}, "`seed` must be"),
        ({"subspace_dim": 0}, "`subspace_dim` must be an integer of at least 1"),
        ({"subspace_dim": 10**6}, "must not exceed the number of trainable weights"),
        ({"batch_norm": "train"}, "`batch_norm` must be"),
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"verbose": 3}, "`verbose` must be"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        sharpness(classifier(), digits(20), **arguments)


def test_bad_data_and_models():
    model, (x, y) = classifier(), digits(20)
    for data, message in [
        ((x[:0], y[:0]), "must not be empty"),
        (x, "must be labelled"),
        ((x, None), "must be labelled"),
        ((x, y + 5), "classes: 10"),
    ]:
        with pytest.raises(ValueError, match=message):
            sharpness(model, data)
    with pytest.raises(ValueError, match="must be built"):
        sharpness(keras.Sequential([L.Dense(1)]), (x, y))
    with pytest.raises(ValueError, match="compiled with one"):
        sharpness(keras.Sequential([keras.Input((64,)), L.Dense(10)]), (x, y))
    model.layers[0].kernel.assign(np.full((64, 24), np.nan))
    with pytest.raises(ValueError, match="must be finite"):
        sharpness(model, (x, y))
    model.trainable = False
    with pytest.raises(ValueError, match="trainable weights"):
        sharpness(model, (x, y))


def test_a_loss_that_overflows_inside_the_box_is_an_error():
    model = keras.Sequential(
        [keras.Input((1,)), L.Dense(1, use_bias=False, activation="exponential")]
    )
    model.set_weights([np.array([[88.72]])])  # exp of it is just below the largest float32
    with pytest.raises(FloatingPointError, match="at a point of the box"):
        sharpness(model, (np.ones((2, 1), "f4"), np.zeros((2, 1), "f4")), loss="mae", epsilon=0.01)


def test_a_measure_takes_a_model_with_data_or_an_objective_alone():
    model, data = classifier(), digits(20)
    objective = Objective(model, data, batch_norm="batch")
    assert sharpness(objective).value == sharpness(model, data, batch_norm="batch").value
    for arguments, options, message in [
        ((model,), {}, "a Keras model and its data"),
        ((objective, data), {}, r"leave them out.*\['ds'\]"),
        ((objective,), {"batch_norm": "batch"}, r"leave them out.*\['batch_norm'\]"),
        ((model, data), {"epsilo": 1}, r"\['epsilo'\]"),
    ]:
        with pytest.raises(TypeError, match=message):
            sharpness(*arguments, **options)
