"""The first step, against the same step taken by hand in numpy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp.training import AllReduce, Trainer

RATE = 0.1
L2 = 0.05
# Replicas and micro-batch: how the same ten examples are split.
SPLITS = [(1, None), (1, 3), (4, None), (4, 1)]


@pytest.fixture
def linear(replicas):
    """Makes a model with one weight vector for each output, and no bias."""

    def make(n, *names, **options):
        with (strategy := replicas(n)).scope():
            inputs = keras.Input((3,))
            outputs = [keras.layers.Dense(1, use_bias=False, name=o, **options) for o in names]
            return keras.Model(inputs, [o(inputs) for o in outputs]), strategy

    return make


def draw(*shape):
    return np.random.default_rng(sum(shape)).uniform(0.5, 2, shape).astype("float32")


def first_step(trainer, data, **options):
    """The weights before and after the one step of an epoch."""
    before = [v.numpy() for v in trainer.model.trainable_variables]
    size = len(keras.tree.flatten(data)[0])
    trainer.fit(data, batch_size=size, epochs=1, verbose=0, **options)
    return before, [v.numpy() for v in trainer.model.trainable_variables]


def squared_error(x, y, w, weights, reduction):
    """Loss and gradient of `reduction(weights * (x w - y)^2)`."""
    divisor = {
        "sum": 1,
        "sum_over_batch_size": len(x),
        "mean_with_sample_weight": weights.sum(),
    }[reduction]
    error = x @ w - y
    return (weights * error[:, 0] ** 2).sum() / divisor, x.T @ (
        2 * weights[:, None] * error
    ) / divisor


@pytest.mark.parametrize(("n", "micro_batch"), SPLITS)
def test_three_reductions_sample_weights_and_a_penalty(linear, n, micro_batch):
    reductions = {"a": "sum", "b": "sum_over_batch_size", "c": "mean_with_sample_weight"}
    model, strategy = linear(n, *reductions, kernel_regularizer=keras.regularizers.L2(L2))
    x, y, weights = draw(10, 3), draw(10, 1), draw(10)
    losses = {o: keras.losses.MeanSquaredError(reduction=r) for o, r in reductions.items()}
    with strategy.scope():
        optimizer = keras.optimizers.SGD(RATE)
    trainer = Trainer(model, optimizer, losses, micro_batch=micro_batch)
    before, after = first_step(trainer, (x, dict.fromkeys(reductions, y), weights))
    total = 0.0
    for w, new, reduction in zip(before, after, reductions.values(), strict=True):
        value, gradient = squared_error(x, y, w, weights, reduction)
        total += value + L2 * (w**2).sum()
        np.testing.assert_allclose(new, w - RATE * (gradient + 2 * L2 * w), rtol=2e-5)
    np.testing.assert_allclose(trainer.batch_losses, [total], rtol=1e-5)


@pytest.mark.parametrize(("n", "micro_batch"), SPLITS)
def test_losses_of_outputs_are_logged_by_name(linear, n, micro_batch):
    model, _ = linear(n, "a", "b")
    x, y = draw(10, 3), draw(10, 1)
    trainer = Trainer(model, "sgd", ["mse", "mae"], micro_batch=micro_batch)
    logs = trainer.evaluate((x, [y, y]), batch_size=4)
    a, b = (x @ v.numpy() - y for v in model.trainable_variables)
    assert logs == pytest.approx(
        {
            "loss": (a**2).mean() + abs(b).mean(),
            "a_loss": (a**2).mean(),
            "b_loss": abs(b).mean(),
        },
        rel=1e-5,
    )
    history = trainer.fit((x, [y, y]), batch_size=10, epochs=1, verbose=0).history
    assert {k: v[0] for k, v in history.items()} == pytest.approx(logs, rel=1e-5)


@pytest.mark.parametrize(("n", "micro_batch"), SPLITS[1:])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight"])
def test_masked_tokens_count_the_same_however_the_batch_is_split(
    replicas, reduction, n, micro_batch
):
    tokens = np.random.default_rng(0).integers(0, 3, (6, 4))  # 0 is masked
    y, weights = draw(6, 4, 1), draw(6, 4)

    def trained(n, micro_batch):
        keras.utils.set_random_seed(0)
        with (strategy := replicas(n)).scope():
            layers = [keras.layers.Embedding(3, 2, mask_zero=True), keras.layers.Dense(1)]
            model = keras.Sequential([keras.Input((4,)), *layers])
            optimizer = keras.optimizers.SGD(RATE)
        loss = keras.losses.MeanSquaredError(reduction=reduction)
        trainer = Trainer(
            model, optimizer, loss, strategy=strategy, micro_batch=micro_batch, jit_compile="auto"
        )
        _, after = first_step(trainer, (tokens, y, weights), shuffle=False)
        return after, trainer.batch_losses

    (whole, loss), (parts, split_loss) = trained(1, None), trained(n, micro_batch)
    np.testing.assert_allclose(split_loss, loss, rtol=1e-5)
    for a, b in zip(parts, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize(("n", "micro_batch"), SPLITS)
def test_ignored_labels_count_the_same_however_the_batch_is_split(replicas, n, micro_batch):
    with (strategy := replicas(n)).scope():
        layer = keras.layers.Dense(3, use_bias=False, kernel_initializer="zeros")
        model = keras.Sequential([keras.Input((2,)), layer])
        optimizer = keras.optimizers.SGD(RATE)
    x, y = draw(10, 2), np.array([1, 0, 0, 0, 2, 1, 0, 1, 1, 2])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    trainer = Trainer(model, optimizer, loss, strategy=strategy, micro_batch=micro_batch)
    _, [after] = first_step(trainer, (x, y), shuffle=False)
    kept = y != 0
    error = np.full((10, 3), 1 / 3) - np.eye(3)[y]
    np.testing.assert_allclose(after, -RATE * x[kept].T @ error[kept] / kept.sum(), rtol=1e-5)
    np.testing.assert_allclose(trainer.batch_losses, [np.log(3)], rtol=1e-5)


class HalfStepAhead:
    """Evaluates twice: at the weights, and half a gradient further."""

    def __call__(self, step):
        loss, gradient = step.gradient()
        ahead = step.map(
            lambda weights, g: [w - 0.5 * d for w, d in zip(weights, g, strict=True)],
            step.weights,
            gradient,
        )
        return loss, step.gradient(at=ahead)[1]


@pytest.mark.parametrize("jit_compile", [False, "auto"])
@pytest.mark.parametrize(("n", "micro_batch"), SPLITS)
def test_a_rule_evaluates_elsewhere_and_leaves_no_trace(replicas, n, micro_batch, jit_compile):
    with (strategy := replicas(n)).scope():
        norm = keras.layers.BatchNormalization(momentum=0.0, synchronized=True)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False), norm])
        optimizer = keras.optimizers.SGD(RATE)
    x, y = draw(10, 3), draw(10, 1)
    w = model.layers[0].kernel.numpy()
    trainer = Trainer(
        model,
        optimizer,
        "mse",
        metrics=["mse"],
        gradient=HalfStepAhead(),
        strategy=strategy,
        micro_batch=micro_batch,
        jit_compile=jit_compile,
    )
    logs = trainer.fit((x, y), batch_size=10, epochs=1, verbose=0).history
    if micro_batch is None:
        # With momentum 0 the moving mean is that of the first pass, at the weights themselves.
        np.testing.assert_allclose(norm.moving_mean.numpy(), (x @ w).mean(0), rtol=1e-5)
    np.testing.assert_allclose(logs["mse"], logs["loss"], rtol=1e-5)
    assert trainer.model.optimizer.iterations.numpy() == 1


@pytest.mark.parametrize(("n", "micro_batch"), SPLITS)
def test_a_rule_of_two_passes_by_hand(linear, n, micro_batch):
    model, strategy = linear(n, "a")
    x, y = draw(10, 3), draw(10, 1)
    with strategy.scope():
        optimizer = keras.optimizers.SGD(RATE)
    trainer = Trainer(model, optimizer, "mse", gradient=HalfStepAhead(), micro_batch=micro_batch)
    [w], [after] = first_step(trainer, (x, y))
    ones = np.ones(10)
    loss, gradient = squared_error(x, y, w, ones, "sum_over_batch_size")
    _, ahead = squared_error(x, y, w - 0.5 * gradient, ones, "sum_over_batch_size")
    np.testing.assert_allclose(after, w - RATE * ahead, rtol=1e-5)
    np.testing.assert_allclose(trainer.batch_losses, [loss], rtol=1e-5)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda step: None, "returned NoneType without a call"),
        (lambda step: (tf.zeros(()), step.weights), "returned tuple without a call"),
        (lambda step: step.gradient()[0], "after a call"),
    ],
)
def test_a_rule_that_does_not_do_its_work(linear, rule, message):
    model, _ = linear(1, "a")
    trainer = Trainer(model, "sgd", "mse", gradient=rule)
    with pytest.raises(ValueError, match=f"must call `step.gradient.*{message}"):
        first_step(trainer, (draw(4, 3), draw(4, 1)))


class ShardGradients:
    """Notes every replica's own gradient before the exchange."""

    def __init__(self, strategy, shape):
        with strategy.scope():
            self.seen = tf.Variable(
                tf.zeros(shape),
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.NONE,
                trainable=False,
            )

    def __call__(self, gradients, share):
        self.seen.assign(gradients[0] / share)
        return AllReduce()(gradients, share)


@pytest.mark.parametrize("micro_batch", [None, 1])
def test_a_communication_sees_the_gradient_of_its_own_examples(linear, micro_batch):
    model, strategy = linear(2, "a")
    x, y = draw(7, 3), draw(7, 1)
    communication = ShardGradients(strategy, (3, 1))
    trainer = Trainer(model, "sgd", "mse", communication=communication, micro_batch=micro_batch)
    [w], _ = first_step(trainer, (x, y), shuffle=False)
    seen = [v.numpy() for v in strategy.experimental_local_results(communication.seen)]
    for gradient, part in zip(seen, [slice(0, 3), slice(3, 7)], strict=True):
        ones = np.ones(len(x[part]))
        _, own = squared_error(x[part], y[part], w, ones, "sum_over_batch_size")
        np.testing.assert_allclose(gradient, own, rtol=1e-5)


def test_a_weight_without_gradient_is_left_alone_as_in_fit():
    class Idle(keras.layers.Layer):
        def build(self, shape):
            self.idle = self.add_weight(shape=(2,), initializer="ones")

        def call(self, x):
            return x

    model = keras.Sequential([keras.Input((3,)), Idle(), keras.layers.Dense(1)])
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    trainer = Trainer(model, optimizer, "mse")
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        before, after = first_step(trainer, (draw(4, 3), draw(4, 1)))
    np.testing.assert_array_equal(after[0], before[0])
    assert abs(after[1] - before[1]).min() > 0


def test_a_schedule_is_followed_and_batch_losses_are_those_before_each_step():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.1, 0.01])
    trainer = Trainer(model, keras.optimizers.SGD(schedule), "mse")
    x, y = draw(8, 3), draw(8, 1)
    w, losses = model.layers[0].kernel.numpy(), []
    trainer.fit((x, y), batch_size=4, epochs=1, shuffle=False, verbose=0)
    for rate, part in ((0.1, slice(4)), (0.01, slice(4, 8))):
        loss, gradient = squared_error(x[part], y[part], w, np.ones(4), "sum_over_batch_size")
        losses.append(loss)
        w = w - rate * gradient
    np.testing.assert_allclose(trainer.batch_losses, losses, rtol=1e-5)
    np.testing.assert_allclose(model.layers[0].kernel.numpy(), w, rtol=1e-5)
