"""Surfaces of quadratics in closed form, and surfaces that were stopped half-way."""

import keras
import numpy as np
import pytest

from keras_sharp import Objective, hessian_eigenvalues
from keras_sharp.landscape import principal_plane, random_directions, surface
from keras_sharp.results.landscape import SurfaceResult

L = keras.layers


def regression(seed=0):
    random = np.random.default_rng(seed)
    model = keras.Sequential([keras.Input((3,)), L.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign(random.normal(size=(3, 1)))
    model.compile(loss="mse")
    return model, tuple(random.normal(size=(40, k)).astype("f4") for k in (3, 1))


def classifier(activation="tanh"):
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [keras.Input((4,)), L.Dense(5, activation=activation), L.BatchNormalization(), L.Dense(3)]
    )
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    random = np.random.default_rng(0)
    return model, (random.normal(size=(30, 4)).astype("f4"), random.integers(0, 3, 30))


def loss_at(model, data, *steps_and_directions):
    x, y = (part.astype("f8") for part in data)
    w = model.get_weights()[0][:, 0].astype("f8")
    for step, direction in steps_and_directions:
        w = w + step * direction
    return np.mean((x @ w - y[:, 0]) ** 2)


# -- closed form ---------------------------------------------------------------------------------


def test_plane_of_a_quadratic():
    model, data = regression()
    basis = np.random.default_rng(1).normal(size=(3, 2))
    result = surface(model, data, directions=basis, extent=((-1, 2), (-3, 1)), points=(4, 5))
    np.testing.assert_array_equal(result.x, [-1, 0, 1, 2])
    np.testing.assert_array_equal(result.y, [-3, -2, -1, 0, 1])
    expected = [
        [loss_at(model, data, (x, basis[:, 0]), (y, basis[:, 1])) for y in result.y]
        for x in result.x
    ]
    np.testing.assert_allclose(result.loss, expected, rtol=1e-5)
    assert result.loss[1, 3] == result.centre_loss == Objective(model, data).value()
    np.testing.assert_allclose(result.norms, np.linalg.norm(basis, axis=0))
    cosine = basis[:, 0] @ basis[:, 1] / np.prod(np.linalg.norm(basis, axis=0))
    assert result.cosine == pytest.approx(cosine)
    assert result.accuracy is None and result.path is None
    assert result.evaluations == 21


def test_plane_of_the_top_eigenvectors():
    model, data = regression()
    objective = Objective(model, data)
    found = hessian_eigenvalues(objective, k=2)
    result = surface(objective, directions=found.eigenvectors, points=5)
    slopes = found.eigenvectors.T @ objective.value_and_gradient()[1]
    along_x, along_y = (
        axis * slope + axis**2 * curvature / 2
        for axis, slope, curvature in zip(
            (result.x, result.y), slopes, found.eigenvalues, strict=True
        )
    )
    expected = found.loss + along_x[:, None] + along_y
    np.testing.assert_allclose(result.loss, expected, rtol=1e-5)


def test_line_of_a_quadratic():
    model, data = regression()
    direction = np.array([1.0, -2.0, 0.5])
    for form in (direction, direction[:, None]):
        result = surface(model, data, directions=form, extent=0.5, points=5)
        expected = [loss_at(model, data, (x, direction)) for x in np.linspace(-0.5, 0.5, 5)]
        np.testing.assert_allclose(result.loss, expected, rtol=1e-5)
        assert result.y is None and result.cosine is None and result.directions == "given"


def test_random_directions_are_filter_normalised():
    model, data = classifier()
    basis = random_directions(model, 2, seed=4)
    by_name, by_hand = (
        surface(model, data, points=3, **arguments)
        for arguments in ({"seed": 4}, {"directions": basis})
    )
    np.testing.assert_array_equal(by_name.loss, by_hand.loss)
    line = surface(model, data, points=3, seed=4, dimensions=1)
    np.testing.assert_array_equal(line.loss, by_name.loss[:, 1])
    objective = Objective(model, data)
    right = objective.predict(objective.weights + basis @ [1.0, -1.0]).argmax(axis=1) == data[1]
    assert by_name.accuracy[2, 0] == right.mean()


def test_plane_of_a_trajectory():
    model, data = regression()
    end = Objective(model, data).weights
    iterates = end + np.array([[4, 0, 0], [2, 2, 0], [1, 1, 0], [0, 0, 0.0]])
    plane = principal_plane(iterates)
    result = surface(model, data, directions=plane, points=5)
    expected = [
        [
            loss_at(model, data, (x, plane.directions[:, 0]), (y, plane.directions[:, 1]))
            for y in result.y
        ]
        for x in result.x
    ]
    np.testing.assert_allclose(result.loss, expected, rtol=1e-5)
    for axis, values in ((result.x, result.path[:, 0]), (result.y, result.path[:, 1])):
        assert axis[0] < values.min() and values.max() < axis[-1]
    np.testing.assert_array_equal(result.explained, plane.explained)


def test_a_trajectory_that_does_not_end_at_the_model_is_refused():
    model, data = regression()
    iterates = Objective(model, data).weights + np.eye(3)
    with pytest.raises(ValueError, match="current weights"):
        surface(model, data, directions=principal_plane(iterates))


# -- the cache -----------------------------------------------------------------------------------


class Stopped(Exception):
    pass


def counted(monkeypatch, stop_after=None):
    """Counts evaluations, and raises after some."""
    calls, evaluate = [], Objective.evaluate

    def counting(self, *args, **kwargs):
        if len(calls) == stop_after:
            raise Stopped
        calls.append(args)
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr(Objective, "evaluate", counting)
    return calls


@pytest.mark.parametrize("dimensions", [1, 2])
def test_a_stopped_surface_goes_on(tmp_path, monkeypatch, dimensions):
    model, data = classifier()
    row = 4 if dimensions == 2 else 1
    arguments = {"points": 4, "dimensions": dimensions, "seed": 1}
    before = [variable.numpy() for variable in model.variables]
    whole = surface(model, data, **arguments)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        # The centre, two rows, and half of the third.
        counted(patch, stop_after=1 + 2 * row + row // 2)
        surface(model, data, cache=tmp_path, **arguments)
    with monkeypatch.context() as patch:
        calls = counted(patch)
        rest = surface(model, data, cache=tmp_path, **arguments)
    # The centre, one point of what was read, and two rows.
    assert len(calls) == rest.evaluations == 2 + 2 * row
    np.testing.assert_array_equal(rest.loss, whole.loss)
    np.testing.assert_array_equal(rest.accuracy, whole.accuracy)
    assert "2 of 4 rows were read" in rest.status
    again = surface(model, data, cache=tmp_path, **arguments)
    assert again.evaluations == 2
    np.testing.assert_array_equal(again.loss, whole.loss)
    assert [str(file) for file in tmp_path.iterdir()] == [again.cache]
    for variable, old in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)


def test_the_same_model_made_again_goes_on(tmp_path):
    files = {surface(*classifier(), points=3, cache=tmp_path).cache for _ in range(2)}
    assert len(files) == 1


def changed(what, model, data):
    x, y = data
    arguments = {"points": 3}
    if what == "weights":
        model.layers[0].kernel.assign_add(1e-3 * np.ones((4, 5)))
    elif what == "moving statistics":
        model.layers[1].moving_mean.assign(np.ones(5))
    elif what == "regularizer":
        model.layers[0].kernel_regularizer = keras.regularizers.L2(1e-7)
    elif what == "epsilon":
        model.layers[1].epsilon = 1.1e-3
    elif what == "activation":
        model.layers[0].activation = keras.activations.relu
    elif what == "data":
        x = x + 1e-3
    elif what == "loss":
        arguments["loss"] = "sparse_categorical_crossentropy"
        model.layers[-1].activation = keras.activations.softmax
    else:
        arguments |= what
    return model, (x, y), arguments


@pytest.mark.parametrize(
    "what",
    [
        "weights",
        "moving statistics",
        "regularizer",
        "epsilon",
        "activation",
        "data",
        "loss",
        {"seed": 1},
        {"extent": 0.5},
        {"points": 4},
        {"batch_norm": "batch"},
        {"dimensions": 1},
    ],
    ids=str,
)
def test_rows_of_something_else_are_never_mixed_in(tmp_path, what):
    surface(*classifier(), points=3, cache=tmp_path)
    model, data, arguments = changed(what, *classifier())
    cached = surface(model, data, cache=tmp_path, **arguments)
    np.testing.assert_array_equal(cached.loss, surface(model, data, **arguments).loss)
    assert len(list(tmp_path.iterdir())) == 2


def test_other_code_with_the_same_configuration_is_an_error(tmp_path):
    def activation(factor):
        def own(x):
            return factor * keras.ops.tanh(x)

        return own

    surface(*classifier(activation(1)), points=3, cache=tmp_path)
    with pytest.raises(ValueError, match="computes something else"):
        surface(*classifier(activation(2)), points=3, cache=tmp_path)


def test_a_foreign_file_is_an_error(tmp_path):
    file = surface(*classifier(), points=3, cache=tmp_path / "new" / "folder").cache
    for content in (b"", b"something else"):
        with open(file, "wb") as stream:
            stream.write(content)
        with pytest.raises(ValueError, match="Delete it"):
            surface(*classifier(), points=3, cache=tmp_path / "new" / "folder")
    with pytest.raises(ValueError, match="must be a folder"):
        surface(*classifier(), points=3, cache=file)


# -- refusals and JSON ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"directions": "eigenvectors"},
        {"directions": np.ones(4)},
        {"directions": np.ones((3, 3))},
        {"directions": np.zeros(3)},
        {"directions": np.full(3, np.inf)},
        {"dimensions": 3},
        {"dimensions": 2.0},
        {"extent": -1},
        {"extent": (1, 0)},
        {"extent": ((0, 1),) * 3},
        {"points": 1},
        {"points": (3,)},
        {"seed": -1},
        {"verbose": 2},
    ],
    ids=str,
)
def test_arguments_out_of_range(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must "):
        surface(*regression(), **wrong)


def test_a_loss_that_is_not_finite_names_its_place():
    with pytest.raises(FloatingPointError, match="extent"):
        surface(*regression(), extent=1e30, points=3)


def test_json_round_trip():
    result = surface(*classifier(), points=3)
    back = SurfaceResult.from_json(result.to_json())
    np.testing.assert_array_equal(back.loss, result.loss)
    np.testing.assert_array_equal(back.y, result.y)
    assert back.path is None and back.seed == 0
    assert "3 x 3 points, random directions" in repr(result)
