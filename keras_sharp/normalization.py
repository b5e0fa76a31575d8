"""Whose statistics normalisation layers use, and which derivatives they have, while traced."""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf


def batch_normalizations(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns every BatchNormalization layer of a model, however deeply nested."""
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


def moving_statistics(model: keras.Model) -> list[keras.Variable]:
    """Returns the moving statistics that training would move: all means, then all variances."""
    layers = [layer for layer in batch_normalizations(model) if layer.trainable]
    return [layer.moving_mean for layer in layers] + [layer.moving_variance for layer in layers]


@contextlib.contextmanager
def batch_statistics(
    model: keras.Model,
    scope: keras.StatelessScope,
    wanted: bool,
    seen: dict[int, list[tf.Tensor]] | None = None,
) -> Iterator[None]:
    """While open, BatchNormalization layers use the statistics of their input, and write nothing.

    `training=True` for the whole model would switch dropout on as well, and a clone of the model
    would miss subclassed ones.

    Args:
        model: The model that is evaluated meanwhile.
        scope: The scope it is evaluated in, holding the values of its variables.
        wanted: False leaves the layers alone.
        seen: Takes the statistics of each call's input, by the `id` of the moving statistic.
    """
    layers = batch_normalizations(model) if wanted else []

    def evaluated_by_batch(layer):
        def call(inputs, training=None, mask=None):
            # An inner scope keeps the new moving statistics from a shared layer's next call, and
            # from leaking out of the body of a recurrent loop.
            known = [(v, scope.get_current_value(v)) for v in layer.variables]
            inner = keras.StatelessScope([(v, value) for v, value in known if value is not None])
            synchronized, layer.synchronized = layer.synchronized, False
            momentum = layer.momentum
            if seen is not None:
                layer.momentum = 0.0  # what the moving statistics become is the batch's own
            try:
                with inner:
                    extra = {} if mask is None else {"mask": mask}
                    outputs = type(layer).call(layer, inputs, training=True, **extra)
            finally:
                layer.synchronized, layer.momentum = synchronized, momentum
            if seen is not None and layer.trainable:
                for variable in (layer.moving_mean, layer.moving_variance):
                    seen.setdefault(id(variable), []).append(inner.get_current_value(variable))
            return outputs

        return call

    try:
        for layer in layers:
            layer.__dict__["call"] = evaluated_by_batch(layer)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("call", None)


@contextlib.contextmanager
def exact_moments() -> Iterator[None]:
    """While open, `tf.nn.moments` differentiates its mean inside the variance.

    TensorFlow stops that gradient. It is zero to first order, so gradients are right and
    Hessian-vector products through every mean/variance normalisation are 1 to 56 % wrong.
    """

    def moments(x, axes, shift=None, keepdims=False, name=None):
        wide = tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x
        mean = tf.reduce_mean(wide, axes, keepdims=True)
        variance = tf.reduce_mean(tf.square(wide - mean), axes, keepdims=True)
        if not keepdims:
            mean, variance = tf.squeeze(mean, axes), tf.squeeze(variance, axes)
        return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)

    original, tf.nn.moments = tf.nn.moments, moments
    try:
        yield
    finally:
        tf.nn.moments = original
