import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp.rl.episodic_lstm import EpisodicLSTM
from keras_sharp.rl.fixup import FixupBlock, SqueezeExcitation
from keras_sharp.rl.navigation_policy import DepthChannels, NavigationPolicy

TINY = {"size": 8, "width": 2, "hidden": 6, "units": 5, "layers": 2}


def observations(policy, environments=2, steps=6, seed=0):
    rng = np.random.default_rng(seed)
    previous = rng.integers(1, 5, (environments, steps))
    previous[0, 3] = 0
    return {
        "depth": rng.random((environments, steps, 8, 8, 1), "float32"),
        "goal": rng.normal(size=(environments, steps, 2)).astype("float32"),
        "previous": previous,
        "memory": rng.normal(size=(environments, 2, 2, 5)).astype("float32"),
    }


def part(seen, steps, memory):
    return {name: each[:, steps] for name, each in seen.items()} | {"memory": memory}


def relu(x):
    return np.maximum(x, 0)


def test_the_paper_s_shapes():
    policy = NavigationPolicy()
    shapes = [tuple(layer.output.shape[1:]) for layer in policy.vision.layers]
    assert shapes[:7] == [
        (16, 16, 176),
        (16, 16, 64),
        (16, 16, 64),
        (8, 8, 128),
        (4, 4, 256),
        (2, 2, 512),
        (2, 2, 256),
    ]
    assert shapes[7] == (1024,) and shapes[8:] == [(512,)] * 3
    assert [each.kernel.shape for each in policy.recurrent] == [(576, 2048), (512, 2048)]
    np.testing.assert_allclose(np.linalg.norm(policy.logits.kernel, axis=0), 0.01, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(policy.value.kernel), 0.1, rtol=1e-5)
    with pytest.raises(ValueError, match="`size` must be a multiple of 4"):
        NavigationPolicy(30)


@pytest.mark.parametrize(
    ("size", "sides"), [(8, [2, 2, 2, 2]), (32, [8, 4, 2, 2]), (48, [12, 6, 3, 2])]
)
def test_of_small_images_2x2_places_are_left(size, sides):
    policy = NavigationPolicy(size, width=1, hidden=4, units=4, layers=1)
    blocks = [each for each in policy.vision.layers if isinstance(each, FixupBlock)]
    assert [each.output.shape[1] for each in blocks] == sides


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_sequences_may_be_cut_and_episodes_are_apart(precision, tmp_path):
    policy = NavigationPolicy(**TINY, dtype=precision)
    seen = observations(policy)
    logits, values, memory = policy(seen)
    assert logits.shape == (2, 6, 4) and values.shape == (2, 6) and memory.shape == (2, 2, 2, 5)
    assert {each.dtype for each in (logits, values, memory)} == {tf.float32}
    close = {"rtol": 1e-5, "atol": 1e-6} if precision == "float32" else {"atol": 0.02}
    # Cut anywhere, with the memory handed on:
    first = policy(part(seen, slice(0, 2), seen["memory"]))
    second = policy(part(seen, slice(2, 6), first[2]))
    np.testing.assert_allclose(np.concatenate([first[1], second[1]], axis=1), values, **close)
    np.testing.assert_allclose(second[2], memory, **close)
    # The first environment begins anew with step 3, and remembers nothing; the second does.
    anew = policy(part(seen, slice(3, 6), policy.forget(2)))
    np.testing.assert_allclose(anew[0][0], logits[0, 3:], **close)
    assert np.abs(anew[2][1] - memory[1]).max() > 0.03
    # What the first saw before does not matter to it.
    np.testing.assert_allclose(anew[2][0], memory[0], **close)
    policy.save(tmp_path / "policy.keras")
    loaded = keras.saving.load_model(tmp_path / "policy.keras")
    np.testing.assert_array_equal(loaded(seen)[0], logits)


def test_without_beginnings_it_is_keras_s_lstm():
    rng = np.random.default_rng(0)
    x, state = rng.normal(size=(3, 4, 2)), rng.normal(size=(3, 2, 5))
    x, state = x.astype("float32"), state.astype("float32")
    theirs = keras.layers.LSTM(5, return_sequences=True, return_state=True)
    outputs, *last = theirs(x, initial_state=[state[:, 0], state[:, 1]])
    ours = EpisodicLSTM(5)
    seen = x, np.zeros((3, 4), bool), state
    ours(seen)  # builds it
    ours.set_weights(theirs.get_weights())
    found, after = ours(seen)
    np.testing.assert_allclose(found, outputs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after, np.stack(last, axis=1), rtol=1e-5, atol=1e-6)


def test_a_block_is_its_skip_path_at_first():
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")
    np.testing.assert_array_equal(FixupBlock(3, 4)(x), relu(x))
    wider = FixupBlock(5, 4, stride=2)
    found = wider(x)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    means = windows[:, ::2, ::2].mean(axis=(-1, -2))
    expected = relu(means @ wider.conv_skip.kernel.numpy()[0, 0])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    # conv1 begins with a variance of 2 / (9 filters L).
    start = FixupBlock(64, 4)
    start.build((None, 4, 4, 64))
    assert np.var(start.conv1.kernel) == pytest.approx(2 / (9 * 64 * 4), rel=0.05)


def test_a_block_by_hand():
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 2)).astype("float32")
    block = FixupBlock(2, 4)
    block.build(x.shape)
    for convolution, factor in ((block.conv1, 2.0), (block.conv2, 3.0)):
        kernel = np.zeros((3, 3, 2, 2))
        kernel[1, 1] = factor * np.eye(2)
        convolution.kernel.assign(kernel)
    numbers = {"bias1a": 0.1, "bias1b": 0.2, "bias2a": 0.3, "bias2b": 0.4, "scale": 0.5}
    for name, number in numbers.items():
        getattr(block, name).assign([number])
    h = 3 * (relu(2 * (x + 0.1) + 0.2) + 0.3) * 0.5 + 0.4
    excitation = block.excitation
    between = relu(h.mean(axis=(1, 2)) @ excitation.squeeze.kernel.numpy())
    weights = 1 / (1 + np.exp(-between @ excitation.excite.kernel.numpy()))
    np.testing.assert_allclose(block(x), relu(h * weights[:, None, None] + x), rtol=1e-5, atol=1e-6)


def test_depth_becomes_bins_and_patches():
    depth = np.zeros((1, 8, 4, 1), "float32")
    depth[0, 5, 2] = 0.37
    depth[0, 7, 3] = 1.0
    found = DepthChannels()(depth).numpy().reshape(2, 4, 4, 11)  # patches, rows, columns
    expected = np.zeros((2, 4, 4, 11))
    expected[:, :, :, 1] = 1
    expected[1, 1, 2] = [0.37, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    expected[1, 3, 3] = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_every_layer_is_saved_and_loaded(tmp_path):
    depth, begins = keras.Input((8, 8, 1)), keras.Input((None,), dtype="bool")
    state = keras.Input((2, 5))
    x = DepthChannels()(depth)
    x = FixupBlock(4, 3, stride=2)(x)
    x = SqueezeExcitation(2)(x)
    x, after = EpisodicLSTM(5)((keras.layers.Reshape((1, 4))(x), begins, state))
    assert x.shape == (None, 1, 5) and after.shape == (None, 2, 5)
    model = keras.Model([depth, begins, state], [x, after])
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=each.shape) for each in model.get_weights()])
    model.save(tmp_path / "layers.keras")
    loaded = keras.saving.load_model(tmp_path / "layers.keras")
    seen = rng.random((3, 8, 8, 1)), np.array([[True], [False], [False]]), rng.random((3, 2, 5))
    for found, expected in zip(loaded(seen), model(seen), strict=True):
        np.testing.assert_array_equal(found, expected)
    block = next(each for each in loaded.layers if isinstance(each, FixupBlock))
    assert (block.filters, block.blocks, block.stride) == (4, 3, 2)
    weigh = next(each for each in loaded.layers if isinstance(each, SqueezeExcitation))
    assert weigh.reduction == 2
