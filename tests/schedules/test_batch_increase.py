"""Growing batches against the drops of the rate they stand for."""

import pytest

from keras_sharp.schedules import increased_batches


def test_the_batch_grows_to_its_limit_and_then_the_rate_drops():
    phases = increased_batches([60, 120, 160], [0.1, 0.02, 0.004, 0.0008], 128, 5120)
    assert [phase.epoch for phase in phases] == [0, 60, 120, 160]
    assert [phase.batch_size for phase in phases] == [128, 640, 3200, 5120]
    assert [phase.learning_rate for phase in phases] == pytest.approx([0.1, 0.1, 0.1, 0.032])


def test_the_noise_is_that_of_the_plan_where_sizes_are_rounded():
    values = [0.3, 0.13, 0.07]
    phases = increased_batches([3, 4], values, 10, 1000)
    assert [phase.batch_size for phase in phases] == [10, 23, 43]
    noise = [phase.learning_rate / phase.batch_size for phase in phases]
    assert noise == pytest.approx([value / 10 for value in values])


def test_without_room_it_is_the_plan():
    assert increased_batches([5], [0.1, 0.01], 64, 64) == [
        (0, 64, 0.1),
        (5, 64, pytest.approx(0.01)),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([5], [0.1], 8, 64), "one entry more"),
        (([5, 5], [0.1, 0.01, 0.001], 8, 64), "`boundaries`"),
        (([0], [0.1, 0.01], 8, 64), "`boundaries`"),
        (([5], [0.1, 0.2], 8, 64), "`values`"),
        (([5], [0.1, 0.0], 8, 64), "`values`"),
        (([5], [0.1, 0.01], 0, 64), "`batch_size`"),
        (([5], [0.1, 0.01], 8, 4), "`largest_batch_size`"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        increased_batches(*arguments)
