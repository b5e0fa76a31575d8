import pytest

from keras_sharp.large_batch import METHODS
from keras_sharp.tuner.space import OPTIMIZERS, Space
from keras_sharp.tuner.trial import Task


@pytest.mark.parametrize(
    ("scaling", "factor"), [("none", 1.0), ("linear", 16.0), ("sqrt", 4.0), ("legw", 4.0)]
)
def test_the_rate_is_scaled_from_the_base_batch_and_falls_to_zero(scaling, factor):
    space = Space(32, learning_rates=[0.1], scaling=scaling, largest_batch=1024)
    space = space.for_examples(1024)
    values = {"batch_size": 512, "learning_rate": 0.1, "scaling": scaling}
    rate = space.schedule(values, 1024, epochs=10)  # two steps an epoch
    assert rate.peak == pytest.approx(0.1 * factor)
    assert float(rate(20)) == pytest.approx(0, abs=1e-7)
    if scaling == "legw":
        # Half the training at the largest batch, 1024: 5 epochs of 1 step. So 5 steps at 512, too.
        assert rate.warmup_steps == pytest.approx(5)
        assert float(rate(2)) == pytest.approx(0.4 * 2 / 5)
    else:
        assert float(rate(10)) == pytest.approx(0.05 * factor)


def test_a_budget_of_steps():
    """Whole epochs of every batch, and as many steps of LEGW's warm-up."""
    task = Task("", "small", "digits", Space(32), None, 100, (0,), False, None)
    whole = {size: task.whole(size, 1024) for size in (32, 64, 128, 256, 512, 1024)}
    assert whole == {32: 4, 64: 7, 128: 13, 256: 25, 512: 50, 1024: 100}
    space = Space(32, learning_rates=[0.1], scaling="legw", largest_batch=1024)
    space = space.for_examples(1024)
    for size, epochs in whole.items():
        values = {"batch_size": size, "learning_rate": 0.1, "scaling": "legw"}
        rate = space.schedule(values, 1024, epochs, whole[1024])
        assert rate.warmup_steps == pytest.approx(50)


def test_batches_are_doubles_of_the_base_up_to_the_data():
    to = lambda examples, **top: Space(32, **top).for_examples(examples).batch_sizes[-1]  # noqa: E731
    assert to(10_240) == 1024 and to(10_239) == 512  # ten steps an epoch
    assert [to(1149), to(256), to(255), to(40)] == [256, 256, 128, 32]  # three doubles if possible
    assert [to(1149, largest_batch=top) for top in (1149, 1024, 1023)] == [1024, 1024, 512]
    with pytest.raises(ValueError, match="a batch of 2000 of 1000 examples"):
        to(1000, largest_batch=2000)
    assert Space(32, [100, 50]).for_examples(100).batch_sizes == (32, 50, 100)


def test_the_reference_is_the_base_batch_at_the_middle_rate():
    space = Space(32, [64], [0.3, 0.01, 0.1], scaling=["sqrt", "linear"]).for_examples(100)
    hp = space.hyperparameters()
    assert hp.values == {
        "batch_size": 32,
        "learning_rate": 0.1,
        "optimizer": "sgd",
        "gradient": "plain",
        "scaling": "sqrt",
    }
    drawn = Space(32, [64], learning_rate_range=(0.01, 1.0)).for_examples(100).hyperparameters()
    assert drawn.get("learning_rate") == pytest.approx(0.1)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_by_name(optimizer):
    space = Space(32, optimizer=optimizer, gradient="sam").for_examples(64)
    recipe = space.recipe(space.hyperparameters().values, 64, epochs=2)
    assert type(recipe.optimizer).__name__.lower() == optimizer
    assert type(recipe.gradient).__name__ == "SAM"


def test_methods_decide_everything_else():
    space = Space(32, [64], [0.1], method=["plain", "square_root"]).for_examples(64)
    values = space.hyperparameters().values | {"batch_size": 64, "method": "square_root"}
    recipe = space.recipe(values, 64, epochs=4)
    own = METHODS["square_root"](64, base_batch_size=32, learning_rate=0.1, examples=64, epochs=4)
    ours, theirs = ({**each.optimizer.get_config(), "name": ""} for each in (recipe, own))
    assert ours == theirs
