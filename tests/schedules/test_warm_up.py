import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp.schedules import WarmUp, linear_scaling

schedules = keras.optimizers.schedules
STEPS, RISE, EPOCHS = 7, 2.5, 10


def rates(schedule, count=STEPS * EPOCHS + 1):
    return np.array([float(schedule(i)) for i in range(count)])


def epochs_of(count=STEPS * EPOCHS + 1):
    return np.arange(count) / STEPS


def ramp(peak, after, first=0.0):
    e = epochs_of()
    return np.where(e < RISE, first + (peak - first) * e / RISE, after(e))


def squeezed(e):
    """The share of the epochs after the rise that has passed."""
    return np.maximum(e - RISE, 0) / (EPOCHS - RISE)


# A schedule in epochs, and what the paper's shapes make of it after the rise.
SHAPES = {
    "constant": (0.5, lambda e: 0.5 + 0 * e),
    "multi-step": (
        schedules.PiecewiseConstantDecay([4, 8], [0.5, 0.05, 0.005]),
        lambda e: 0.5 * 0.1 ** ((e > 4).astype(int) + (e > 8)),
    ),
    "exponential": (
        schedules.ExponentialDecay(0.5, 1, 0.9, staircase=True),
        lambda e: 0.5 * 0.9 ** np.floor(e),
    ),
    "polynomial": (
        schedules.PolynomialDecay(0.5, EPOCHS, 0.0, power=2.0),
        lambda e: 0.5 * (1 - squeezed(e)) ** 2,
    ),
    "cosine": (
        schedules.CosineDecay(0.5, EPOCHS),
        lambda e: 0.5 * (1 + np.cos(np.pi * squeezed(e))) / 2,
    ),
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def shape(request):
    return request.param


def test_shapes(shape):
    schedule, after = shape
    warm = WarmUp(schedule, RISE, EPOCHS, STEPS)
    np.testing.assert_allclose(rates(warm), ramp(0.5, after), rtol=1e-5, atol=1e-7)
    assert warm.peak == 0.5
    assert warm.warmup_steps == 17.5


def test_the_clock_is_looked_up_behind_a_factor_too():
    scaled = linear_scaling(SHAPES["polynomial"][0], 4, 1)
    warm = WarmUp(scaled, RISE, EPOCHS, STEPS)
    expected = ramp(2.0, lambda e: 2.0 * (1 - squeezed(e)) ** 2)
    np.testing.assert_allclose(rates(warm), expected, rtol=1e-5, atol=1e-7)


def test_polynomial_decay_that_counts_from_the_start():
    warm = WarmUp(SHAPES["polynomial"][0], RISE, EPOCHS, STEPS, clock="start")
    expected = ramp(0.5, lambda e: 0.5 * (1 - e / EPOCHS) ** 2)
    np.testing.assert_allclose(rates(warm), expected, rtol=1e-5, atol=1e-7)


def test_without_warm_up_the_schedule_is_left_alone(shape):
    schedule, _ = shape
    warm = WarmUp(schedule, 0, EPOCHS, STEPS)
    plain = [schedule if isinstance(schedule, float) else float(schedule(e)) for e in epochs_of()]
    np.testing.assert_allclose(rates(warm), plain, rtol=1e-5, atol=1e-7)


def test_the_rise_may_begin_above_zero():
    warm = WarmUp(0.8, RISE, EPOCHS, STEPS, initial_learning_rate=0.1)
    np.testing.assert_allclose(rates(warm), ramp(0.8, lambda e: 0.8 + 0 * e, 0.1), rtol=1e-6)


def test_milestones_are_met_to_the_step_under_xla():
    # 3 * (1 / 49) is not 3 / 49, and so on: epoch 30 would come a step early or late.
    warm = WarmUp(schedules.PiecewiseConstantDecay([30], [1.0, 0.1]), 0, 90, 49)
    at = tf.function(lambda step: warm(step), jit_compile=True)
    around = [float(at(tf.constant(30 * 49 + i, "int64"))) for i in (-1, 0, 1)]
    np.testing.assert_allclose(around, [1.0, 1.0, 0.1])


def test_it_goes_through_an_optimizer_s_configuration(shape):
    schedule, _ = shape
    warm = WarmUp(schedule, RISE, EPOCHS, STEPS, initial_learning_rate=0.1, clock="start")
    optimizer = keras.optimizers.SGD(warm)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()
    for step in (0, 3, 40):
        assert float(again._learning_rate(step)) == float(warm(step))


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="must be shorter than the training.*warmup_epochs=10"):
        WarmUp(0.1, 10, 10, 5)
    with pytest.raises(ValueError, match="must be shorter than the training.*warmup_epochs=-1"):
        WarmUp(0.1, -1, 10, 5)
    with pytest.raises(ValueError, match="`steps_per_epoch` must be positive. Received"):
        WarmUp(0.1, 1, 10, 0)
    with pytest.raises(ValueError, match="`epochs` must be positive. Received"):
        WarmUp(0.1, 0, 0, 1)
    with pytest.raises(ValueError, match="`clock` must be one of"):
        WarmUp(0.1, 1, 10, 5, clock="end")


def test_a_schedule_that_computes_in_integers_is_refused():
    # Keras's polynomial decay from 4, not 4.0, rounds the epochs down.
    for scale in (lambda schedule: schedule, lambda schedule: linear_scaling(schedule, 2, 1)):
        with pytest.raises(ValueError, match="must have a float.*initial_learning_rate=4"):
            WarmUp(scale(schedules.PolynomialDecay(4, 10, 0)), 1, 10, 5)
