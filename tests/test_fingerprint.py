"""Equal trainings are described alike in any process, other ones are not."""

import functools

import keras
import numpy as np
import pytest

from keras_sharp.fingerprint import describe, describe_model

LAYERS = keras.layers


def functional(rate=0.5, activation="elu", swapped=False):
    inputs = [keras.Input((4,)), keras.Input((4,))]
    hidden = [LAYERS.Dense(4, activation)(x) for x in inputs]
    # Keras names the layer ELU as the activation.
    hidden[0] = LAYERS.ELU()(keras.ops.exp(hidden[0]))
    joined = LAYERS.Subtract()(hidden[::-1] if swapped else hidden)
    return keras.Model(inputs, LAYERS.Dropout(rate)(joined))


def sequential(rate=0.5, activation="relu", trainable=True):
    dense = LAYERS.Dense(3, activation, trainable=trainable)
    inner = keras.Sequential([keras.Input((4,)), dense, LAYERS.Dropout(rate)])
    function = LAYERS.Lambda(lambda x: x + 1)
    return keras.Sequential([keras.Input((4,)), inner, LAYERS.Reshape((3,)), function])


class Subclassed(keras.Model):
    def __init__(self, rate=0.5, activation="relu", scale=1.0):
        super().__init__()
        self.scale = scale
        self.dense = LAYERS.Dense(3, activation)
        self.dropout = LAYERS.Dropout(rate)

    def call(self, x):
        return self.scale * self.dropout(self.dense(x))


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (functional, [{"rate": 0.4}, {"activation": "relu"}, {"swapped": True}]),
        (sequential, [{"rate": 0.4}, {"activation": "elu"}, {"trainable": False}]),
        (Subclassed, [{"rate": 0.4}, {"activation": "elu"}, {"scale": 2.0}]),
    ],
)
def test_models(make, changes):
    keras.backend.clear_session()  # names begin at their first number again
    described = describe_model(make())
    assert describe_model(make()) == described
    for change in changes:
        assert describe_model(make(**change)) != described


def test_precision_of_a_layer():
    models = [
        keras.Sequential([keras.Input((4,)), LAYERS.Dense(3, dtype=dtype)])
        for dtype in ("float32", "mixed_float16")
    ]
    assert describe_model(models[0]) != describe_model(models[1])


class Rule:
    def __init__(self, radius, passes=0):
        self._radius, self.passes = radius, passes

    def get_state(self):
        return {"passes": self.passes}


class Configured:
    def __init__(self, radius):
        self.inner = [radius]

    def get_config(self):
        return {"name": f"rule_{id(self)}", "radius": self.inner[0]}


class Pinball(keras.losses.Loss):
    def __init__(self, quantile):
        super().__init__()
        self.quantile = quantile


class Steady(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, rate):
        self.rate = rate

    def __call__(self, step):
        return self.rate


def scaled(x):
    def loss(y, y_pred):
        return x * (y - y_pred) ** 2

    return loss


@pytest.mark.parametrize(
    "make",
    [
        Rule,
        Configured,
        Pinball,
        scaled,
        lambda x: keras.optimizers.SGD(x, momentum=0.5),
        lambda x: keras.optimizers.SGD(Steady(x)),
        lambda x: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(Steady(x))),
        lambda x: keras.losses.Huber(delta=x),
        lambda x: {"a": "mse", "b": [keras.losses.Huber(delta=x)]},
        lambda x: functools.partial(scaled, x),
        lambda x: np.array([0.0, x]),
        lambda x: np.float32(x),
    ],
)
def test_settings(make):
    assert describe(make(0.25)) == describe(make(0.25))
    assert describe(make(0.25)) != describe(make(0.75))


def test_state_is_no_setting():
    assert describe(Rule(0.1, passes=3)) == describe(Rule(0.1))


class Deciding(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, rate, decided=None):
        self.rate, self.decided = rate, decided

    def __call__(self, step):
        return self.rate

    def get_config(self):
        return {"rate": self.rate, "decided": self.decided}

    def get_state(self):
        return {"decided": self.decided}


def test_what_a_schedule_has_decided_is_no_setting():
    def make(*arguments):
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(Deciding(*arguments)))

    assert describe(make(0.1, 7)) == describe(make(0.1))
    assert describe(make(0.2)) != describe(make(0.1))


def test_functions():
    assert describe(keras.losses.mean_squared_error) == "mean_squared_error"
    assert describe(test_settings) != describe(test_state_is_no_setting)
