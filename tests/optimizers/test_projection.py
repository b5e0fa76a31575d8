"""AdamP and SGDP."""

import contextlib

import keras
import numpy as np
import pytest

from keras_sharp.optimizers import SGDP, AdamP

RATE, B1, B2, EPSILON = 0.1, 0.9, 0.999, 1e-8
# Rows are inputs, columns are output channels.
W = np.array([[3.0, 1.0], [4.0, -1.0], [0.0, 2.0]])
# Orthogonal to W in each channel; as a whole alone; not at all.
BY_CHANNEL = np.array([[4.0, 2.0], [-3.0, 2.0], [7.0, 0.0]])
BY_TENSOR = np.array([[0.6, -1.0], [0.8, 1.0], [0.0, -1.5]])
NEITHER = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
GRADIENTS = [BY_CHANNEL, BY_TENSOR, NEITHER]


def projected(p, w, g, delta=0.1):
    """The paper's projection, written for a single tensor of shape (inputs, channels)."""
    for views in ([(slice(None), c) for c in range(w.shape[1])], [(slice(None), slice(None))]):
        cosines = [
            abs(np.sum(g[i] * w[i])) / np.sqrt(np.sum(g[i] ** 2) * np.sum(w[i] ** 2)) for i in views
        ]
        if max(cosines) < delta / np.sqrt(w[views[0]].size):
            p = p.copy()
            for i in views:
                p[i] -= w[i] * np.sum(w[i] * p[i]) / np.sum(w[i] ** 2)
            return p, 0.1
    return p, 1.0


def test_the_gradients_are_what_they_are_called():
    assert np.sum(W * BY_CHANNEL, axis=0) == pytest.approx([0, 0])
    assert np.sum(W * BY_TENSOR, axis=0) == pytest.approx([5, -5])
    assert [projected(W, W, g)[1] for g in GRADIENTS] == [0.1, 0.1, 1.0]


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("order", [[0, 1, 2], [1, 2, 0], [2, 0, 1]])
def test_three_steps_of_adamp(walk, order, decay):
    gradients = [{"kernel": GRADIENTS[i], "bias": [0.5, i]} for i in order]
    start = {"kernel": W, "bias": [1.0, -2.0]}
    path = walk(AdamP(RATE, weight_decay=decay or None), start, gradients)
    for name, first in start.items():
        w, m, v = np.array(first), 0.0, 0.0
        for t, (weights, gradient) in enumerate(zip(path, gradients, strict=True), 1):
            g = np.array(gradient[name])
            m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
            p, ratio = m / (1 - B1**t) / (np.sqrt(v / (1 - B2**t)) + EPSILON), 0.0
            if name == "kernel":
                p, ratio = projected(p, w, g)
            w = w * (1 - RATE * decay * ratio) - RATE * p
            np.testing.assert_allclose(weights[name], w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("order", [[0, 1, 2], [1, 2, 0], [2, 0, 1]])
def test_three_steps_of_sgdp(walk, order, nesterov, decay):
    gradients = [{"kernel": GRADIENTS[i], "bias": [0.5, i]} for i in order]
    start = {"kernel": W, "bias": [1.0, -2.0]}
    path = walk(SGDP(RATE, 0.9, nesterov, weight_decay=decay or None), start, gradients)
    for name, first in start.items():
        w, v = np.array(first), 0.0
        for weights, gradient in zip(path, gradients, strict=True):
            g = np.array(gradient[name])
            v = 0.9 * v + g
            p, ratio = 0.9 * v + g if nesterov else v, 0.0
            if name == "kernel":
                p, ratio = projected(p, w, g)
            w = w * (1 - RATE * decay * ratio / (1 - 0.9)) - RATE * p
            np.testing.assert_allclose(weights[name], w, rtol=1e-5, atol=1e-6)


def test_the_channels_are_those_of_the_last_axis(walk):
    # The first step of SGDP has p = g + (a part along w), which must be gone channel by channel.
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 4))
    g = np.random.default_rng(1).normal(size=kernel.shape)
    channels = (0, 1, 2)
    g -= kernel * np.sum(g * kernel, channels) / np.sum(kernel**2, channels)
    optimizer = SGDP(1.0, momentum=0.5)
    along = g + 1e-3 * kernel  # still far below the threshold
    (after,) = walk(optimizer, {"kernel": kernel}, [{"kernel": along}])
    np.testing.assert_allclose(after["kernel"], kernel - g, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("path", "shape", "within"),
    [
        (("my_dw", "depthwise_kernel"), (3, 3, 4, 1), (0, 1)),  # of SeparableConv2D
        (("depthwise_conv2d_1", "kernel"), (3, 3, 2, 2), (0, 1)),
        (("block1a_dwconv", "kernel"), (3, 4, 1), 0),
        (("depthwise_block", "conv", "kernel"), (3, 3, 4, 1), (0, 1, 2)),  # of that name, but dense
        (("attention", "query", "kernel"), (6, 2, 3), 0),
        (("attention", "attention_output", "kernel"), (2, 3, 6), (0, 1)),
        (("embedding", "embeddings"), (5, 4), 1),
    ],
)
def test_the_channels_of_other_kernels(path, shape, within):
    rng = np.random.default_rng(0)
    kernel, g = rng.normal(size=shape), rng.normal(size=shape)
    squares = np.sum(kernel**2, within, keepdims=True)
    g -= kernel * np.sum(g * kernel, within, keepdims=True) / squares
    # Of each channel as much along its weights as of no other, which must be gone.
    along = g + 1e-3 * rng.normal(size=squares.shape) * kernel
    with contextlib.ExitStack() as scopes:
        for layer in path[:-1]:
            scopes.enter_context(keras.name_scope(layer))
        variable = keras.Variable(kernel, dtype="float64", name=path[-1])
    SGDP(1.0, momentum=0.5).apply([along], [variable])
    np.testing.assert_allclose(variable.numpy(), kernel - g, atol=1e-9)


def test_a_step_orthogonal_to_the_weights_is_not_changed(walk):
    path = walk(SGDP(RATE, momentum=0.0), {"kernel": W}, [{"kernel": BY_CHANNEL}])
    np.testing.assert_allclose(path[0]["kernel"], W - RATE * BY_CHANNEL, rtol=1e-6, atol=1e-6)


def test_delta_zero_is_the_optimizer_without_projection(walk):
    gradients = [{"kernel": g} for g in GRADIENTS]
    ours = walk(SGDP(RATE, 0.9, delta=0.0), {"kernel": W}, gradients)
    theirs = walk(keras.optimizers.SGD(RATE, 0.9), {"kernel": W}, gradients)
    np.testing.assert_allclose(ours[-1]["kernel"], theirs[-1]["kernel"], rtol=1e-5)
    ours = walk(AdamP(RATE, epsilon=1e-7, delta=0.0), {"kernel": W}, gradients)
    theirs = walk(keras.optimizers.Adam(RATE, epsilon=1e-7), {"kernel": W}, gradients)
    np.testing.assert_allclose(ours[-1]["kernel"], theirs[-1]["kernel"], rtol=1e-4)


def test_weights_or_gradients_of_zero_are_no_harm(walk):
    for optimizer in (SGDP, AdamP):
        for weights, gradient in [(0 * W, BY_CHANNEL), (W, 0 * W), (0 * W, 0 * W)]:
            (after,) = walk(optimizer(RATE), {"kernel": weights}, [{"kernel": gradient}])
            assert np.isfinite(after["kernel"]).all()


def test_arguments_out_of_range_are_refused():
    for optimizer, name, value in [(SGDP, "momentum", 1.0), (AdamP, "beta_1", 1.0)]:
        with pytest.raises(ValueError, match=f"`{name}` must be in .*{name}={value}"):
            optimizer(0.1, **{name: value})
    for optimizer in (SGDP, AdamP):
        for name in ("delta", "wd_ratio", "epsilon"):
            with pytest.raises(ValueError, match=f"`{name}` must be in .*{name}=-1"):
                optimizer(0.1, **{name: -1})
