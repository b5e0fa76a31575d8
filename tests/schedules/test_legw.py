import math

import keras
import numpy as np
import pytest

from keras_sharp.schedules import LEGW, WarmUp

schedules = keras.optimizers.schedules
EXAMPLES = 1_281_167

# ImageNet, ResNet-50, 90 epochs, as the paper's group trained it, but for 2048 and 32768, which
# follow from the rule: batch, peak rate, epochs of warm-up.
PAIRS = [
    (512, 2**2, 10 / 2**6),
    (1024, 2**2.5, 10 / 2**5),
    (2048, 2**3, 0.625),
    (4096, 2**3.5, 10 / 2**3),
    (8192, 2**4, 10 / 2**2),
    (16384, 2**4.5, 5),
    (32768, 2**5, 10),
]


def legw(batch, schedule=4.0, base=512, rise=0.15625, examples=EXAMPLES, epochs=90, **options):
    return LEGW(schedule, rise, batch, base, epochs, examples / batch, **options)


@pytest.mark.parametrize(("batch", "peak", "rise"), PAIRS)
@pytest.mark.parametrize("base", [PAIRS[0], PAIRS[3]], ids=["from 512", "from 4096"])
def test_the_pairs_of_the_paper_s_group(base, batch, peak, rise):
    schedule = schedules.PolynomialDecay(float(base[1]), 90, 0.0, power=2.0)
    rate = legw(batch, schedule, base[0], base[2])
    assert rate.peak == pytest.approx(peak, rel=1e-6)
    assert rate.warmup_epochs == rise
    # The number of steps does not change: 391.
    assert rate.warmup_steps == pytest.approx(0.15625 * EXAMPLES / 512, rel=1e-12)
    assert math.ceil(rate.warmup_steps) == 391
    # A step before the end of the rise, and after it.
    assert float(rate(390)) == pytest.approx(peak * 390 / rate.warmup_steps, rel=1e-5)
    e = 391 * batch / EXAMPLES
    expected = peak * (1 - (e - rise) / (90 - rise)) ** 2
    assert float(rate(391)) == pytest.approx(expected, rel=1e-5)
    assert float(rate(0)) == 0


def test_the_same_batch_is_left_as_it_was():
    decay = schedules.PiecewiseConstantDecay([30, 60], [4.0, 0.4, 0.04])
    rate, plain = legw(512, decay), WarmUp(decay, 0.15625, 90, EXAMPLES / 512)
    for step in (0, 100, 391, 80_000, 200_000):
        assert float(rate(step)) == float(plain(step))


def test_a_smaller_batch_has_a_smaller_rate_and_the_same_steps():
    rate = legw(128)
    assert rate.peak == 2.0
    assert rate.warmup_epochs == 0.15625 / 4
    assert rate.warmup_steps == pytest.approx(legw(512).warmup_steps)


def test_batches_need_not_divide():
    rate = legw(768)
    assert rate.peak == pytest.approx(4 * math.sqrt(1.5))
    assert rate.warmup_epochs == 0.15625 * 1.5


# A schedule from 0.5, and its share of that after 45.5 of 90 epochs, `p` of those after the rise.
SHAPES = [
    (0.5, lambda p: 1),
    (schedules.PiecewiseConstantDecay([30, 60], [0.5, 0.05, 0.005]), lambda p: 0.1),
    (schedules.ExponentialDecay(0.5, 1, 0.96, staircase=True), lambda p: 0.96**45),
    (schedules.PolynomialDecay(0.5, 90, 0.0), lambda p: 1 - p),
    (schedules.CosineDecay(0.5, 90), lambda p: (1 + math.cos(math.pi * p)) / 2),
]


@pytest.mark.parametrize(("decay", "share"), SHAPES)
@pytest.mark.parametrize("k", [1, 4])
def test_shapes_keep_their_epochs_at_every_batch(decay, share, k):
    # 1024 steps an epoch at batch 512, and two epochs of warm-up there.
    rate = legw(512 * k, decay, rise=2, examples=512 * 1024)
    expected = 0.5 * math.sqrt(k) * share((45.5 - 2 * k) / (90 - 2 * k))
    assert float(rate(45.5 * 1024 / k)) == pytest.approx(expected, rel=1e-5)


def test_polynomial_decay_counts_from_the_start_when_told_to():
    decay = schedules.PolynomialDecay(4.0, 90, 0.0, power=1.0)
    rate = legw(4096, decay, clock="start", examples=4096 * 10)
    assert float(rate(450)) == pytest.approx(4 * math.sqrt(8) * 0.5, rel=1e-6)


def test_it_goes_through_an_optimizer_s_configuration():
    for schedule in (4.0, schedules.PolynomialDecay(4.0, 90, 0.0, power=2.0)):
        optimizer = keras.optimizers.SGD(legw(4096, schedule))
        again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
        assert isinstance(again._learning_rate, LEGW)
        assert again.get_config() == optimizer.get_config()
        for step in (10, 391, 20_000):
            assert float(again._learning_rate(step)) == float(optimizer._learning_rate(step))


def test_a_saved_model_goes_on_in_the_middle_of_its_warm_up(tmp_path):
    x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(LEGW(0.1, 1, 8, 4, 10, 4), momentum=0.9), "mse")
    model.fit(x, x[:, :1], 8, 1, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    # Step 4 of the 8 of the warm-up, to a peak of 0.1 sqrt(2).
    assert float(loaded.optimizer.learning_rate) == pytest.approx(0.05 * math.sqrt(2))
    for each in (model, loaded):
        each.fit(x, x[:, :1], 8, 3, shuffle=False, verbose=0)
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])


def test_a_warm_up_that_takes_all_epochs_is_refused():
    with pytest.raises(ValueError, match="shorter than the training.*warmup_epochs=10.0, epochs=9"):
        legw(32768, epochs=9)
    with pytest.raises(ValueError, match="`base_batch_size` must be positive"):
        legw(512, base=0)
