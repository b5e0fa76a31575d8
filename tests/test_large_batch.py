import math
from unittest.mock import Mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp import large_batch
from keras_sharp.callbacks import SWA
from keras_sharp.layers import (
    GhostBatchNormalization,
    SplitBatchNormalization,
    with_ghost_batch_normalization,
)
from keras_sharp.optimizers import LARS
from keras_sharp.schedules import LEGW
from keras_sharp.training import ASAM, SAM, Conservative, DisAdv, Trainer

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
TRAINING = {"base_batch_size": 10, "learning_rate": 0.1, "examples": 100, "epochs": 10}
LARGE = 50  # five times the base, two steps an epoch
DECAY = keras.optimizers.schedules.PolynomialDecay(0.1, 10)
ROOT = 0.1 * 5**0.5  # the rate times the root of five


def rates(recipe, steps):
    """The learning rates of some steps; a constant one has no schedule."""
    rate = recipe.optimizer._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return [float(rate(step)) for step in steps]
    return [float(rate)] * len(steps)


@pytest.mark.parametrize(
    ("method", "own", "expected"),
    [
        ("plain", {}, [0.1, 0.1, 0.1, 0.1]),
        ("square_root", {}, [ROOT] * 4),
        # 2.5 of 10 epochs are 5 steps: 0.1 + 0.4 i / 5.
        ("linear_warm_up", {}, [0.1, 0.18, 0.34, 0.5]),
        ("sam", {"warmup_epochs": 2}, [0.1, 0.2, 0.4, 0.5]),
        # 0.8 of an epoch of 10 steps are 8 steps: sqrt(5) 0.1 i / 8.
        ("lars_legw", {"warmup_epochs": 0.8}, [0, ROOT / 8, 3 * ROOT / 8, ROOT]),
        ("lamb_legw", {"warmup_epochs": 0.8}, [0, ROOT / 8, 3 * ROOT / 8, ROOT]),
        ("sngm", {}, [ROOT] * 4),
        ("adamp", {}, [ROOT] * 4),
        # Ten of 20 steps from 0.001 to 100.
        ("auto_wu", {}, [1e-3, 1e-3 * 10**0.5, 1e-3 * 10**1.5, 1e-3 * 10**4]),
        ("conservative", {}, [1.0] * 4),
        ("ghost_batch_norm", {}, [ROOT] * 4),
        ("warm_start", {}, [0.1] * 4),
    ],
)  # fmt: skip
def test_the_rates_by_hand(method, own, expected):
    recipe = large_batch.METHODS[method](LARGE, **TRAINING, **own)
    np.testing.assert_allclose(rates(recipe, [0, 1, 3, 8]), expected, rtol=1e-5)
    assert recipe.name == method and recipe.epochs == 10


def test_the_warm_up_of_legw_takes_the_same_steps_at_every_batch_size():
    for batch_size in (5, 10, 20, 50):
        recipe = large_batch.lars_legw(batch_size, **TRAINING, warmup_epochs=0.8)
        peak = 0.1 * math.sqrt(batch_size / 10)
        ramp = [peak * i / 8 for i in range(8)]
        np.testing.assert_allclose(rates(recipe, range(10)), [*ramp, peak, peak], rtol=1e-5)


def test_the_warm_up_of_legw_takes_a_quarter_of_the_training_at_most():
    # 100 times the base batch: 15.6 of 10 epochs, of one step each. A quarter: 2.5.
    training = TRAINING | {"examples": 1000}
    for method in (large_batch.lars_legw, large_batch.lamb_legw):
        peak = 0.1 * math.sqrt(100)
        ramp = [peak * i / 2.5 for i in range(3)]
        np.testing.assert_allclose(rates(method(1000, **training), range(4)), [*ramp, peak], 1e-5)


def test_replicas_step_alone_after_a_whole_number_of_epochs():
    recipe = large_batch.post_local_sgd(LARGE, **TRAINING, share=0.6, every=4)
    assert recipe.communication.get_config() == {"every": 4, "after": 12}  # 6 epochs of 2 steps
    linear = large_batch.linear_warm_up(LARGE, **TRAINING)
    assert rates(recipe, range(20)) == rates(linear, range(20))
    with pytest.raises(ValueError, match=r"`share` must be in \(0, 1\)"):
        large_batch.post_local_sgd(LARGE, **TRAINING, share=1)
    for epochs, share, together in ((1, 0.4, 0), (2, 0.9, 2)):
        with pytest.raises(ValueError, match=f"of epochs={epochs}, {together} together"):
            large_batch.post_local_sgd(LARGE, **TRAINING | {"epochs": epochs}, share=share)


def test_a_schedule_in_epochs_is_scaled_and_keeps_its_milestones():
    decay = keras.optimizers.schedules.PiecewiseConstantDecay([4], [0.1, 0.01])
    recipe = large_batch.square_root(LARGE, **TRAINING | {"learning_rate": decay})
    expected = [0.1 * 5**0.5, 0.1 * 5**0.5, 0.01 * 5**0.5]
    np.testing.assert_allclose(rates(recipe, [0, 8, 9]), expected, rtol=1e-5)


def test_batches_that_grow():
    growing = large_batch.growing_batch(LARGE, **TRAINING)
    # Planned: 0.1, 0.02, 0.004 and 0.0008 at batch 10. Instead 50, the largest, takes the first.
    assert growing.batch_size == {0: 10, 3: 50, 6: 50, 8: 50}
    steps = [29, 30, 35, 36, 39, 40]  # three epochs of 10 steps, then of 2
    np.testing.assert_allclose(rates(growing, steps), [0.1, 0.1, 0.1, 0.02, 0.02, 0.004], rtol=1e-5)
    assert large_batch.warm_start(LARGE, **TRAINING).batch_size == {0: 10, 2: 50}


def test_what_is_added():
    made = {name: method(LARGE, **TRAINING) for name, method in large_batch.METHODS.items()}
    assert isinstance(made["sam"].gradient, SAM) and made["sam"].gradient.rho == 0.05
    assert isinstance(made["asam"].gradient, ASAM) and made["asam"].gradient.eta == 0.01
    for name in ("sam", "asam"):
        rule = large_batch.METHODS[name](LARGE, **TRAINING, per="part", every=3).gradient
        assert (rule.per, rule.every, made[name].gradient.per) == ("part", 3, "batch")
    assert isinstance(made["conservative"].gradient, Conservative)
    assert made["conservative"].gradient.learning_rate == 0.1
    assert made["con_adv"].gradient.tau == 1 and made["con_adv"].gradient.branch == "adversarial"
    assert type(made["dis_adv"].gradient) is DisAdv
    for name in ("adversarial", "dis_adv", "con_adv"):
        assert made[name].gradient.attack.clip is None
        recipe = large_batch.METHODS[name](LARGE, **TRAINING, clip=(0, 1))
        assert recipe.gradient.attack.clip == (0.0, 1.0)
    assert [name for name, each in made.items() if each.averages_from is not None] == ["swa"]
    assert made["swa"].averages_from == 7
    assert len({id(each.optimizer) for each in made.values()}) == len(made)


@pytest.mark.parametrize(
    ("method", "own"),
    [("plain", {}), ("square_root", {"optimizer": "adam"}), ("growing_batch", {}), ("swa", {})]
    + [(name, {}) for name in ("warm_start", "lars_legw", "lamb_legw", "sngm", "adamp", "auto_wu")],
)  # fmt: skip
def test_who_is_decayed_does_not_depend_on_the_method(method, own):
    recipe = large_batch.METHODS[method](LARGE, **TRAINING, **own, weight_decay=0.1)
    names = ("kernel", "bias", "gamma", "scale", "scaled_kernel")
    variables = [keras.Variable(np.ones((2, 2)), name=name) for name in names]
    recipe.optimizer.build(variables)
    decayed = [recipe.optimizer._use_weight_decay(v.value) for v in variables]
    assert decayed == [True, False, False, False, True]


@pytest.fixture
def net():
    def make(shape=(4,), normalized=True, synchronized=False):
        keras.utils.set_random_seed(0)
        inputs = keras.Input(shape)
        x = keras.layers.Dense(5)(keras.layers.Flatten()(inputs))
        if normalized:
            x = keras.layers.BatchNormalization(momentum=0.5, synchronized=synchronized)(x)
        return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.ReLU()(x)))

    return make


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 4)).astype("float32")
    return x, np.argmax(x[:, :3], axis=1)


# Other numbers or another rule in what another one is made of too.
ALIKE = {"square_root", "linear_warm_up", "adamp", "asam", "dis_adv"}


@pytest.mark.parametrize("name", [name for name in large_batch.METHODS if name not in ALIKE])
def test_each_trains(name, net, data):
    kinds = {"ghost_batch_norm": GhostBatchNormalization, "con_adv": SplitBatchNormalization}
    shape = (2, 2, 1) if name == "augmentation" else (4,)
    x, y = data
    model, data = net(shape, name in kinds), (x.reshape(-1, *shape), y)
    epochs = 3 if name in ("growing_batch", "warm_start") else 1  # both phases
    recipe = large_batch.METHODS[name](LARGE, **TRAINING | {"epochs": epochs})
    before = model.get_weights()
    history = recipe.fit(model, LOSS, data, jit_compile=False, verbose=0)
    assert len(history.history["loss"]) == epochs
    assert recipe.optimizer.iterations.numpy() == (2 if epochs == 1 else 10 + 2 + 2)
    trained = history.model
    assert all(np.isfinite(weight).all() for weight in trained.get_weights())
    assert np.abs(trained.trainable_weights[0].numpy() - before[0]).max() > 1e-6
    if name in kinds:
        (layer,) = [each for each in trained.layers if isinstance(each, kinds[name])]
        assert getattr(layer, "virtual_batch_size", 10) == 10
        np.testing.assert_array_equal(model.get_weights()[0], before[0])
    else:
        assert trained is model or name == "augmentation"
    with pytest.raises(ValueError, match=rf"call.*`{name}` again"):
        recipe.trainer(net(shape), LOSS)


def test_swa_leaves_the_mean_of_the_last_epochs(net, data, monkeypatch):
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(model.get_weights()[0])
    )
    model = net()
    recipe = large_batch.swa(LARGE, **TRAINING | {"epochs": 4}, start=0.5)
    arguments = {"metrics": ["accuracy"], "callbacks": [watch], "verbose": 0}
    history = recipe.fit(model, LOSS, data, jit_compile=False, **arguments)
    assert "accuracy" in history.history
    np.testing.assert_allclose(model.get_weights()[0], (seen[2] + seen[3]) / 2, rtol=1e-6)
    # What bounds the memory of steps bounds that of the pass for the statistics.
    made = []
    monkeypatch.setattr("keras_sharp.large_batch.recipe.SWA", lambda *_, **own: made.append(own))
    monkeypatch.setattr(large_batch.Recipe, "trainer", lambda *_, **__: Mock())
    for options in ({}, {"micro_batch": 32}):
        large_batch.swa(LARGE, **TRAINING).fit(model, LOSS, data, **options)
    assert made == [{}, {"batch_size": 32}]


def flat(model):
    return np.concatenate([w.ravel() for w in model.get_weights()])


@pytest.mark.slow
def test_methods_combine_and_several_replicas_take_the_same_steps(net, data, replicas):
    def combined(strategy):
        model, rate = net(), LEGW(2.0, 0.2, 20, 10, epochs=2, steps_per_epoch=5)
        model = with_ghost_batch_normalization(model, 5)
        trainer = Trainer(model, LARS(rate), LOSS, gradient=SAM(), jit_compile=False)
        average = SWA(1, data, batch_size=100)
        trainer.fit(data, batch_size=20, epochs=2, callbacks=[average], verbose=0)
        return model

    def recipe(strategy, method, **own):
        made = method(20, **TRAINING | {"epochs": 2}, **own)
        model = net(normalized=method is large_batch.con_adv, synchronized=True)
        return made.fit(model, LOSS, data, jit_compile=False, verbose=0)

    ends = []
    for n in (1, 2):
        strategy = replicas(n)
        with strategy.scope():
            model = combined(strategy)
            (layer,) = [each for each in model.layers if isinstance(each, GhostBatchNormalization)]
            assert layer.virtual_batch_size == 5
            # Random starts differ between replicas, and with a radius of 0 there are none.
            attacked = recipe(strategy, large_batch.con_adv, epsilon=0.0).model
            ends.append([flat(net()), flat(model), flat(attacked)])
    (start, one, one_attacked), (_, two, two_attacked) = ends
    assert np.linalg.norm(one - start) > 0.1 * np.linalg.norm(start)
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(two_attacked, one_attacked, rtol=1e-5, atol=1e-5)
    with strategy.scope():  # of two replicas; together for an epoch, and alone in the next
        history = recipe(strategy, large_batch.post_local_sgd, every=2).history
    together, alone = history["consensus_distance"]
    assert together == 0 < alone


@pytest.mark.parametrize(
    ("method", "own", "message"),
    [
        ("plain", {"optimizer": "rmsprop"}, r"`optimizer` must be one of .*rmsprop"),
        ("plain", {"base_batch_size": 0}, "`base_batch_size` must be positive"),
        ("plain", {"epochs": 0}, "`epochs` must be an integer of at least 1"),
        ("auto_wu", {"learning_rate": DECAY}, "`learning_rate` must be positive and finite"),
        ("growing_batch", {"learning_rate": DECAY}, "`learning_rate` must be positive and finite"),
        ("swa", {"start": 1.0}, r"`start` must be in \[0, 1\)"),
        ("lars_legw", {"warmup_epochs": 2.0}, "The warm-up must be shorter than the training"),
    ],
)
def test_what_is_refused(method, own, message):
    with pytest.raises(ValueError, match=message):
        large_batch.METHODS[method](LARGE, **TRAINING | own)


def test_a_large_batch_that_is_never_reached_is_refused():
    with pytest.raises(ValueError, match="`batch_size`, 50.*up to 10, 5 times"):
        large_batch.growing_batch(LARGE, **TRAINING | {"epochs": 1})
    # Five times as large three times over: 125.
    training = TRAINING | {"examples": 2000}
    assert list(large_batch.growing_batch(1250, **training).batch_size.values())[-1] == 1250
    with pytest.raises(ValueError, match="`batch_size`, 1251.*up to 1250"):
        large_batch.growing_batch(1251, **training)
    for own in ({"epochs": 1}, {"epochs": 4, "share": 0.9}):
        with pytest.raises(ValueError, match="An epoch must be left to the large batch"):
            large_batch.warm_start(LARGE, **TRAINING | own)


def test_what_a_method_decides_can_not_be_replaced(net, data):
    recipe = large_batch.sam(LARGE, **TRAINING)
    for name, value in (("gradient", SAM(1.0)), ("communication", None), ("batch_size", 10)):
        with pytest.raises(ValueError, match=f"`{name}` is decided by the method.*'sam'"):
            recipe.fit(net(), LOSS, data, **{name: value})
    with pytest.raises(ValueError, match="`gradient` is decided by the method"):
        recipe.trainer(net(), LOSS, gradient=None)
    x, y = data
    with pytest.raises(
        ValueError, match=r"made for.*, 100\. Received: an array of shape \(99, 4\)"
    ):
        recipe.fit(net(), LOSS, (x[1:], y[1:]))
    with pytest.raises(ValueError, match="`data` must be arrays"):
        recipe.fit(net(), LOSS, tf.data.Dataset.from_tensor_slices(data).batch(LARGE))
    # But the training may be shorter than the one it is made for.
    history = recipe.fit(net(), LOSS, data, epochs=1, jit_compile=False, verbose=0)
    assert len(history.history["loss"]) == 1 and recipe.epochs == 10


def test_augmentation_wants_images(net):
    with pytest.raises(ValueError, match=r"needs a model of images.* \(None, 4\)"):
        large_batch.augmentation(LARGE, **TRAINING).trainer(net(), LOSS)
