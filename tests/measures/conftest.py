"""Models whose curvature is known, and dense Hessians of those whose is not."""

import keras
import numpy as np
import pytest

from keras_sharp import Objective

L = keras.layers


def finite_differences(objective: Objective, h: float = 1e-5) -> np.ndarray:
    """`(n, n)`: central differences of the gradient."""
    w = objective.weights
    columns = [
        (
            objective.value_and_gradient(w + h * unit)[1]
            - objective.value_and_gradient(w - h * unit)[1]
        )
        / (2 * h)
        for unit in np.eye(w.size)
    ]
    return np.stack(columns, axis=1)


def linear_regression(rows: int = 30, columns: int = 12):
    """A linear model off its minimum, its data, and its Hessian `2/N X^T X`."""
    random = np.random.default_rng(4)
    x = random.normal(size=(rows, columns)) * np.geomspace(0.3, 3, columns)
    model = keras.Sequential([keras.Input((columns,)), L.Dense(1, use_bias=False, name="only")])
    model.layers[0].kernel.assign(random.normal(size=(columns, 1)))
    model.compile(loss="mse")
    return model, (x, random.normal(size=(rows, 1))), 2 / rows * x.T @ x


def softmax_regression(rows: int = 50, columns: int = 12, classes: int = 4):
    """A softmax model, its data, and its Hessian `mean of x x^T (diag(p) - p p^T)`."""
    random = np.random.default_rng(5)
    x, y = random.normal(size=(rows, columns)), random.integers(0, classes, rows)
    model = keras.Sequential([keras.Input((columns,)), L.Dense(classes, use_bias=False)])
    kernel = random.normal(size=(columns, classes))
    model.layers[0].kernel.assign(kernel)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    p = np.exp(x @ kernel)
    p /= p.sum(axis=1, keepdims=True)
    middle = np.einsum("nc,ce->nce", p, np.eye(classes)) - np.einsum("nc,ne->nce", p, p)
    hessian = np.einsum("ni,nj,nce->icje", x, x, middle) / rows
    return model, (x, y), hessian.reshape(columns * classes, -1)


def relu_net(*, biases: bool = True):
    """A trained-looking ReLU net of 5-6-3 and its data."""
    keras.utils.set_random_seed(7)
    random = np.random.default_rng(7)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            L.Dense(6, activation="relu", use_bias=biases, name="first"),
            L.Dense(3, use_bias=biases, name="second"),
        ]
    )
    model.set_weights([random.normal(size=variable.shape) for variable in model.weights])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model, (random.normal(size=(40, 5)), random.integers(0, 3, 40))


@pytest.fixture
def known(float64):
    """Models in float64 with data and closed-form Hessians, by name."""
    return {"linear": linear_regression(), "softmax": softmax_regression()}


@pytest.fixture
def relu(float64):
    """A ReLU net in float64 and its data."""
    return relu_net()


@pytest.fixture
def dense():
    """Returns the dense Hessian of an objective by finite differences."""
    return finite_differences
