import numpy as np
import pytest
from keskar_training import batch_sizes, load, make_optimizer, tenth, trial_seed


@pytest.mark.parametrize(("examples", "batch"), [(60, 6), (1437, 144), (60_000, 6000), (1, 1)])
def test_a_tenth_makes_ten_batches(examples, batch):
    assert tenth(examples) == batch
    assert -(-examples // batch) == min(10, examples)


def test_batch_sizes():
    assert batch_sizes(32, None, 1437) == {"small": 32, "large": 144}
    assert batch_sizes(32, 33, 33) == {"small": 32, "large": 33}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((32, None, 300), r"Received: 30 \(10 % of 300 training examples\) and 32"),
        ((32, None, 320), r"Received: 32 \(10 % of 320"),
        ((32, 31, 300), r"Received: 31 \(--large-batch\) and 32 \(--small-batch\)"),
        ((32, 301, 300), r"at most the number of training examples, 300\. Received: 301"),
    ],
)
def test_batch_sizes_that_do_not_fit(sizes, message):
    with pytest.raises(ValueError, match=message):
        batch_sizes(*sizes)


def test_a_limit_takes_the_first_examples_of_both_parts():
    whole, part = load("digits"), load("digits", limit=5)
    for name in ("x_train", "y_train", "x_test", "y_test"):
        assert np.array_equal(getattr(part, name), getattr(whole, name)[:5])
    assert (part.name, part.classes) == ("digits", 10)
    assert len(whole.x_train) == 1437


def test_trials_have_seeds_of_their_own():
    seeds = [trial_seed(seed, trial) for seed in range(3) for trial in range(1, 6)]
    assert len(set(seeds)) == len(seeds)


def test_adam_has_the_defaults_of_keras_1():
    config = make_optimizer().get_config()
    assert config["learning_rate"] == pytest.approx(1e-3)
    assert (config["beta_1"], config["beta_2"], config["epsilon"]) == (0.9, 0.999, 1e-8)
