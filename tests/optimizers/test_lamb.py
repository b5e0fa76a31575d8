import keras
import numpy as np
import pytest

from keras_sharp.optimizers import LAMB

RATE, B1, B2, EPSILON = 0.1, 0.9, 0.999, 1e-6
W, B = np.array([[3.0, -1.0], [4.0, 2.0]]), np.array([1.0, -2.0])
GRADIENTS = [
    {"kernel": [[1.0, -2.0], [0.5, 0.1]], "bias": [0.5, 0.01]},
    {"kernel": [[-1.0, 0.2], [3.0, 0.1]], "bias": [-1.5, 0.02]},
    {"kernel": [[0.3, 0.4], [-0.5, 0.0]], "bias": [2.5, -1.0]},
]


def length(x):
    return np.sqrt(np.sum(x**2))


def adam(gradients):
    """Adam's directions for the gradients of one weight."""
    m = v = 0.0
    for t, gradient in enumerate(gradients, 1):
        g = np.array(gradient)
        m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
        yield m / (1 - B1**t) / (np.sqrt(v / (1 - B2**t)) + EPSILON)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_three_steps(walk, decay):
    path = walk(LAMB(RATE, weight_decay=decay or None), {"kernel": W, "bias": B}, GRADIENTS)
    w, b = W, B
    kernels, biases = adam(g["kernel"] for g in GRADIENTS), adam(g["bias"] for g in GRADIENTS)
    for weights, r, s in zip(path, kernels, biases, strict=True):
        u = r + decay * w
        w, b = w - RATE * length(w) / length(u) * u, b - RATE * s
        np.testing.assert_allclose(weights["kernel"], w, rtol=2e-6)
        np.testing.assert_allclose(weights["bias"], b, rtol=2e-6)


def test_the_first_step_in_numbers(walk):
    # Adam's first direction is the sign of the gradient: u = (1 + 0.3, -1 + 0.4) of length
    # sqrt(1.69 + 0.36) = 1.43178, ratio 5 / 1.43178 = 3.49216, step 0.349216 u.
    optimizer = LAMB(0.1, weight_decay=0.1)
    (after,) = walk(optimizer, {"kernel": [[3.0], [4.0]]}, [{"kernel": [[1.0], [-2.0]]}])
    np.testing.assert_allclose(after["kernel"], [[2.54602], [4.20953]], rtol=3e-6)
    # Keras decays to (2.97, 3.96) first; ratio 4.95 / sqrt(2).
    optimizer = keras.optimizers.Lamb(0.1, weight_decay=0.1)
    (after,) = walk(optimizer, {"kernel": [[3.0], [4.0]]}, [{"kernel": [[1.0], [-2.0]]}])
    np.testing.assert_allclose(after["kernel"], [[2.61998], [4.31002]], rtol=3e-5)


def test_without_decay_it_is_keras_s(walk):
    ours = walk(LAMB(RATE, epsilon=1e-7), {"kernel": W}, GRADIENTS)
    theirs = walk(keras.optimizers.Lamb(RATE, epsilon=1e-7), {"kernel": W}, GRADIENTS)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a["kernel"], b["kernel"], rtol=1e-4)


def test_phi_and_the_trust_are_clipped(walk):
    # The first direction is (1, -1) / (1 + 1e-6) of length sqrt(2), and |w| = 5.
    def first_step(**bounds):
        weights, gradient = {"kernel": [[3.0], [4.0]]}, {"kernel": [[1.0], [-2.0]]}
        return walk(LAMB(0.1, **bounds), weights, [gradient])[0]["kernel"][:, 0]

    for bounds, ratio in [
        ({"phi": (0, 2)}, 2 / np.sqrt(2)),
        ({"phi": (7, 10)}, 7 / np.sqrt(2)),
        ({"phi": (0, 10)}, 5 / np.sqrt(2)),
        ({"trust_bounds": (0.01, 3)}, 3),
        ({"trust_bounds": (4, 100)}, 4),
        ({"phi": (0, 2), "trust_bounds": (1.5, 100)}, 1.5),
    ]:
        expected = [3 - 0.1 * ratio, 4 + 0.1 * ratio]
        np.testing.assert_allclose(first_step(**bounds), expected, rtol=1e-6)


def test_the_clamped_variant(walk):
    # |w| = 50 is capped at 10; the bias has no ratio, and is decayed.
    optimizer = LAMB(
        0.1,
        epsilon=0.0,
        phi=(0, 10),
        trust_bounds=(0.01, 100),
        decay_bias_and_norm=True,
        weight_decay=0.01,
    )
    start = {"kernel": [[30.0], [40.0]], "bias": [2.0]}
    (after,) = walk(optimizer, start, [{"kernel": [[1.0], [-2.0]], "bias": [4.0]}])
    u = np.array([[1 + 0.3], [-1 + 0.4]])
    np.testing.assert_allclose(after["kernel"], [[30], [40]] - 0.1 * 10 / length(u) * u, rtol=1e-6)
    np.testing.assert_allclose(after["bias"], [2 - 0.1 * (1 + 0.02)], rtol=1e-6)


def test_a_norm_of_zero_makes_the_ratio_one(walk):
    (after,) = walk(LAMB(0.1), {"kernel": 0 * W}, [{"kernel": np.ones((2, 2))}])
    np.testing.assert_allclose(after["kernel"], np.full((2, 2), -0.1), rtol=1e-5)
    (after,) = walk(LAMB(0.1), {"kernel": W}, [{"kernel": 0 * W}])
    np.testing.assert_array_equal(after["kernel"], W)


def test_biases_have_a_ratio_when_asked_to(walk):
    optimizer = LAMB(0.1, adapt_bias_and_norm=True)
    (after,) = walk(optimizer, {"bias": [3.0, 4.0]}, [{"bias": [1.0, -2.0]}])
    ratio = 5 / np.sqrt(2)
    np.testing.assert_allclose(after["bias"], [3 - 0.1 * ratio, 4 + 0.1 * ratio], rtol=1e-6)


def test_arguments_out_of_range_are_refused():
    for name, value in [("beta_1", 1.0), ("beta_2", -0.1), ("epsilon", -1)]:
        with pytest.raises(ValueError, match=f"`{name}` must be in .*{name}={value}"):
            LAMB(0.1, **{name: value})
    for name, value in [("phi", (2, 1)), ("trust_bounds", (1,)), ("phi", (-1, 1))]:
        with pytest.raises(ValueError, match=f"`{name}` must be None or"):
            LAMB(0.1, **{name: value})
