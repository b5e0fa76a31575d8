"""What every optimizer must do. A new one joins by a line in CASES."""

import inspect
import math
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp.optimizers import LAMB, LARS, SGDP, SNGM, AdamP, CorrectedSGD
from keras_sharp.training import Trainer


class Case(NamedTuple):
    """An optimizer, arguments that are not its defaults, and its first learning rates."""

    optimizer: type
    arguments: dict[str, Any]
    quadratic: float
    rosenbrock: float
    net: float


CASES = {
    "LARS": Case(LARS, {"trust_coefficient": 0.1, "weight_decay": 1e-4}, 0.5, 0.02, 0.5),
    "LARS momentum": Case(LARS, {"trust_coefficient": 0.1, "rule": "momentum"}, 0.5, 0.2, 0.5),
    "LAMB": Case(LAMB, {"phi": (0, 10), "trust_bounds": (0.01, 100)}, 0.05, 0.02, 0.02),
    "SNGM": Case(SNGM, {"momentum": 0.8, "weight_decay": 1e-4}, 0.3, 0.01, 0.05),
    "AdamP": Case(AdamP, {"wd_ratio": 0.2, "weight_decay": 1e-4}, 0.3, 0.05, 0.01),
    "SGDP": Case(SGDP, {"nesterov": True, "weight_decay": 1e-5}, 0.1, 2e-4, 0.1),
    "CorrectedSGD": Case(CorrectedSGD, {"momentum": 0.9}, 0.1, 2e-4, 0.1),
}
BASE = ["weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "use_ema", "ema_momentum"]
BASE += ["ema_overwrite_frequency", "loss_scale_factor", "gradient_accumulation_steps", "name"]


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    return request.param


def make(case, rate, **more):
    return case.optimizer(rate, **case.arguments, **more)


def descend(case, function, start, rate, steps, dtype="float32", jit_compile=False):
    """Returns the variable after some steps with a learning rate that goes to 0."""
    variable = keras.Variable(start, dtype=dtype, name="kernel")
    optimizer = make(case, keras.optimizers.schedules.PolynomialDecay(rate, steps, 0.0))
    optimizer.build([variable])

    @tf.function(jit_compile=jit_compile)
    def run():
        for _ in tf.range(steps):
            with tf.GradientTape() as tape:
                value = function(tf.convert_to_tensor(variable.value))
            optimizer.apply(tape.gradient(value, [variable.value]), [variable])

    run()
    return variable.numpy().astype("float64")


TARGET = np.array([[1.0, -2.0], [3.0, 0.5]])


def quadratic(w):
    return tf.reduce_sum(tf.constant([[1.0, 4.0], [2.0, 1.0]], w.dtype) * (w - TARGET) ** 2) / 2


def rosenbrock(w):
    x, y = w[0, 0], w[1, 0]
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


@pytest.mark.parametrize(
    ("dtype", "nearest"), [("float16", 2e-2), ("float32", 5e-3), ("float64", 5e-3)]
)
def test_quadratic(case, dtype, nearest):
    start = np.array([[-1.0, 1.0], [0.5, -1.0]])
    end = descend(case, quadratic, start, case.quadratic, 200, dtype)
    assert np.linalg.norm(end - TARGET) < nearest * np.linalg.norm(start - TARGET)


def test_rosenbrock(case):
    end = descend(case, rosenbrock, np.array([[-1.2], [1.0]]), case.rosenbrock, 3000)
    assert float(rosenbrock(end)) < 0.05  # of 24.2


def test_compiled_by_xla_it_is_the_same(case):
    start = np.array([[-1.0, 1.0], [0.5, -1.0]])
    plain, compiled = (
        descend(case, quadratic, start, case.quadratic, 20, jit_compile=jit)
        for jit in (False, True)
    )
    np.testing.assert_allclose(compiled, plain, rtol=1e-5)


def test_arguments_go_through_the_configuration(case):
    options = {"clipvalue": 0.5, "use_ema": True, "ema_momentum": 0.9, "name": "mine"}
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    optimizer = make(case, rate, **options)
    config = optimizer.get_config()
    for name, value in {**case.arguments, **options}.items():
        assert config[name] == value
    names = set(inspect.signature(case.optimizer).parameters) - {"kwargs"}
    assert names <= set(config)
    written = keras.optimizers.serialize(optimizer)
    again = keras.optimizers.deserialize(written)
    assert type(again) is case.optimizer
    assert again.get_config() == config
    assert written["registered_name"] == f"keras_sharp>{case.optimizer.__name__}"


def test_the_signature_ends_as_keras_s(case):
    names = [name for name in inspect.signature(case.optimizer).parameters if name != "kwargs"]
    assert names[0] == "learning_rate"
    assert names[-len(BASE) :] == BASE


def weights(model):
    return np.concatenate([w.ravel() for w in model.get_weights()]).astype("float64")


def train(model, blobs, epochs, first=0):
    model.fit(*blobs, 32, epochs + first, initial_epoch=first, shuffle=False, verbose=0)
    return weights(model)


def test_fit_learns_and_a_saved_model_goes_on_as_if_it_had_not_been(
    case, net, loss, blobs, tmp_path
):
    whole, parts = net(), net()
    for model in (whole, parts):
        model.compile(make(case, case.net), loss)
    before = whole.evaluate(*blobs, verbose=0)
    expected = train(whole, blobs, 6)
    assert whole.evaluate(*blobs, verbose=0) < 0.7 * before
    train(parts, blobs, 3)
    parts.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == parts.optimizer.get_config()
    for ours, theirs in zip(loaded.optimizer.variables, parts.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    np.testing.assert_array_equal(train(loaded, blobs, 3, first=3), expected)


def test_it_accumulates_gradients_and_clips_them(case, net, loss, blobs):
    whole, parts = net(), net()
    whole.compile(make(case, case.net, global_clipnorm=0.1), loss)
    options = {"global_clipnorm": 0.1, "gradient_accumulation_steps": 2}
    parts.compile(make(case, case.net, **options), loss)
    whole.fit(*blobs, 64, shuffle=False, verbose=0)
    np.testing.assert_allclose(train(parts, blobs, 1), weights(whole), rtol=1e-4, atol=1e-6)


# LARS for all that see gradients in `update_step`.
@pytest.mark.parametrize("case", [CASES["LARS"], CASES["SNGM"]], ids=["LARS", "SNGM"])
def test_a_scaled_loss_does_not_change_the_steps(case, net, loss, blobs):
    plain, scaled = net(), net()
    plain.compile(make(case, case.net), loss)
    optimizer = keras.optimizers.LossScaleOptimizer(make(case, case.net), initial_scale=2.0**10)
    scaled.compile(optimizer, loss)
    np.testing.assert_allclose(train(scaled, blobs, 2), train(plain, blobs, 2), rtol=1e-5)
    assert int(optimizer.iterations) == 2 * math.ceil(len(blobs[0]) / 32)


def check_paths(start, one, four):
    assert np.linalg.norm(one - start) > 0.1 * np.linalg.norm(start)
    assert np.linalg.norm(four - one) < 1e-5 * np.linalg.norm(one)


@pytest.mark.slow
def test_replicas_walk_as_one_device(case, net, loss, blobs, replicas):
    ends = [weights(net())]
    for n in (1, 4):
        strategy = replicas(n)
        with strategy.scope():
            model, optimizer = net(), make(case, case.net)
        trainer = Trainer(model, optimizer, loss, jit_compile=False)
        trainer.fit(blobs, batch_size=50, epochs=7, verbose=0)  # an uneven end: 28 examples
        ends.append(weights(model))
    check_paths(*ends)


# LARS for all whose update sees one gradient at a time, which Keras has added up. Keras clips
# before it does that, SNGM after it.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "clip"),
    [(CASES["LARS"], {}), (CASES["SNGM"], {"clipvalue": 0.05})],
    ids=["LARS", "SNGM"],
)
def test_replicas_walk_as_one_device_in_fit(case, clip, net, loss, blobs, replicas):
    ends = [weights(net())]
    for n in (1, 4):
        strategy = replicas(n)
        with strategy.scope():
            model = net()
            model.compile(make(case, case.net, **clip), loss, jit_compile=False)
        ends.append(train(model, blobs, 5))
    check_paths(*ends)
