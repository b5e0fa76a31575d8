import keras
import numpy as np
import pytest

from keras_sharp.optimizers import CorrectedSGD

SGD = keras.optimizers.SGD
START = {"kernel": [[3.0], [4.0]], "bias": [1.0]}
GRADIENTS = [
    {"kernel": [[1.0], [2.0]], "bias": [2.0]},
    {"kernel": [[2.0], [-3.0]], "bias": [6.0]},
    {"kernel": [[-6.0], [2.0]], "bias": [9.0]},
]
RATES = [1.0, 0.1, 0.5]


def drop():
    return keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], RATES)


def test_a_velocity_goes_on_at_the_new_rate(walk):
    # The case in the docstring: a unit gradient at rate 1, then none at rate 0.1.
    for optimizer, expected in [(CorrectedSGD, -1.09), (SGD, -1.9)]:
        path = walk(optimizer(drop(), momentum=0.9), {"w": [0.0]}, [{"w": [1.0]}, {"w": [0.0]}])
        np.testing.assert_allclose(path[1]["w"], [expected], rtol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_three_steps_with_the_correction_of_the_paper(walk, nesterov):
    # v <- mu (eta_new / eta_old) v - eta_new g, in Keras's form
    path = walk(CorrectedSGD(drop(), momentum=0.9, nesterov=nesterov), START, GRADIENTS)
    for name, start in START.items():
        w, v, old = np.array(start), 0.0, RATES[0]
        for weights, gradient, eta in zip(path, GRADIENTS, RATES, strict=True):
            v, old = 0.9 * eta / old * v - eta * np.array(gradient[name]), eta
            w = w + (0.9 * v - eta * np.array(gradient[name]) if nesterov else v)
            np.testing.assert_allclose(weights[name], w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}],
)
def test_at_a_constant_rate_it_is_keras_s(walk, options):
    paths = [walk(sgd(0.1, **options), START, GRADIENTS) for sgd in (CorrectedSGD, SGD)]
    for ours, theirs in zip(*paths, strict=True):
        for name, expected in theirs.items():
            np.testing.assert_allclose(ours[name], expected, rtol=1e-6)


def test_a_rate_of_zero_does_no_harm(walk):
    warm_up = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.0, 1.0])
    path = walk(CorrectedSGD(warm_up, momentum=0.5), {"w": [0.0]}, [{"w": [1.0]}, {"w": [1.0]}])
    assert path[0]["w"] == 0
    np.testing.assert_allclose(path[1]["w"], [-1.5])
