"""Growing batches against the drops of the rate they stand for."""

import json

import keras
import numpy as np
import pytest

from keras_sharp.schedules import Phase, increased_batches


def test_the_batch_grows_to_its_limit_and_then_the_rate_drops():
    plan = increased_batches([60, 120, 160], [0.1, 0.02, 0.004, 0.0008], 128, 5120)
    assert plan.batch_size == {0: 128, 60: 640, 120: 3200, 160: 5120}
    assert [phase.learning_rate for phase in plan] == pytest.approx([0.1, 0.1, 0.1, 0.032])


def test_the_noise_is_that_of_the_plan_where_sizes_are_rounded():
    values = [0.3, 0.13, 0.07]
    plan = increased_batches([3, 4], values, 10, 1000)
    assert [phase.batch_size for phase in plan] == [10, 23, 43]
    noise = [phase.learning_rate / phase.batch_size for phase in plan]
    assert noise == pytest.approx([value / 10 for value in values])


def test_without_room_it_is_the_plan():
    assert increased_batches([5], [0.1, 0.01], 64, 64) == (
        (0, 64, 0.1),
        (5, 64, pytest.approx(0.01)),
    )


def test_the_rate_changes_with_the_first_step_of_a_phase():
    # Of 9 examples an epoch has 5 steps of batches of 2, 3 of 4 and 2 of 6.
    plan = increased_batches([1, 3, 4], [0.8, 0.4, 0.2, 0.1], 2, 6)
    rates = [0.8] * 5 + [0.8] * (2 * 3) + [0.8 * 0.25 * 3] * 2 + [0.8 * 0.125 * 3] * 4
    kept = keras.optimizers.schedules.serialize(plan.learning_rate(9))
    schedule = keras.optimizers.schedules.deserialize(json.loads(json.dumps(kept)))
    assert [float(schedule(step)) for step in range(len(rates))] == pytest.approx(rates)
    alone = increased_batches([], [0.1], 8, 8).learning_rate(9)
    assert [float(alone(step)) for step in (0, 1, 99)] == pytest.approx([0.1] * 3)


def test_a_plan_is_kept_as_json():
    plan = increased_batches(np.array([5]), np.array([0.3, 0.1]), np.int64(64), np.int64(128))
    kept = json.loads(json.dumps(plan))
    assert type(plan)(Phase(*phase) for phase in kept) == plan


@pytest.mark.parametrize("examples", [63, 64.0])
def test_too_few_examples_are_refused(examples):
    with pytest.raises(ValueError, match="largest batch size, 64. Received"):
        increased_batches([5], [0.2, 0.1], 32, 64).learning_rate(examples)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([5], [0.1], 8, 64), "one entry more"),
        (([5, 5], [0.1, 0.01, 0.001], 8, 64), "`boundaries`"),
        (([0], [0.1, 0.01], 8, 64), "`boundaries`"),
        (([0.5], [0.1, 0.01], 8, 64), "`boundaries`"),
        (([5], [0.1, 0.2], 8, 64), "`values`"),
        (([5], [0.1, 0.0], 8, 64), "`values`"),
        (([5], [0.1, 0.01], 0, 64), "`batch_size`"),
        (([5], [0.1, 0.01], 8, 4), "`largest_batch_size`"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        increased_batches(*arguments)
