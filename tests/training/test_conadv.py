"""ConAdv and DisAdv: old weights in the attack, and separate normalisation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp.layers import SplitBatchNormalization
from keras_sharp.training import DSGD, FGSM, PGD, ConAdv, DisAdv, LocalSGD, Trainer, topology

RATE = 0.1
BRANCHES = "main", "adversarial"
# Replicas and micro-batch.
SPLITS = [(1, None), (1, 3), (4, None), (2, 3)]


def draw(*shape):
    return np.random.default_rng(sum(shape)).uniform(0.5, 2, shape).astype("float32")


X, Y = draw(10, 3), draw(10, 1)


@pytest.fixture
def fit(replicas):
    """Trains a linear model on ten examples; returns its weights after each epoch."""

    def run(gradient, n=1, epochs=1, **options):
        keras.utils.set_random_seed(1)
        with (strategy := replicas(n)).scope():
            layer = keras.layers.Dense(1, use_bias=False)
            model = keras.Sequential([keras.Input((3,)), layer])
            optimizer = keras.optimizers.SGD(RATE)
        trainer = Trainer(model, optimizer, "mse", gradient=gradient, strategy=strategy, **options)
        path = [layer.kernel.numpy()]
        keep = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda e, logs: path.append(layer.kernel.numpy())
        )
        settings = {"shuffle": False, "verbose": 0, "callbacks": [keep]}
        trainer.fit((X, Y), batch_size=10, epochs=epochs, **settings)
        return np.array(path, "float64")

    return run


class Recorder(keras.layers.Layer):
    """Keeps the first examples each branch sees in training, where moving statistics would be."""

    def __init__(self, examples, **options):
        super().__init__(**options)
        self.examples, self.branch = examples, "main"

    def build(self, shape):
        shape = (self.examples, *shape[1:])
        options = {"shape": shape, "initializer": "zeros", "trainable": False}
        self.seen = {branch: self.add_weight(name=branch, **options) for branch in BRANCHES}

    def call(self, x, training=False):
        if training:
            self.seen[self.branch].assign(x[: self.examples])
        return x


def slope(w, x):
    """Gradient of the mean squared error in the weights."""
    return 2 * x.T @ (x @ w - Y) / len(x)


def attacked(w, epsilon=0.2):
    return X + epsilon * np.sign((X @ w - Y) * w.T)


@pytest.mark.parametrize(("n", "micro_batch"), SPLITS)
@pytest.mark.parametrize("tau", [0, 1, 3])
def test_the_attack_is_made_of_weights_tau_steps_old(fit, tau, n, micro_batch):
    rule = ConAdv(FGSM(0.2), tau)
    path = fit(rule, n, epochs=6, micro_batch=micro_batch)
    for t in range(6):
        x = attacked(path[max(t - tau, 0)])
        expected = path[t] - RATE * (slope(path[t], X) + slope(path[t], x))
        np.testing.assert_allclose(path[t + 1], expected, rtol=1e-4, atol=1e-6)
    # The signs change meanwhile, so that another staleness is another path.
    assert any((attacked(path[t]) != attacked(path[max(t - 1, 0)])).any() for t in range(6))


def test_without_staleness_it_is_the_sequential_reference(fit):
    paths = [fit(rule, epochs=3) for rule in (ConAdv(FGSM(0.2), tau=0), DisAdv(FGSM(0.2)))]
    np.testing.assert_array_equal(*paths)


def split_net(strategy=None, synchronized=False, dropout=0.0):
    keras.utils.set_random_seed(0)
    with (strategy or tf.distribute.get_strategy()).scope():
        norm = keras.layers.BatchNormalization(momentum=0.9, epsilon=0.1, synchronized=synchronized)
        layers = [keras.layers.Dense(8), SplitBatchNormalization(norm)]
        layers += [keras.layers.Activation("tanh"), keras.layers.Dropout(dropout, seed=1)]
        return keras.Sequential([keras.Input((10,)), *layers, keras.layers.Dense(3)])


def statistics(layer):
    return [v.numpy() for v in layer.non_trainable_variables]


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0, 2])
def test_replicas_take_the_same_steps(replicas, blobs, loss, weights, tau):
    def run(n):
        model = split_net(strategy := replicas(n), synchronized=True)
        with strategy.scope():
            optimizer = keras.optimizers.SGD(RATE, momentum=0.9)
        rule = ConAdv(PGD(0.3, 2, norm="l2"), tau)
        trainer = Trainer(model, optimizer, loss, gradient=rule, strategy=strategy)
        trainer.fit(blobs, batch_size=32, epochs=3, verbose=0)
        return weights(model)

    one, many = run(1), run(4)
    assert np.linalg.norm(many - one) < 1e-5 * np.linalg.norm(one)


# In plain training the adversarial branch has no gradients, and Keras says so.
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("micro_batch", [None, 16])
@pytest.mark.parametrize("n", [1, 2])
def test_clean_statistics_do_not_see_attacked_examples(replicas, blobs, loss, n, micro_batch):
    def run(rule):
        model = split_net(strategy := replicas(n), synchronized=True, dropout=0.5)
        with strategy.scope():
            optimizer = keras.optimizers.SGD(0.0)
        trainer = Trainer(
            model, optimizer, loss, gradient=rule, micro_batch=micro_batch, jit_compile=False
        )
        trainer.fit(blobs, batch_size=65, epochs=1, verbose=0)
        norm = model.layers[1]
        assert norm.branch == "main"
        prediction = model(blobs[0], training=False).numpy()
        return statistics(norm.main), statistics(norm.adversarial), prediction

    plain_main, plain_other, plain_prediction = run(None)
    main, other, prediction = run(ConAdv(FGSM(5.0)))
    for a, b in zip(main, plain_main, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(other, plain_other, strict=True):
        assert abs(a - b).max() > 1e-3
    np.testing.assert_array_equal(plain_other[0], 0)
    np.testing.assert_array_equal(prediction, plain_prediction)


@pytest.mark.parametrize(("n", "micro_batch"), [(1, None), (2, 3)])
def test_both_branches_are_trained(replicas, blobs, loss, n, micro_batch):
    def run(rule):
        model = split_net(replicas(n))
        trainer = Trainer(model, "sgd", loss, gradient=rule, micro_batch=micro_batch)
        before = [[v.numpy() for v in getattr(model.layers[1], b).weights] for b in BRANCHES]
        trainer.fit(tuple(a[:12] for a in blobs), batch_size=12, epochs=1, verbose=0)
        after = [[v.numpy() for v in getattr(model.layers[1], b).weights] for b in BRANCHES]
        return [
            max(abs(a - b).max() for a, b in zip(*each, strict=True))
            for each in zip(before, after, strict=True)
        ]

    assert min(run(DisAdv(FGSM(0.3)))) > 1e-4
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        main, other = run(None)
    assert main > 1e-4
    assert other == 0


def test_adversarial_weight_zero_is_plain_training(blobs, loss):
    def run(rule):
        model = split_net(dropout=0.5)
        trainer = Trainer(model, "sgd", loss, gradient=rule, jit_compile=False)
        trainer.fit(blobs, batch_size=65, epochs=2, verbose=0)
        kept = [model.layers[0], model.layers[1].main, model.layers[-1]]
        return [v.numpy() for layer in kept for v in layer.weights]

    rule = ConAdv(PGD(0.5, random_start=True), adversarial_weight=0.0)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        plain = run(None)
    for a, b in zip(run(rule), plain, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("tau", [1, 2])
def test_later_rates_do_not_change_an_attack(tau):
    """The examples attacked for the fourth step know the weights of step 3 - tau."""

    def run(*rates):
        keras.utils.set_random_seed(3)
        recorder = Recorder(10)
        layers = [recorder, keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((3,)), *layers])
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1, 2], list(rates))
        rule = ConAdv(PGD(0.3, norm="l2"), tau)
        trainer = Trainer(
            model, keras.optimizers.SGD(schedule), "mse", gradient=rule, jit_compile=False
        )
        trainer.fit((X, Y), batch_size=10, epochs=4, shuffle=False, verbose=0)
        np.testing.assert_array_equal(recorder.seen["main"].numpy(), X)
        return recorder.seen["adversarial"].numpy()

    seen = run(0.1, 0.1, 0.1, 0.1)
    assert np.linalg.norm(seen - X, axis=1).max() < 0.3 + 1e-6
    for step in range(4):
        rates = [0.1] * 4
        rates[step] = 0.05
        same = np.array_equal(run(*rates), seen)
        assert same == (step >= 3 - tau)


def test_the_attack_sees_the_statistics_of_its_time(blobs, loss):
    """With weights that stand still only the moving statistics are stale."""

    def run(tau):
        keras.utils.set_random_seed(3)
        norm = SplitBatchNormalization(keras.layers.BatchNormalization(momentum=0.5))
        recorder = Recorder(8)
        layers = [recorder, keras.layers.Dense(8), norm, keras.layers.Activation("tanh")]
        model = keras.Sequential([keras.Input((10,)), *layers, keras.layers.Dense(3)])
        rule = ConAdv(PGD(0.3, norm="l2"), tau)
        optimizer = keras.optimizers.SGD(0.0)
        trainer = Trainer(model, optimizer, loss, gradient=rule, jit_compile=False)
        seen = []
        keep = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda e, logs: seen.append(recorder.seen["adversarial"].numpy())
        )
        data = tuple(a[:8] for a in blobs)
        options = {"shuffle": False, "verbose": 0, "callbacks": [keep]}
        trainer.fit(data, batch_size=8, epochs=4, **options)
        return seen

    stale, fresh = run(1), run(0)
    np.testing.assert_array_equal(stale[0], fresh[0])
    np.testing.assert_array_equal(stale[1], stale[0])
    assert abs(fresh[1] - fresh[0]).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("n", "micro_batch"), [(1, None), (2, 10)])
def test_a_stopped_training_goes_on_with_the_same_bits(
    replicas, blobs, loss, weights, tmp_path, n, micro_batch
):
    def run(epochs, checkpoint):
        model = split_net(strategy := replicas(n), dropout=0.5)
        with strategy.scope():
            optimizer = keras.optimizers.SGD(RATE, momentum=0.9)
        rule = ConAdv(PGD(0.5, random_start=True), tau=3)
        trainer = Trainer(model, optimizer, loss, gradient=rule, micro_batch=micro_batch)
        trainer.fit(blobs, batch_size=65, epochs=epochs, checkpoint=checkpoint, verbose=0)
        return weights(model)

    path = tmp_path / "training.npz"
    run(1, path)  # two steps: one of the three old weights is still the first
    run(2, path)
    found, expected = run(4, path), run(4, None)
    if n == 1:
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_another_staleness_is_another_training(blobs, loss, tmp_path):
    def run(tau):
        trainer = Trainer(split_net(), "sgd", loss, gradient=ConAdv(FGSM(0.5), tau))
        checkpoint = tmp_path / "training.npz"
        trainer.fit(blobs, batch_size=130, epochs=1, checkpoint=checkpoint, verbose=0)

    run(1)
    with pytest.raises(ValueError, match="gradient.tau=1. Received: gradient.tau=2"):
        run(2)


def test_layers_that_mean_something_else_by_branch_are_left_alone():
    class Trunk(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.branch = keras.layers.Dense(1, use_bias=False)

        def call(self, x):
            return self.branch(x)

    model = keras.Sequential([keras.Input((3,)), Trunk()])
    Trainer(model, "sgd", "mse", gradient=DisAdv(FGSM(0.1))).fit(
        (X, Y), batch_size=10, epochs=1, verbose=0
    )
    assert isinstance(model.layers[0].branch, keras.layers.Dense)


@pytest.mark.parametrize("communication", [LocalSGD(2), DSGD(topology.ring(2))])
def test_old_weights_are_not_kept_where_replicas_differ(replicas, communication):
    with (strategy := replicas(2)).scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        optimizer = keras.optimizers.SGD(RATE)
    trainer = Trainer(
        model,
        optimizer,
        "mse",
        gradient=ConAdv(FGSM(0.1)),
        communication=communication,
        strategy=strategy,
    )
    with pytest.raises(
        ValueError, match=f"`gradient` can't be ConAdv.*{type(communication).__name__}"
    ):
        trainer.fit((X, Y), batch_size=10, verbose=0)


def test_arguments():
    with pytest.raises(ValueError, match="`tau` must be an integer of at least 0"):
        ConAdv(FGSM(0.1), tau=-1)
