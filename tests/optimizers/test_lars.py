import keras
import numpy as np
import pytest

from keras_sharp.optimizers import LARS

RATE, MU, C = 2.0, 0.5, 0.1
W, B = np.array([[3.0], [4.0]]), np.array([1.0])
GRADIENTS = [
    {"kernel": [[0.6], [0.8]], "bias": [0.5]},
    {"kernel": [[-1.0], [0.5]], "bias": [1.0]},
    {"kernel": [[0.2], [-0.3]], "bias": [-2.0]},
]


def length(x):
    return np.sqrt(np.sum(x**2))


def denominator(rule, g, w, decay):
    """What `|w|` is divided by, of the rules that don't look at the velocity."""
    return {
        "classic": length(g + decay * w),
        "paper": length(g) + decay * length(w),
        "gradient": length(g),
        "legw": length(g) + decay * length(w),
    }[rule]


def check(path, kernels, biases):
    for weights, w, b in zip(path, kernels, biases, strict=True):
        np.testing.assert_allclose(weights["kernel"], w, rtol=2e-6)
        np.testing.assert_allclose(weights["bias"], b, rtol=2e-6)


def test_the_first_step_in_numbers(walk):
    # |w| = 5, |g| = 1, both along (3, 4): trust = 0.1 * 5 / 1, v = 2 * 0.5 g = (0.6, 0.8).
    path = walk(LARS(RATE, MU, trust_coefficient=C), {"kernel": W, "bias": B}, GRADIENTS[:1])
    check(path, [[[2.4], [3.2]]], [[1.0 - 2 * 0.5]])
    # With decay 0.1, d = (0.9, 1.2) of length 1.5: trust = 0.5 / 1.5, v = 2/3 d = (0.6, 0.8) again.
    optimizer = LARS(RATE, MU, trust_coefficient=C, weight_decay=0.1)
    check(walk(optimizer, {"kernel": W, "bias": B}, GRADIENTS[:1]), [[[2.4], [3.2]]], [[0.0]])
    # The paper divides by |g| + 0.1 |w| = 1.5, too, and without its decay by |g| = 1.
    optimizer = LARS(RATE, MU, trust_coefficient=C, weight_decay=0.1, rule="gradient")
    check(walk(optimizer, {"kernel": W, "bias": B}, GRADIENTS[:1]), [[[2.1], [2.8]]], [[0.0]])


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("rule", ["classic", "paper", "gradient"])
def test_three_steps_with_the_rate_inside(walk, rule, nesterov, decay):
    optimizer = LARS(RATE, MU, nesterov, trust_coefficient=C, rule=rule, weight_decay=decay or None)
    w, v, b, u, kernels, biases = W, 0 * W, B, 0 * B, [], []
    for gradient in GRADIENTS:
        g, h = np.array(gradient["kernel"]), np.array(gradient["bias"])
        term = RATE * C * length(w) / denominator(rule, g, w, decay) * (g + decay * w)
        v, u = MU * v + term, MU * u + RATE * h
        w = w - (MU * v + term if nesterov else v)
        b = b - (MU * u + RATE * h if nesterov else u)
        kernels.append(w)
        biases.append(b)
    check(walk(optimizer, {"kernel": W, "bias": B}, GRADIENTS), kernels, biases)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("rule", ["momentum", "legw"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_three_steps_with_the_rate_outside(walk, nesterov, rule, decay):
    options = {"rule": rule, "weight_decay": decay or None, "nesterov": nesterov}
    optimizer = LARS(RATE, MU, trust_coefficient=C, **options)
    w, v, b, u, kernels, biases = W, 0 * W, B, 0 * B, [], []
    for gradient in GRADIENTS:
        g, h = np.array(gradient["kernel"]), np.array(gradient["bias"])
        d = g + decay * w
        v, u = MU * v + d, MU * u + h
        steps = (MU * v + d, MU * u + h) if nesterov else (v, u)
        below = length(steps[0]) if rule == "momentum" else denominator(rule, g, w, decay)
        w, b = w - RATE * C * length(w) / below * steps[0], b - RATE * steps[1]
        kernels.append(w)
        biases.append(b)
    check(walk(optimizer, {"kernel": W, "bias": B}, GRADIENTS), kernels, biases)


def test_legw_s_rule_bounds_the_trust_and_the_entries(walk):
    # Trust 0.1 * 5 / 0.001 = 500 becomes 50; entries of 30 and 40 become 10.
    small, large = {"kernel": [[6e-4], [8e-4]]}, {"kernel": [[30.0], [-40.0]]}
    optimizer = LARS(RATE, MU, trust_coefficient=C, rule="legw")
    (after,) = walk(optimizer, {"kernel": W}, [small])
    np.testing.assert_allclose(after["kernel"], [[3 - 2 * 50 * 6e-4], [4 - 2 * 50 * 8e-4]])
    optimizer = LARS(RATE, MU, trust_coefficient=C, rule="legw")
    (after,) = walk(optimizer, {"kernel": W}, [large])
    trust = 0.1 * 5 / 50
    np.testing.assert_allclose(after["kernel"], [[3 - 2 * trust * 10], [4 + 2 * trust * 10]])


def test_epsilon_is_in_the_denominator(walk):
    optimizer = LARS(RATE, MU, trust_coefficient=C, epsilon=4.0)
    (after,) = walk(optimizer, {"kernel": W}, GRADIENTS[:1])  # trust = 0.5 / (1 + 4)
    np.testing.assert_allclose(after["kernel"], W - 2 * 0.1 * np.array([[0.6], [0.8]]), rtol=1e-6)


@pytest.mark.parametrize("rule", ["classic", "paper", "gradient", "momentum", "legw"])
def test_a_norm_of_zero_makes_the_trust_one(walk, rule):
    optimizer = LARS(RATE, MU, trust_coefficient=C, epsilon=1e-5, rule=rule)
    path = walk(optimizer, {"kernel": 0 * W}, GRADIENTS[:1])
    np.testing.assert_allclose(path[0]["kernel"], [[-1.2], [-1.6]], rtol=1e-6)
    optimizer = LARS(RATE, MU, trust_coefficient=C, epsilon=1e-5, rule=rule)
    path = walk(optimizer, {"kernel": W}, [{"kernel": 0 * W}])
    np.testing.assert_array_equal(path[0]["kernel"], W)


def test_biases_are_adapted_and_decayed_when_asked_to(walk):
    optimizer = LARS(
        RATE,
        MU,
        trust_coefficient=C,
        weight_decay=0.1,
        adapt_bias_and_norm=True,
        decay_bias_and_norm=True,
    )
    (after,) = walk(optimizer, {"bias": B}, GRADIENTS[:1])
    # d = 0.5 + 0.1, trust = 0.1 * 1 / 0.6, v = 2 * trust * d = 0.2
    np.testing.assert_allclose(after["bias"], [0.8], rtol=1e-6)


def test_arguments_out_of_range_are_refused():
    for value in (0, -1, float("inf")):  # 0 would count as a norm of 0, whose trust is 1
        with pytest.raises(ValueError, match=f"`trust_coefficient` must be positive.*={value}"):
            LARS(1.0, trust_coefficient=value)
    for name, value in [("momentum", 1.0), ("epsilon", -1)]:
        with pytest.raises(ValueError, match=f"`{name}` must be in .*{name}={value}"):
            LARS(1.0, **{name: value})
    with pytest.raises(ValueError, match="`rule` must be one of"):
        LARS(1.0, rule="new")
    with pytest.raises(ValueError, match="`weight_decay` must be in"):
        LARS(1.0, weight_decay=-0.1)
    with pytest.raises(TypeError, match="decay"):  # Keras would ignore it
        LARS(1.0, decay=0.1)
    assert isinstance(LARS(1.0), keras.optimizers.Optimizer)
