"""Directions in weight space whose length is that of the weights, filter by filter."""

from collections.abc import Iterator

import keras
import numpy as np

from keras_sharp.arguments import integer
from keras_sharp.weights import FlatWeights

# Scale and shift of normalisation layers and biases, which have no filters whatever their rank:
# those of GRU and of attention have two axes.
_NO_FILTERS = ("bias", "gamma", "beta", "scale")


def random_directions(model: keras.Model, count: int = 2, *, seed: int = 0) -> np.ndarray:
    """Returns filter-normalised directions with N(0, 1) entries.

    Args:
        model: A built Keras model.
        count: Number of directions.
        seed: Seed of the entries.

    Returns:
        `(n, count)` float64.

    Raises:
        ValueError: For arguments out of range and a model whose filters are all zero.

    References:
        - [Li et al., 2018](https://arxiv.org/abs/1712.09913), section 4.
    """
    count, seed = integer("count", count), integer("seed", seed, least=0)
    random = np.random.default_rng(seed)
    n = FlatWeights(model).size
    return np.stack([filter_normalized(random.normal(size=n), model) for _ in range(count)], axis=1)


def filter_normalized(direction: np.ndarray, model: keras.Model) -> np.ndarray:
    """Returns a direction with each filter as long as the model's own: `d_f |w_f| / |d_f|`.

    A filter is what feeds one output unit: of the kernels of Dense, convolutional and recurrent
    layers one index of the last axis (in PyTorch of the first), of depthwise kernels one of the
    last two, of transposed convolutions one of the last but one, of EinsumDense and attention one
    of all output axes. Of an Embedding it is the row of one token. Biases, scales and shifts of
    normalisation layers, and everything else of rank 1, are 0.

    Args:
        direction: `(n,)`, in the order of `model.trainable_variables`.
        model: A built Keras model.

    Returns:
        `(n,)` float64.

    Raises:
        ValueError: If the direction is of another size, not finite, or the result is 0.
    """
    flat = FlatWeights(model)
    direction = np.asarray(direction, np.float64)
    if direction.shape != (flat.size,) or not np.all(np.isfinite(direction)):
        raise ValueError(
            f"`direction` must be finite and have shape ({flat.size},). Received: "
            f"shape {direction.shape}"
        )
    weights, pieces, start = flat.read(), [], 0
    axes = dict(_filter_axes(model))
    for variable, shape in zip(model.trainable_variables, flat.shapes, strict=True):
        stop = start + int(np.prod(shape))
        w, d = (vector[start:stop].reshape(shape) for vector in (weights, direction))
        pieces.append(_normalized(d, w, axes.get(id(variable), (-1,)), variable.name).ravel())
        start = stop
    result = np.concatenate(pieces)
    if not np.any(result):
        raise ValueError(
            "A filter-normalised direction must not be 0: the model has no kernel that is not 0 "
            f"where the direction is not. Received: {model.name!r}"
        )
    return result


def _normalized(d: np.ndarray, w: np.ndarray, axes: tuple[int, ...], name: str) -> np.ndarray:
    if w.ndim <= 1 or name in _NO_FILTERS:
        return np.zeros(w.shape)
    kept = {axis % w.ndim for axis in axes}
    within = tuple(axis for axis in range(w.ndim) if axis not in kept)
    wanted, length = (np.sqrt(np.sum(v**2, axis=within, keepdims=True)) for v in (w, d))
    return d * np.divide(wanted, length, out=np.zeros_like(length), where=length > 0)


def _filter_axes(model: keras.Model) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yields the `id` of each kernel whose filters are not along its last axis, and their axes."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.DepthwiseConv1D | keras.layers.DepthwiseConv2D):
            yield id(layer.kernel), (-2, -1)
        elif isinstance(layer, keras.layers.SeparableConv1D | keras.layers.SeparableConv2D):
            yield id(layer.depthwise_kernel), (-2, -1)
        elif isinstance(layer, _TRANSPOSED):
            yield id(layer.kernel), (-2,)
        elif isinstance(layer, keras.layers.Embedding):
            yield id(layer.embeddings), (0,)
        elif isinstance(layer, keras.layers.EinsumDense):
            # "abc,cde->abde": d and e, of the kernel's axes, are those of the output.
            kernel, output = layer.equation.partition(",")[2].split("->")
            yield (
                id(layer.kernel),
                tuple(i for i, letter in enumerate(kernel) if letter in output),
            )


_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
