"""Residual blocks that need no normalisation."""

import math
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_sharp.arguments import integer


@keras.saving.register_keras_serializable("keras_sharp")
class SqueezeExcitation(keras.layers.Layer):
    """Weighs channels by what all of the image shows: `x * sigmoid(W2 relu(W1 mean(x)))`.

    Args:
        reduction: How many times fewer units the layer between has.
        kwargs: Those of every Keras layer.

    References:
        - [Hu et al., 2018](https://arxiv.org/abs/1709.01507)
    """

    def __init__(self, reduction: int = 16, **kwargs: Any):
        super().__init__(**kwargs)
        self.reduction = integer("reduction", reduction)

    def build(self, input_shape: Any) -> None:
        """Makes the two dense layers."""
        channels = input_shape[-1]
        between = max(channels // self.reduction, 1)
        self.squeeze = keras.layers.Dense(between, activation="relu", dtype=self.dtype_policy)
        self.excite = keras.layers.Dense(channels, activation="sigmoid", dtype=self.dtype_policy)
        self.squeeze.build((None, channels))
        self.excite.build((None, between))
        self.built = True

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Takes and returns `(images, height, width, channels)`."""
        weights = self.excite(self.squeeze(ops.mean(images, axis=(1, 2))))
        return images * weights[:, None, None]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the images."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the layer was made with."""
        return {**super().get_config(), "reduction": self.reduction}


@keras.saving.register_keras_serializable("keras_sharp")
class FixupBlock(keras.layers.Layer):
    """Two convolutions beside a skip path, scaled at the start so that depth does no harm.

    With scalars `b` that begin at 0 and `s` at 1, and `SqueezeExcitation` `SE`:

        h = conv2(relu(conv1(x + b1a) + b1b) + b2a) s + b2b
        y = relu(SE(h) + skip)

    `skip` is `x`, or where the shape changes a 1x1 convolution of the 3x3 means of `x + b1a`.
    `conv2` begins at 0: at first the block is `relu(skip)`.

    Args:
        filters: Channels of the output.
        blocks: Number of blocks `L` of the network: the first convolution begins `sqrt(L)` times
            smaller.
        stride: Of the first convolution.
        kwargs: Those of every Keras layer.

    References:
        - [Zhang et al., 2019](https://arxiv.org/abs/1901.09321)
        - [Shacklett et al., 2021](https://arxiv.org/abs/2103.07013), with squeeze-and-excitation,
          as in [its code](https://github.com/shacklettbp/bps-nav)
    """

    def __init__(self, filters: int, blocks: int, stride: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.filters = integer("filters", filters)
        self.blocks = integer("blocks", blocks)
        self.stride = integer("stride", stride)

    def build(self, input_shape: Any) -> None:
        """Makes the weights."""
        self.conv1 = self._convolution(3, self._normal(3, self.blocks**-0.5), self.stride)
        self.conv2 = self._convolution(3, "zeros")
        self.excitation = SqueezeExcitation(dtype=self.dtype_policy)
        self.bias1a, self.bias1b, self.bias2a, self.bias2b = (
            self.add_weight(shape=(1,), initializer="zeros", name=name)
            for name in ("bias1a", "bias1b", "bias2a", "bias2b")
        )
        self.scale = self.add_weight(shape=(1,), initializer="ones", name="scale")
        outer = (None, None, None, input_shape[-1])
        inner = (None, None, None, self.filters)
        self.conv1.build(outer)
        self.conv2.build(inner)
        self.excitation.build(inner)
        self.conv_skip = None
        if self.stride > 1 or input_shape[-1] != self.filters:
            self.conv_skip = self._convolution(1, self._normal(1))
            self.conv_skip.build(outer)
        self.built = True

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Takes `(images, height, width, channels)`, returns the same with `filters` channels."""
        x = images + self.bias1a
        h = ops.relu(self.conv1(_padded(x)) + self.bias1b)
        h = self.conv2(_padded(h + self.bias2a)) * self.scale + self.bias2b
        skip = images
        if self.conv_skip is not None:
            # The zeros at the edge count in the means, as in the authors' code.
            skip = self.conv_skip(ops.average_pool(_padded(x), 3, self.stride, "valid"))
        return ops.relu(self.excitation(h) + skip)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the output."""
        height, width = (side and -(-side // self.stride) for side in input_shape[1:3])
        return input_shape[0], height, width, self.filters

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the layer was made with."""
        own = {"filters": self.filters, "blocks": self.blocks, "stride": self.stride}
        return {**super().get_config(), **own}

    def _normal(self, size: int, scale: float = 1.0) -> keras.initializers.Initializer:
        deviation = scale * math.sqrt(2 / (self.filters * size**2))
        return keras.initializers.RandomNormal(stddev=deviation)

    def _convolution(
        self, size: int, start: str | keras.initializers.Initializer, stride: int = 1
    ) -> keras.layers.Conv2D:
        return keras.layers.Conv2D(
            self.filters,
            size,
            strides=stride,
            use_bias=False,
            kernel_initializer=start,
            dtype=self.dtype_policy,
        )


def _padded(images: tf.Tensor) -> tf.Tensor:
    # At both sides alike: with a stride, Keras's own "same" pads one side alone.
    return ops.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
