"""SAM and ASAM against steps taken by hand in numpy."""

import keras
import numpy as np
import pytest

from keras_sharp.training import ASAM, SAM, Trainer

RATE = 0.1
RHO = 0.3


def draw(*shape):
    return np.random.default_rng(sum(shape)).uniform(0.5, 2, shape).astype("float32")


X, Y = draw(10, 3), draw(10, 1)


@pytest.fixture
def fit(replicas):
    """Trains a linear model with a bias on ten examples; returns its weights after each epoch."""

    def run(gradient, n=1, epochs=1, optimizer=None, dtype="float32", **options):
        keras.utils.set_random_seed(1)
        with (strategy := replicas(n)).scope():
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, dtype=dtype)])
            model.layers[0].bias.assign([0.5])
            optimizer = optimizer() if optimizer else keras.optimizers.SGD(RATE)
        trainer = Trainer(model, optimizer, "mse", gradient=gradient, strategy=strategy, **options)
        path = [flat(model)]
        keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda e, logs: path.append(flat(model)))
        data = {"batch_size": 10, "shuffle": False, "verbose": 0, "callbacks": [keep]}
        trainer.fit((X, Y), epochs=epochs, **data)
        return np.array(path)

    return run


def flat(model):
    return np.concatenate([v.numpy().ravel() for v in model.trainable_variables])


def slope(w, x=X, y=Y):
    """Gradient of the mean squared error of `x w[:3] + w[3]`."""
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    return 2 * x.T @ (x @ w - y[:, 0]) / len(x)


def by_hand(w, unit=np.ones_like, x=X, y=Y):
    """The gradient at the perturbed weights."""
    g, t = slope(w, x, y), unit(w)
    return slope(w + RHO * t**2 * g / np.linalg.norm(t * g), x, y)


def kernel_units(w):
    """ASAM's units with eta 0.01: sizes for the kernel, and 1 for the bias."""
    return np.append(np.abs(w[:3]) + 0.01, 1)


RULES = [(SAM(RHO), np.ones_like), (ASAM(RHO, 0.01), kernel_units)]


@pytest.mark.parametrize(("n", "micro_batch"), [(1, None), (1, 3), (4, None), (4, 1)])
@pytest.mark.parametrize(("rule", "unit"), RULES, ids=["sam", "asam"])
def test_two_steps_by_hand(fit, rule, unit, n, micro_batch):
    before, first, second = fit(rule, n, epochs=2, micro_batch=micro_batch)
    np.testing.assert_allclose(first, before - RATE * by_hand(before, unit), rtol=1e-5)
    np.testing.assert_allclose(second, first - RATE * by_hand(first, unit), rtol=1e-5)


@pytest.mark.parametrize(("n", "micro_batch"), [(2, None), (1, 5), (1, 3), (2, 3)])
def test_each_part_has_its_own_perturbation(fit, n, micro_batch):
    before, after = fit(SAM(RHO, per="part"), n, micro_batch=micro_batch)
    edges = [0, 5, 10] if micro_batch in (None, 5) else [0, 2, 5, 7, 10]
    parts = [slice(*edge) for edge in zip(edges, edges[1:], strict=False)]
    expected = sum(by_hand(before, x=X[p], y=Y[p]) * len(X[p]) / 10 for p in parts)
    np.testing.assert_allclose(after, before - RATE * expected, rtol=1e-5)
    assert abs(expected - by_hand(before)).max() > 0.01


def test_replicas_without_examples_do_no_harm(replicas):
    with (strategy := replicas(4)).scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    before = flat(model).astype("float64")
    trainer = Trainer(model, "sgd", "mse", gradient=SAM(RHO, per="part"), strategy=strategy)
    trainer.fit((X[:2], Y[:2]), batch_size=2, epochs=1, verbose=0)
    expected = (by_hand(before, x=X[:1], y=Y[:1]) + by_hand(before, x=X[1:2], y=Y[1:2])) / 2
    np.testing.assert_allclose(flat(model), before - 0.01 * expected, rtol=1e-5)


@pytest.mark.parametrize("per", ["batch", "part"])
@pytest.mark.parametrize("kind", [SAM, ASAM])
def test_radius_zero_is_plain_training(fit, kind, per):
    for n in (1, 2):
        options = {"n": n, "epochs": 3, "jit_compile": False}
        np.testing.assert_array_equal(fit(kind(0.0, per=per), **options), fit(None, **options))


@pytest.mark.parametrize("per", ["batch", "part"])
@pytest.mark.parametrize(("n", "micro_batch"), [(1, None), (2, 3)])
def test_every_third_step_looks_ahead(fit, per, n, micro_batch):
    path = fit(SAM(RHO, per=per, every=3), n, epochs=5, micro_batch=micro_batch)
    for number, (before, after) in enumerate(zip(path, path[1:], strict=False)):
        plain = before - RATE * slope(before)
        if number % 3:
            np.testing.assert_allclose(after, plain, rtol=1e-5)
        else:
            assert abs(after - plain).max() > 1e-3
            if per == "batch":
                np.testing.assert_allclose(after, before - RATE * by_hand(before), rtol=1e-5)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("per", ["batch", "part"])
@pytest.mark.parametrize(("n", "micro_batch"), [(1, None), (2, 8)])
def test_moving_statistics_metrics_and_loss_are_those_of_a_plain_step(
    net, loss, blobs, replicas, per, every, n, micro_batch
):
    def run(gradient):
        strategy = replicas(n)
        model = net(strategy, "synchronized", dropout=0.5)
        options = {"gradient": gradient, "micro_batch": micro_batch, "jit_compile": False}
        trainer = Trainer(model, "sgd", loss, metrics=["accuracy"], strategy=strategy, **options)
        data = tuple(a[:30] for a in blobs)
        logs = trainer.fit(data, batch_size=30, epochs=1, verbose=0)
        return [v.numpy() for v in model.non_trainable_variables], logs.history, flat(model)

    states, logs, weights = run(SAM(RHO, per=per, every=every))
    plain_states, plain_logs, plain_weights = run(None)
    for a, b in zip(states, plain_states, strict=True):
        np.testing.assert_array_equal(a, b)
    assert logs == plain_logs
    assert abs(weights - plain_weights).max() > 1e-4


def test_no_perturbation_is_left(fit):
    for rule in (SAM(RHO), SAM(RHO, per="part"), ASAM(RHO), SAM(RHO, every=2)):
        for n, micro_batch in ((1, None), (2, 3)):
            still = lambda: keras.optimizers.SGD(0.0)  # noqa: E731
            before, after = fit(rule, n, optimizer=still, micro_batch=micro_batch)
            np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_asam_does_not_see_that_layers_were_rescaled_and_sam_does(scale):
    def gradients(rule, factors):
        keras.utils.set_random_seed(2)
        hidden = keras.layers.Dense(8, activation="relu", use_bias=False)
        model = keras.Sequential([keras.Input((3,)), hidden, keras.layers.Dense(1, use_bias=False)])
        for v, factor in zip(model.trainable_variables, factors, strict=True):
            v.assign(factor * v)
        before = [v.numpy() for v in model.trainable_variables]
        trainer = Trainer(model, keras.optimizers.SGD(1e-2), "mse", gradient=rule)
        trainer.fit((X, Y), batch_size=10, epochs=1, verbose=0)
        after = [v.numpy() for v in model.trainable_variables]
        # In the weights before they were rescaled.
        return np.concatenate(
            [(f * (b - a)).ravel() for f, a, b in zip(factors, after, before, strict=True)]
        )

    def change(rule):
        original = gradients(rule, (1, 1))
        difference = gradients(rule, (scale, 1 / scale)) - original
        return np.linalg.norm(difference) / np.linalg.norm(original)

    assert change(ASAM(RHO, eta=0.0)) < 1e-3
    assert change(SAM(RHO)) > 0.1


def test_loss_scaling_changes_nothing(fit):
    def scaled():
        inner = keras.optimizers.SGD(RATE)
        return keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**10)

    expected = fit(SAM(RHO, every=2), epochs=3)
    np.testing.assert_allclose(
        fit(SAM(RHO, every=2), epochs=3, optimizer=scaled), expected, rtol=1e-6
    )


@pytest.mark.parametrize("rule", [SAM(RHO, per="part"), ASAM(RHO, 0.01)], ids=["sam", "asam"])
def test_half_precision(fit, rule):
    def scaled():
        inner = keras.optimizers.SGD(RATE)
        made.append(keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**24))
        return made[0]

    made = []
    expected = fit(rule, epochs=3)
    found = fit(rule, epochs=20, dtype="mixed_float16", optimizer=scaled)
    steps, scale = int(made[0].iterations.numpy()), float(made[0].dynamic_scale.numpy())
    # Steps are left out, and the scale halved, until gradients fit into the type.
    assert 3 <= steps < 20 and scale == 2.0 ** (24 - (20 - steps))
    left_out = found[1 : 21 - steps]
    np.testing.assert_array_equal(left_out, np.broadcast_to(found[0], left_out.shape))
    np.testing.assert_allclose(found[20 - steps :][:4], expected, atol=1e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rho": -0.1}, "`rho` must be at least 0"),
        ({"rho": float("nan")}, "`rho` must be at least 0"),
        ({"per": "replica"}, r"`per` must be one of \['batch', 'part'\]"),
        ({"every": 0}, "`every` must be an integer of at least 1"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SAM(**arguments)


def test_a_stopped_training_goes_on_with_the_same_bits(net, loss, blobs, tmp_path):
    def run(epochs, checkpoint):
        trainer = Trainer(net(batch_norm="plain"), "sgd", loss, gradient=SAM(RHO, every=3))
        options = {"batch_size": 32, "checkpoint": checkpoint, "verbose": 0}
        trainer.fit(blobs, epochs=epochs, **options)
        return flat(trainer.model)

    path = tmp_path / "training.npz"
    run(2, path)  # ten steps: the next to look ahead is the twelfth
    np.testing.assert_array_equal(run(4, path), run(4, None))
