"""A step without its part along the weights, where only their direction matters."""

import math
import re

import keras
import tensorflow as tf
from keras import ops

# Kernels that have channels along more than the last axis, by their paths: depthwise ones, as Keras
# names them and the layers of its applications, and those of attention, (inputs, heads, size).
_TWO_AXES = re.compile(
    r"(depthwise|dwconv|conv_dw)[^/]*(/kernel)?$|/(query|key|value|gate)/kernel$"
)


def channel_axes(variable: keras.Variable) -> tuple[int, ...]:
    """Returns the axes that count the output channels of a weight.

    The last one; the last two of depthwise kernels, `(..., inputs, multiplier)`, and of the kernels
    that attention makes queries, keys and values with; the first one of embeddings, which have a
    channel for each token.

    An optimizer sees weights, not layers, so the path of a weight tells: the last layer in it must
    have a name with `depthwise`, `dwconv` or `conv_dw`, as Keras's own have.
    """
    if variable.name == "embeddings":
        return (0,)
    several = len(variable.shape) > 2 and _TWO_AXES.search(variable.path)
    return (-2, -1) if several else (-1,)


def project(
    step: tf.Tensor,
    weights: tf.Tensor,
    gradient: tf.Tensor,
    channels: tuple[int, ...],
    decay: float,
    delta: float,
    wd_ratio: float,
    epsilon: float,
) -> tf.Tensor:
    """Removes the part of a step that only makes scale-invariant weights longer, and decays them.

    The gradient of a function that does not depend on the length of `w` is orthogonal to it. So
    where `max_i |cos(g_i, w_i)| < delta / sqrt(dim w_i)`, the step `p` becomes

        p_i - w_i (w_i . p_i) / |w_i|^2 + wd_ratio decay w_i

    and `p_i + decay w_i` elsewhere. The test is made with `w_i` the weights of one output channel,
    and if it fails, with all weights of the tensor at once.

    Args:
        step: `p`, of the shape of the weights.
        weights: `w`.
        gradient: `g`, of the shape of the weights.
        channels: The axes that count output channels, see `channel_axes`.
        decay: What the step takes of the weights.
        delta: The threshold.
        wd_ratio: What is left of the decay where the step is projected.
        epsilon: Added to the norms.

    Returns:
        The step to subtract.
    """
    shape = weights.shape
    kept = {axis % len(shape) for axis in channels}
    axes = [axis for axis in range(len(shape)) if axis not in kept]
    pairs = ((gradient, weights), (gradient, gradient), (weights, weights), (weights, step))
    of_channels = [ops.sum(a * b, axes) for a, b in pairs]
    of_tensor = [ops.sum(total) for total in of_channels]

    def view(totals: list[tf.Tensor], size: int) -> tuple[tf.Tensor, tf.Tensor]:
        dot, square_g, square_w, along = totals
        norm_g, norm_w = ops.sqrt(square_g) + epsilon, ops.sqrt(square_w) + epsilon
        cosine = ops.max(ops.abs(dot) / (norm_g * norm_w))
        return cosine < delta / math.sqrt(size), along / ops.square(norm_w) - wd_ratio * decay

    by_channel, channel_share = view(of_channels, math.prod(shape[axis] for axis in axes))
    by_tensor, tensor_share = view(of_tensor, math.prod(shape))
    channel_share = ops.expand_dims(channel_share, axes)
    share = ops.where(by_channel, channel_share, ops.where(by_tensor, tensor_share, -decay))
    return step - weights * share
