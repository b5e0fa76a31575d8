"""A step without its part along the weights, where only their direction matters."""

import math

import tensorflow as tf
from keras import ops


def project(
    step: tf.Tensor,
    weights: tf.Tensor,
    gradient: tf.Tensor,
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
        step: `(..., channels)`, `p`.
        weights: `(..., channels)`, `w`.
        gradient: `(..., channels)`, `g`.
        decay: What the step takes of the weights.
        delta: The threshold.
        wd_ratio: What is left of the decay where the step is projected.
        epsilon: Added to the norms.

    Returns:
        `(..., channels)`, the step to subtract.
    """
    axes = list(range(len(weights.shape) - 1))
    pairs = ((gradient, weights), (gradient, gradient), (weights, weights), (weights, step))
    of_channels = [ops.sum(a * b, axes) for a, b in pairs]
    of_tensor = [ops.sum(total) for total in of_channels]

    def view(totals: list[tf.Tensor], size: int) -> tuple[tf.Tensor, tf.Tensor]:
        dot, square_g, square_w, along = totals
        norm_g, norm_w = ops.sqrt(square_g) + epsilon, ops.sqrt(square_w) + epsilon
        cosine = ops.max(ops.abs(dot) / (norm_g * norm_w))
        return cosine < delta / math.sqrt(size), along / ops.square(norm_w) - wd_ratio * decay

    entries = math.prod(weights.shape)
    by_channel, channel_share = view(of_channels, entries // weights.shape[-1])
    by_tensor, tensor_share = view(of_tensor, entries)
    share = ops.where(by_channel, channel_share, ops.where(by_tensor, tensor_share, -decay))
    return step - weights * share
