"""Filter normalisation by hand, for every kind of kernel."""

import keras
import numpy as np
import pytest

from keras_sharp import Objective
from keras_sharp.landscape import filter_normalized, random_directions

L = keras.layers


def filled(model):
    """Gives every weight of the model, biases too, something to be normalised by."""
    random = np.random.default_rng(5)
    for variable in model.trainable_variables:
        variable.assign(random.normal(size=variable.shape))
    return model


def pieces(model, direction):
    start = 0
    for variable in model.trainable_variables:
        stop = start + int(np.prod(variable.shape))
        yield variable, direction[start:stop].reshape(variable.shape)
        start = stop


def size_of(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


@pytest.mark.parametrize(
    ("shape", "layer", "name", "filters"),
    [
        ((4,), L.Dense(3), "kernel", "io->o"),
        ((6, 6, 2), L.Conv2D(3, 2), "kernel", "hwio->o"),
        ((6, 6, 2), L.DepthwiseConv2D(3, depth_multiplier=2), "kernel", "hwim->im"),
        ((6, 2), L.SeparableConv1D(3, 2), "depthwise_kernel", "him->im"),
        ((6, 2), L.SeparableConv1D(3, 2), "pointwise_kernel", "hio->o"),
        ((6, 6, 2), L.Conv2DTranspose(3, 2), "kernel", "hwoi->o"),
        ((5,), L.Embedding(7, 2), "embeddings", "te->t"),
        ((3, 4), L.EinsumDense("abc,cde->abde", (None, 2, 5)), "kernel", "cde->de"),
        ((3, 2, 5), L.EinsumDense("abde,dec->abc", (None, 4)), "kernel", "dec->c"),
        ((3, 2), L.GRU(4), "recurrent_kernel", "io->o"),
    ],
)
def test_each_filter_is_as_long_as_the_model_s(shape, layer, name, filters):
    model = filled(keras.Sequential([keras.Input(shape), layer]))
    start = np.random.default_rng(0).normal(size=size_of(model))
    result = filter_normalized(start, model)
    original = {v.name: d for v, d in pieces(model, start)}
    found = {v.name: (v.numpy(), d) for v, d in pieces(model, result)}
    w, d = found[name]
    of_filters = [np.einsum(filters, each.astype("f8") ** 2) for each in (w, d, original[name])]
    np.testing.assert_allclose(of_filters[1], of_filters[0], rtol=1e-6)
    # Within a filter nothing but the length changes.
    ratio = (d / original[name]) ** 2
    letters, out = filters.split("->")
    expanded = np.einsum(f"{out},{letters}->{letters}", of_filters[0] / of_filters[2], 1 + 0 * d)
    np.testing.assert_allclose(ratio, expanded, rtol=1e-6)
    for other in ("bias", "gamma", "beta"):
        if other in found:
            np.testing.assert_array_equal(found[other][1], 0)


def test_dense_by_hand():
    model = keras.Sequential([keras.Input((2,)), L.Dense(2)])
    model.set_weights([np.array([[3.0, 0.0], [4.0, 2.0]]), np.array([9.0, 9.0])])
    # Columns (3, 4) and (0, 2) of lengths 5 and 2; the direction's are (1, 0) and (3, 4).
    result = filter_normalized(np.array([1.0, 3.0, 0.0, 4.0, 7.0, 7.0]), model)
    np.testing.assert_allclose(result, [5.0, 1.2, 0.0, 1.6, 0.0, 0.0], rtol=1e-12)


def test_a_filter_that_is_zero_stays_zero():
    model = keras.Sequential([keras.Input((2,)), L.Dense(2, use_bias=False)])
    model.set_weights([np.array([[3.0, 0.0], [4.0, 0.0]])])
    np.testing.assert_array_equal(filter_normalized(np.ones(4), model)[[1, 3]], 0)


def test_a_direction_that_is_zero_in_a_filter_stays_so():
    model = keras.Sequential([keras.Input((2,)), L.Dense(2, use_bias=False)])
    model.set_weights([np.array([[3.0, 1.0], [4.0, 1.0]])])
    result = filter_normalized(np.array([0.0, 1.0, 0.0, 1.0]), model)
    np.testing.assert_allclose(result, [0, 1, 0, 1], rtol=1e-12)


def test_attention_and_normalization_have_no_bias_directions():
    inputs = keras.Input((3, 4))
    hidden = L.MultiHeadAttention(2, 3)(inputs, inputs)
    model = filled(keras.Model(inputs, L.LayerNormalization(axis=(1, 2))(hidden)))
    for variable, piece in pieces(model, random_directions(model, 1)[:, 0]):
        assert np.any(piece) == (variable.name == "kernel"), variable.path


def test_a_rescaled_layer_rescales_its_directions():
    model = filled(keras.Sequential([keras.Input((4,)), L.Dense(3), L.Dense(2)]))
    before = random_directions(model, seed=3)
    model.layers[0].kernel.assign(10 * model.layers[0].kernel)
    after = random_directions(model, seed=3)
    kernel = Objective(model, (np.ones((2, 4)), np.ones((2, 2))), "mse").segments[
        model.layers[0].kernel.path
    ]
    np.testing.assert_allclose(after[kernel], 10 * before[kernel], rtol=1e-6)
    np.testing.assert_array_equal(np.delete(after, kernel, 0), np.delete(before, kernel, 0))


def test_the_seed_decides():
    model = filled(keras.Sequential([keras.Input((4,)), L.Dense(3)]))
    one, again, other = (random_directions(model, seed=seed) for seed in (1, 1, 2))
    assert one.shape == (15, 2)
    np.testing.assert_array_equal(one, again)
    assert not np.any(one[:12] == other[:12]) and not np.any(one[:12, 0] == one[:12, 1])


def test_what_cannot_be_a_direction_is_refused():
    model = filled(keras.Sequential([keras.Input((4,)), L.Dense(3)]))
    with pytest.raises(ValueError, match=r"shape \(15,\)"):
        filter_normalized(np.ones(14), model)
    with pytest.raises(ValueError, match="finite"):
        filter_normalized(np.full(15, np.nan), model)
    model.layers[0].kernel.assign(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="must not be 0"):
        random_directions(model)
