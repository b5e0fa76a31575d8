"""The rate of AutoWU against its state machine, run step by step."""

import math

import keras
import numpy as np
import pytest

from keras_sharp.schedules import AutoWURate


def state_machine(rate, switch=None):
    """The rates of all steps, by the pseudo-code of the paper's authors.

    `switch` is the step count and the rate of the one epoch test that succeeds.
    """
    total, cap = rate.total_steps, math.floor(rate.warmup_share * rate.total_steps)
    first, last = rate.initial_learning_rate, rate.maximal_learning_rate
    lr, phase, rates, step = first, "warm-up", [], 0

    def cool_down():
        nonlocal phase, lr_0, length, advanced
        if phase != "cool-down":
            phase, lr_0, length, advanced = "cool-down", lr, total - step, 0

    lr_0 = length = advanced = None
    while step < total:
        rates.append(lr)
        step += 1
        if rate.decay == "constant" and step >= (1 - rate.cooldown_share) * total:
            cool_down()
        switched = False
        if phase == "warm-up" and (step >= cap or switch and step == switch[0]):
            if step < cap:
                lr, switched = switch[1], True
            if rate.decay == "cosine":
                cool_down()
            else:
                phase = "constant"
        if phase == "warm-up" and not switched:
            grows = rate.growth == "exponential"
            lr = lr * (last / first) ** (1 / cap) if grows else lr + (last - first) / cap
        elif phase == "cool-down" and length:
            advanced += 1  # also on entering
            lr = lr_0 * (1 + math.cos(math.pi * advanced / length)) / 2
    return rates


@pytest.mark.parametrize("growth", ["exponential", "linear"])
@pytest.mark.parametrize("decay", ["cosine", "constant"])
@pytest.mark.parametrize("switch", [None, (6, 0.03), (9, 0.2)])
@pytest.mark.parametrize("shares", [(0.5, 0.2), (0.7, 0.3), (0.45, 0.33)])
def test_every_step_of_the_state_machine(growth, decay, switch, shares):
    rate = AutoWURate(
        10, 3, 1e-4, 0.5, shares[0], growth=growth, decay=decay, cooldown_share=shares[1]
    )
    if switch:
        rate.decay_from(*switch)
    np.testing.assert_allclose(
        [float(rate(step)) for step in range(30)], state_machine(rate, switch), rtol=1e-6, atol=1e-9
    )


def test_the_numbers_of_the_paper_s_defaults():
    rate = AutoWURate(epochs=120, steps_per_epoch=10)
    assert float(rate(0)) == pytest.approx(1e-5)
    assert float(rate(10)) / float(rate(0)) == pytest.approx(10 ** (1 / 12), rel=1e-5)
    assert rate.warmup_steps == 600
    assert float(rate.rising(600)) == pytest.approx(1.0)


@pytest.mark.parametrize("decay", ["cosine", "constant"])
def test_the_decay_ends_at_zero_and_stays_there(decay):
    rate = AutoWURate(20, 5, decay=decay)
    rate.decay_from(15, 0.1)
    assert float(rate(98)) > 0
    assert float(rate(99)) == pytest.approx(0, abs=1e-7)
    assert float(rate(250)) == pytest.approx(0, abs=1e-7)


def test_a_graph_traced_before_follows_the_decision():
    rate = AutoWURate(20, 5)
    optimizer = keras.optimizers.SGD(rate)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(optimizer, loss=lambda y, y_pred: -y_pred)  # the gradient is -x
    one = np.ones((1, 1), "float32")
    steps = []
    for step in range(12):
        if step == 10:
            rate.decay_from(10, 0.25)
        before = model.get_weights()[0].item()
        model.train_on_batch(one, one)
        steps.append(model.get_weights()[0].item() - before)
    expected = [float(AutoWURate(20, 5)(step)) for step in range(10)]
    expected += [0.25 * (1 + math.cos(math.pi * s / 90)) / 2 for s in (1, 2)]
    np.testing.assert_allclose(steps, expected, rtol=1e-4, atol=2e-7)


def test_the_decision_is_saved_with_an_optimizer():
    rate = AutoWURate(20, 5, 1e-3, 0.3, decay="constant", growth="linear", cooldown_share=0.4)
    rate.decay_from(20, 0.1)
    optimizer = keras.optimizers.get(keras.optimizers.serialize(keras.optimizers.SGD(rate)))
    copy = optimizer._learning_rate
    assert (copy.decay_start, copy.peak) == (20, 0.1)
    assert copy.get_config() == rate.get_config()
    assert [float(copy(step)) for step in range(100)] == [float(rate(step)) for step in range(100)]


def test_a_state_goes_back_to_before_the_decision():
    rate = AutoWURate(20, 5)
    before = rate.get_state(), [float(rate(step)) for step in range(100)]
    rate.decay_from(20, 0.1)
    assert [float(rate(step)) for step in range(100)] != before[1]
    rate.set_state(before[0])
    assert (rate.get_state(), [float(rate(step)) for step in range(100)]) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "`epochs`"),
        ({"steps_per_epoch": 2.5}, "`steps_per_epoch`"),
        ({"initial_learning_rate": 0.0}, "must rise"),
        ({"maximal_learning_rate": 1e-6}, "must rise"),
        ({"warmup_share": 1.5}, "`warmup_share`"),
        ({"warmup_share": 0.01}, "at least one step"),
        ({"warmup_share": 0.9, "decay": "constant"}, "more than 1"),
        ({"growth": "cubic"}, "`growth`"),
        ({"decay": "linear"}, "`decay`"),
        ({"peak": 1.0}, "together"),
        ({"peak": 1.0, "decay_start": 60}, "cap of the warm-up"),
        ({"peak": -1.0, "decay_start": 6}, "`peak`"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AutoWURate(**{"epochs": 10, "steps_per_epoch": 5, **arguments})
