"""Adversarial training: attacks and steps against numpy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp.training import FGSM, PGD, Adversarial, Trainer

RATE = 0.1
MOMENT = tf.constant([3, 1], tf.int64)


def draw(*shape):
    return np.random.default_rng(sum(shape)).uniform(0.5, 2, shape).astype("float32")


X, Y = draw(10, 3), draw(10, 1)
# Replicas and micro-batch: how the same ten examples are split.
SPLITS = [(1, None), (1, 3), (4, None), (2, 3)]


@pytest.fixture
def fit(replicas):
    """Trains a linear model on ten examples; returns its weights after each epoch."""

    def run(gradient, n=1, epochs=1, dtype="float32", **options):
        keras.utils.set_random_seed(1)
        with (strategy := replicas(n)).scope():
            layer = keras.layers.Dense(1, use_bias=False, dtype=dtype)
            model = keras.Sequential([keras.Input((3,)), layer])
            optimizer = keras.optimizers.SGD(RATE)
            if dtype == "mixed_float16":
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=256.0)
        trainer = Trainer(model, optimizer, "mse", gradient=gradient, strategy=strategy, **options)
        path = [layer.kernel.numpy()]
        keep = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda e, logs: path.append(layer.kernel.numpy())
        )
        settings = {"shuffle": False, "verbose": 0, "callbacks": [keep]}
        trainer.fit((X, Y), batch_size=10, epochs=epochs, **settings)
        return np.array(path, "float64"), trainer

    return run


def slope(w, x):
    """Gradient of the mean squared error in the weights."""
    return 2 * x.T @ (x @ w - Y) / len(x)


def ascent(w, x):
    """That of each example's own error in its inputs, up to a factor."""
    return (x @ w - Y) * w.T


def expected(w, attack, clean=0.5, adversarial=0.5):
    """A step on clean and attacked examples."""
    return w - RATE * (clean * slope(w, X) + adversarial * slope(w, attack(w)))


def sign_step(w, epsilon=0.2):
    return X + epsilon * np.sign(ascent(w, X))


@pytest.mark.parametrize(("n", "micro_batch"), SPLITS)
@pytest.mark.parametrize(("clean", "adversarial"), [(0.5, 0.5), (0.0, 1.0), (1.0, 2.0)])
def test_two_steps_by_hand(fit, clean, adversarial, n, micro_batch):
    rule = Adversarial(FGSM(0.2), clean_weight=clean, adversarial_weight=adversarial)
    (before, first, second), trainer = fit(rule, n, epochs=2, micro_batch=micro_batch)
    np.testing.assert_allclose(first, expected(before, sign_step, clean, adversarial), rtol=2e-5)
    np.testing.assert_allclose(second, expected(first, sign_step, clean, adversarial), rtol=2e-5)
    seen = X if clean else sign_step(first)
    np.testing.assert_allclose(trainer.batch_losses, [((seen @ first - Y) ** 2).mean()], rtol=1e-5)


@pytest.mark.parametrize(("n", "micro_batch"), SPLITS)
def test_a_step_with_three_iterations_and_a_range_by_hand(fit, n, micro_batch):
    def attack(w):
        x = X
        for _ in range(3):
            x = np.clip(x + 0.15 * np.sign(ascent(w, x)), 0.5, 1.8)
            x = np.clip(x, X - 0.2, X + 0.2)
        return x

    rule = Adversarial(PGD(0.2, 3, 0.15, clip=(0.5, 1.8)))
    (before, after), _ = fit(rule, n, micro_batch=micro_batch)
    np.testing.assert_allclose(after, expected(before, attack), rtol=2e-5)


def test_a_step_in_the_euclidean_ball_by_hand(fit):
    def attack(w):
        x = X
        for _ in range(2):
            g = ascent(w, x)
            change = x + 0.15 * g / np.linalg.norm(g, axis=1, keepdims=True) - X
            length = np.linalg.norm(change, axis=1, keepdims=True)
            x = X + change * np.minimum(1, 0.2 / length)
        return x

    for n, micro_batch in SPLITS[::3]:
        rule = Adversarial(PGD(0.2, 2, 0.15, norm="l2"))
        (before, after), _ = fit(rule, n, micro_batch=micro_batch)
        np.testing.assert_allclose(after, expected(before, attack), rtol=2e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("random_start", [True, False])
def test_epsilon_zero_is_plain_training(fit, norm, random_start):
    attack = PGD(0.0, 2, norm=norm, random_start=random_start)
    plain, _ = fit(None, epochs=3, jit_compile=False)
    for weights in ((0.5, 0.5), (0.0, 1.0)):
        options = dict(zip(("clean_weight", "adversarial_weight"), weights, strict=True))
        path, _ = fit(Adversarial(attack, **options), epochs=3, jit_compile=False)
        np.testing.assert_array_equal(path, plain)


def test_adversarial_weight_zero_is_plain_training(fit):
    rule = Adversarial(FGSM(0.3), clean_weight=1.0, adversarial_weight=0.0)
    plain, _ = fit(None, epochs=3, jit_compile=False)
    np.testing.assert_array_equal(fit(rule, epochs=3, jit_compile=False)[0], plain)


def test_one_iteration_is_the_fast_gradient_sign_method(fit):
    paths = [fit(Adversarial(attack), jit_compile=False)[0] for attack in (PGD(0.2), FGSM(0.2))]
    np.testing.assert_array_equal(*paths)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("iterations", [1, 5])
@pytest.mark.parametrize("random_start", [True, False])
def test_attacks_stay_within_their_limits(norm, iterations, random_start):
    images = np.random.default_rng(0).uniform(0, 1, (20, 4, 4, 2)).astype("float32")
    attack = PGD(0.1, iterations, 0.08, norm=norm, random_start=random_start, clip=(0, 1))
    moved = attack(lambda x: x - 0.5, tf.constant(images), MOMENT).numpy()
    change = (moved - images).reshape(20, -1)
    sizes = abs(change).max(1) if norm == "linf" else np.linalg.norm(change, axis=1)
    assert sizes.max() <= 0.1 + 1e-6
    assert sizes.max() > 0.05
    assert moved.min() >= 0 and moved.max() <= 1


def test_a_radius_for_each_channel():
    images = np.full((5, 4, 4, 2), 0.5, "float32")
    moved = PGD([0.1, 0.2])(lambda x: x, tf.constant(images), MOMENT).numpy()
    np.testing.assert_allclose(moved - images, np.broadcast_to([0.1, 0.2], images.shape), rtol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_are_uniform_and_drawn_anew(norm):
    def start(moment, **options):
        attack = PGD(2.0, step_size=0.0, norm=norm, random_start=True, **options)
        return attack(lambda x: x, tf.zeros([4000, 2]), tf.constant(moment, tf.int64)).numpy()

    points = start([3, 1])
    if norm == "linf":
        shares = points.ravel() / 4 + 0.5
    else:
        shares = (points**2).sum(1) / 4  # the share of the disc within the radius
        angles = np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi) + 0.5
        np.testing.assert_allclose(np.histogram(angles, 8, (0, 1))[0], 500, atol=100)
    counts = np.histogram(shares, 8, (0, 1))[0]
    np.testing.assert_allclose(counts, shares.size / 8, atol=100)
    np.testing.assert_array_equal(start([3, 1]), points)
    for other in (start([4, 1]), start([3, 2]), start([3, 1], seed=1)):
        assert abs(other - points).max() > 1


def test_slopes_of_tiny_size_still_have_a_direction():
    x = tf.constant([[3e-30, 4e-30], [0.0, 0.0]])
    moved = PGD(1.0, norm="l2")(lambda _: x, tf.zeros([2, 2]), MOMENT)
    np.testing.assert_allclose(moved, [[0.6, 0.8], [0, 0]], rtol=1e-6)


def test_several_inputs_are_attacked_together(replicas):
    inputs = {"a": keras.Input((2,), name="a"), "b": keras.Input((1,), name="b")}
    joined = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False)(joined))
    w = model.trainable_variables[0].numpy().astype("float64")
    rule = Adversarial(FGSM(0.2))
    trainer = Trainer(model, keras.optimizers.SGD(RATE), "mse", gradient=rule)
    data = {"a": X[:, :2], "b": X[:, 2:]}, Y
    trainer.fit(data, batch_size=10, epochs=1, shuffle=False, verbose=0)
    after = model.trainable_variables[0].numpy()
    np.testing.assert_allclose(after, expected(w, sign_step), rtol=2e-5)


def test_mixed_precision(fit):
    rule = Adversarial(FGSM(0.2))
    (_, exact), _ = fit(rule)
    (_, half), _ = fit(rule, dtype="mixed_float16")
    np.testing.assert_allclose(half, exact, atol=5e-3)


@pytest.mark.parametrize("training", [True, False])
def test_attacks_touch_no_state_and_clean_examples_alone_count(net, loss, blobs, training):
    def run(gradient):
        model = net(batch_norm="plain", dropout=0.5)
        trainer = Trainer(
            model, "sgd", loss, metrics=["accuracy"], gradient=gradient, jit_compile=False
        )
        data = tuple(a[:30] for a in blobs)
        logs = trainer.fit(data, batch_size=30, epochs=1, verbose=0).history
        return [v.numpy() for v in model.non_trainable_variables], logs, model.get_weights()[0]

    states, logs, weights = run(Adversarial(FGSM(0.5, training=training)))
    plain_states, plain_logs, plain_weights = run(None)
    for a, b in zip(states, plain_states, strict=True):
        np.testing.assert_array_equal(a, b)
    assert logs == plain_logs
    assert abs(weights - plain_weights).max() > 1e-5


def test_an_attack_in_training_mode_is_another(net, loss, blobs):
    def run(training):
        model = net(batch_norm="plain")
        attack = PGD(0.5, norm="l2", training=training)
        trainer = Trainer(model, "sgd", loss, gradient=Adversarial(attack))
        trainer.fit(blobs, batch_size=130, epochs=1, verbose=0)
        return model.get_weights()[0]

    assert abs(run(True) - run(False)).max() > 1e-6


def test_a_stopped_training_goes_on_with_the_same_bits(net, loss, blobs, tmp_path):
    def run(epochs, checkpoint, seed=0):
        rule = Adversarial(PGD(0.5, random_start=True, seed=seed))
        trainer = Trainer(net(batch_norm="plain"), "sgd", loss, gradient=rule)
        trainer.fit(blobs, batch_size=65, epochs=epochs, checkpoint=checkpoint, verbose=0)
        return trainer.model.get_weights()

    path = tmp_path / "training.npz"
    run(2, path)
    for a, b in zip(run(4, path), run(4, None), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="gradient.attack.seed=0. Received: .*seed=1"):
        run(5, path, seed=1)


def test_tokens_cannot_be_attacked():
    layers = [keras.layers.Embedding(3, 2), keras.layers.Flatten(), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    trainer = Trainer(model, "sgd", "mse", gradient=Adversarial(FGSM(0.1)))
    with pytest.raises(ValueError, match="inputs that are floats to be attacked.* int"):
        trainer.fit((np.ones((6, 4), "int32"), Y[:6]), batch_size=6, epochs=1, verbose=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PGD(-0.1), "`epsilon` must be at least 0"),
        (lambda: PGD([0.1, -0.1]), "`epsilon` must be at least 0"),
        (lambda: PGD([0.1, 0.1], norm="l2"), "`epsilon` must be at least 0"),
        (lambda: PGD(0.1, 0), "`iterations` must be an integer"),
        (lambda: PGD(0.1, norm="l1"), "`norm` must be one of"),
        (lambda: PGD(0.1, clip=(1, 0)), "`clip` must be None or"),
        (lambda: Adversarial(0.1), "`attack` must be an attack"),
        (lambda: Adversarial(PGD(0.1), clean_weight=-1), "`clean_weight` must be at least 0"),
        (
            lambda: Adversarial(PGD(0.1), clean_weight=0, adversarial_weight=0),
            "must not both be 0",
        ),
    ],
)
def test_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
