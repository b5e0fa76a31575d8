import io

import pytest
import rich.console
from run_progress import Display, Plan, ShowEpochs, make_console

SMALL, LARGE = ("F1", "small"), ("F1", "large")


def plan_of(**left):
    plan = Plan()
    for regime, count in left.items():
        plan.left["F1", regime] = count
    return plan


def test_time_left_by_hand():
    plan = plan_of(small=10)
    assert plan.time_left() == "time left not known yet"
    plan.done(SMALL, 60.0)
    assert plan.time_left() == "about 0:09:00 left"  # nine more like the only one
    plan.done(SMALL, 2.0)
    plan.done(SMALL, 4.0)
    assert plan.time_left() == "about 0:00:21 left"  # seven of 3 s: the first was slow to start
    plan.left[LARGE] = 5
    assert plan.time_left() == "more than 0:00:21 left"
    plan.left[LARGE] = 0
    assert plan.time_left() == "about 0:00:21 left"


def test_a_network_that_is_dropped_takes_no_time():
    plan = plan_of(small=2)
    plan.done(SMALL, 1.0)
    plan.left["C1", "small"] = 3
    assert not plan.is_done("C1")
    plan.drop("C1")
    assert plan.is_done("C1") and not plan.is_done("F1")
    assert plan.time_left() == "about 0:00:01 left"


@pytest.mark.parametrize("first", [0, 6, 10])
def test_epochs_of_a_resumed_training_are_not_left(first):
    plan = plan_of(small=20)  # two trainings of ten epochs
    stream = io.StringIO()
    with Display(plan, rich.console.Console(file=stream, width=100)) as display:
        epochs = ShowEpochs(display, SMALL, "F1 trial 1/2", 10)
        for epoch in range(first, 10):
            epochs.on_epoch_begin(epoch)
            assert plan.left[SMALL] == 20 - epoch
            epochs.on_epoch_end(epoch, {"loss": 0.5})
        epochs.finish()
    assert plan.left[SMALL] == 10
    assert len(plan.seconds[SMALL]) == 10 - first
    lines = stream.getvalue().splitlines()
    assert sum("epoch 8/10, loss 0.5" in line for line in lines) == (first < 8)
    assert not any("epoch 7/10" in line for line in lines)  # a line now and then, not each time


def test_a_log_file_is_wide_enough_for_a_table(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert make_console().width == 160


def test_what_is_said_is_not_markup():
    stream = io.StringIO()
    with Display(Plan(), rich.console.Console(file=stream)) as display:
        display.say("a [bold] word")
    assert "a [bold] word" in stream.getvalue()
