import numpy as np
import pytest
import tensorflow as tf
from keras import Variable

from keras_sharp.optimizers import SNGM
from keras_sharp.training.divergence import skipped_steps_reported

ETA, BETA = 0.1, 0.9
START = {"kernel": [[3.0], [4.0]], "bias": [1.0]}
# Of lengths 3, 7 and 11 over both weights together.
GRADIENTS = [
    {"kernel": [[1.0], [2.0]], "bias": [2.0]},
    {"kernel": [[2.0], [-3.0]], "bias": [6.0]},
    {"kernel": [[-6.0], [2.0]], "bias": [9.0]},
]
LENGTHS = [3, 7, 11]


def flat(weights):
    return np.concatenate([np.ravel(weights["kernel"]), np.ravel(weights["bias"])]).astype(float)


def moves(path):
    return np.diff([flat(START), *map(flat, path)], axis=0)


def test_three_steps(walk):
    path = walk(SNGM(ETA, BETA), START, GRADIENTS)
    w, u = flat(START), 0.0
    for weights, gradient, size in zip(path, GRADIENTS, LENGTHS, strict=True):
        u = BETA * u + flat(gradient) / size
        w = w - ETA * u
        np.testing.assert_allclose(flat(weights), w, rtol=1e-6)


def test_three_steps_with_decay_of_kernels_in_the_norm(walk):
    path = walk(SNGM(ETA, BETA, weight_decay=0.1), START, GRADIENTS)
    w, u = flat(START), 0.0
    for weights, gradient in zip(path, GRADIENTS, strict=True):
        g = flat(gradient) + 0.1 * w * [1, 1, 0]
        u = BETA * u + g / np.sqrt(np.sum(g**2))
        w = w - ETA * u
        np.testing.assert_allclose(flat(weights), w, rtol=1e-6)


def test_three_steps_with_decoupled_decay_of_all(walk):
    optimizer = SNGM(
        ETA, BETA, weight_decay=0.1, decoupled_weight_decay=True, decay_bias_and_norm=True
    )
    w, u = flat(START), 0.0
    for weights, gradient, size in zip(
        walk(optimizer, START, GRADIENTS), GRADIENTS, LENGTHS, strict=True
    ):
        u = BETA * u + flat(gradient) / size
        w = w - ETA * 0.1 * w - ETA * u
        np.testing.assert_allclose(flat(weights), w, rtol=1e-6)


def test_without_momentum_every_step_has_length_eta(walk):
    lengths = np.linalg.norm(moves(walk(SNGM(ETA, 0.0), START, GRADIENTS)), axis=1)
    np.testing.assert_allclose(lengths, ETA, rtol=1e-5)


def test_a_constant_direction_reaches_eta_over_one_minus_beta(walk):
    gradients = [{"kernel": [[1.0], [2.0]], "bias": [2.0]}] * 200
    lengths = np.linalg.norm(moves(walk(SNGM(ETA, BETA), START, gradients)), axis=1)
    # The weights have moved to about 100, with steps of 1e-5 between two numbers of that size.
    np.testing.assert_allclose(lengths[-1], ETA / (1 - BETA), rtol=1e-4)
    assert (lengths <= ETA / (1 - BETA) * (1 + 1e-4)).all()


def test_the_units_of_the_loss_do_not_matter(walk):
    times = [{name: 1000 * np.array(g) for name, g in each.items()} for each in GRADIENTS]
    path = walk(SNGM(ETA, BETA), START, GRADIENTS)
    for weights, expected in zip(walk(SNGM(ETA, BETA), START, times), path, strict=True):
        np.testing.assert_allclose(flat(weights), flat(expected), rtol=1e-6)


def test_two_tensors_step_as_their_concatenation(walk):
    # Both flat and named like biases, so that they differ in nothing else.
    whole = walk(SNGM(ETA, BETA), {"a": flat(START)}, [{"a": flat(g)} for g in GRADIENTS])
    parts = walk(SNGM(ETA, BETA), START, GRADIENTS)
    for weights, expected in zip(parts, whole, strict=True):
        np.testing.assert_allclose(flat(weights), expected["a"], rtol=1e-6)


def test_per_tensor_divides_by_each_norm(walk):
    (after,) = walk(SNGM(ETA, BETA, per_tensor=True), START, GRADIENTS[:1])
    root = np.sqrt(5)
    np.testing.assert_allclose(
        flat(after), [3 - ETA / root, 4 - ETA * 2 / root, 1 - ETA], rtol=1e-6
    )


def test_a_gradient_of_zero_leaves_the_momentum_to_decay(walk):
    zero = {"kernel": [[0.0], [0.0]], "bias": [0.0]}
    first, second = moves(walk(SNGM(ETA, BETA), START, [GRADIENTS[0], zero]))
    np.testing.assert_allclose(second, BETA * first, rtol=1e-5)
    (still,) = walk(SNGM(ETA, BETA), START, [zero])
    np.testing.assert_array_equal(flat(still), flat(START))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("options", [{}, {"per_tensor": True}, {"decoupled_weight_decay": True}])
def test_a_step_that_is_not_finite_is_left_out_and_counted(walk, bad, options):
    optimizer, reference = (SNGM(ETA, BETA, weight_decay=0.1, **options) for _ in range(2))
    broken = {"kernel": [[1.0], [bad]], "bias": [2.0]}
    with pytest.warns(UserWarning, match="SNGM left out 1 of its steps"):  # as `Trainer` does
        with skipped_steps_reported(optimizer):
            path = walk(optimizer, START, [GRADIENTS[0], broken, GRADIENTS[1]])
    np.testing.assert_array_equal(flat(path[1]), flat(path[0]))
    with skipped_steps_reported(reference):  # a warning is an error
        expected = walk(reference, START, GRADIENTS[:2])
    np.testing.assert_array_equal(flat(path[2]), flat(expected[1]))
    assert optimizer.skipped_steps.numpy() == 1
    assert reference.skipped_steps.numpy() == 0


def test_weights_without_gradient_stay_out(walk):
    optimizer = SNGM(ETA, BETA, weight_decay=0.1)
    a, b = Variable([[3.0], [4.0]], name="a"), Variable([[100.0]], name="b")
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([tf.constant([[0.3], [-0.4]]), None], [a, b])
    # d = (0.3 + 0.3, -0.4 + 0.4), of length 0.6
    np.testing.assert_allclose(a.numpy(), [[2.9], [4.0]], rtol=1e-6)
    np.testing.assert_array_equal(b.numpy(), [[100.0]])


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_the_mean_gradient_norm_is_within_its_bound(beta):
    # On F = sum_i c_i w_i^2 / 2, smooth with L = max c, without noise:
    # mean |grad F| <= (1 - beta) F(w_0) / (eta T) + L eta (1 + beta) / (2 (1 - beta)^2)
    curvature, eta, steps = np.array([1.0, 4.0, 10.0]), 0.01, 400
    w = Variable([1.0, -2.0, 1.5], name="w")
    optimizer = SNGM(eta, beta)
    first, norms = 0.5 * np.sum(curvature * w.numpy() ** 2), []
    for _ in range(steps):
        gradient = curvature * w.numpy()
        norms.append(np.linalg.norm(gradient))
        optimizer.apply([tf.constant(gradient, "float32")], [w])
    bound = (1 - beta) * first / (eta * steps)
    bound += 10 * eta * (1 + beta) / (2 * (1 - beta) ** 2)
    assert np.mean(norms) <= bound
    # The bound says something here: the first step's norm exceeds it, but for the largest beta.
    assert beta == 0.9 or norms[0] > bound


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="`momentum` must be in .*momentum=1.0"):
        SNGM(0.1, momentum=1.0)
