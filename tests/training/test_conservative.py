"""Conservative training against its subproblem solved by hand, and against Keras's Adam."""

import keras
import numpy as np
import pytest

from keras_sharp.training import Conservative, Trainer


def draw(*shape):
    return np.random.default_rng(sum(shape)).uniform(0.5, 2, shape).astype("float32")


X, Y = draw(10, 3), draw(10, 1)


@pytest.fixture
def fit(replicas):
    """Trains a linear model; returns its weights after each epoch of one batch of ten."""

    def run(gradient, n=1, epochs=1, optimizer=None, **options):
        keras.utils.set_random_seed(1)
        with (strategy := replicas(n)).scope():
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
            optimizer = optimizer() if optimizer else keras.optimizers.SGD(1.0)
        trainer = Trainer(model, optimizer, "mse", gradient=gradient, strategy=strategy, **options)
        path = [model.layers[0].kernel.numpy()]
        keep = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda e, logs: path.append(model.layers[0].kernel.numpy())
        )
        trainer.fit((X, Y), batch_size=10, epochs=epochs, verbose=0, callbacks=[keep])
        return np.array(path, "float64"), trainer

    return run


def slope(w):
    return 2 * X.T @ (X @ w - Y) / len(X)


def solved(start, lam, steps, rate):
    """Algorithm 1 of the ADAM paper on `f(x) + lam / 2 |x - start|^2`."""
    x, m, v = start, 0.0, 0.0
    for t in range(1, steps + 1):
        g = slope(x) + lam * (x - start)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return x


@pytest.mark.parametrize(("n", "micro_batch"), [(1, None), (1, 3), (4, None), (2, 3)])
@pytest.mark.parametrize("lam", [1e-3, 5.0])
def test_two_steps_by_hand(fit, lam, n, micro_batch):
    rule = Conservative(lam, steps=3, learning_rate=0.05)
    (before, first, second), trainer = fit(rule, n, epochs=2, micro_batch=micro_batch)
    np.testing.assert_allclose(first, solved(before, lam, 3, 0.05), rtol=1e-5)
    np.testing.assert_allclose(second, solved(first, lam, 3, 0.05), rtol=1e-5)
    np.testing.assert_allclose(trainer.batch_losses, [((X @ first - Y) ** 2).mean()], rtol=1e-5)


def test_the_leash_matters(fit):
    loose, tight = (fit(Conservative(lam, learning_rate=0.05))[0] for lam in (0.0, 100.0))
    assert np.linalg.norm(tight[1] - tight[0]) < 0.9 * np.linalg.norm(loose[1] - loose[0])


def test_many_inner_steps_reach_the_minimum_of_the_subproblem(fit):
    lam = 2.0
    (before, after), _ = fit(Conservative(lam, steps=100, learning_rate=0.1), jit_compile=False)
    curvature = 2 * X.T @ X / len(X)
    minimum = np.linalg.solve(curvature + lam * np.eye(3), 2 * X.T @ Y / len(X) + lam * before)
    np.testing.assert_allclose(after, minimum, rtol=2e-3)


def test_without_a_leash_it_is_three_steps_of_adam(fit):
    path, _ = fit(Conservative(0.0))
    adam, _ = fit(None, epochs=3, optimizer=lambda: keras.optimizers.Adam(1e-3))
    np.testing.assert_allclose(path[-1], adam[-1], rtol=3e-7)


def test_one_inner_step_does_not_feel_the_leash(fit):
    for lam in (0.0, 7.0):
        path, _ = fit(Conservative(lam, steps=1))
        adam, _ = fit(None, optimizer=lambda: keras.optimizers.Adam(1e-3))
        np.testing.assert_allclose(path[-1], adam[-1], rtol=3e-7)


@pytest.mark.parametrize(("n", "micro_batch"), [(1, None), (2, 8)])
def test_moving_statistics_and_metrics_are_those_of_a_plain_step(
    net, loss, blobs, replicas, n, micro_batch
):
    def run(gradient):
        strategy = replicas(n)
        model = net(strategy, "synchronized", dropout=0.5)
        options = {"gradient": gradient, "micro_batch": micro_batch, "jit_compile": False}
        trainer = Trainer(model, "sgd", loss, metrics=["accuracy"], strategy=strategy, **options)
        data = tuple(a[:30] for a in blobs)
        logs = trainer.fit(data, batch_size=30, epochs=1, verbose=0)
        return [v.numpy() for v in model.non_trainable_variables], logs.history

    (states, logs), (plain_states, plain_logs) = run(Conservative()), run(None)
    for a, b in zip(states, plain_states, strict=True):
        np.testing.assert_array_equal(a, b)
    assert logs == plain_logs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lam": -1.0}, "`lam` must be at least 0"),
        ({"steps": 0}, "`steps` must be an integer of at least 1"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Conservative(**arguments)
