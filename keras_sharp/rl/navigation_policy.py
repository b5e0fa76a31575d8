"""A network that finds its way by a depth camera, a compass to the goal, and what it remembers."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_sharp.arguments import integer
from keras_sharp.rl.episodic_lstm import EpisodicLSTM
from keras_sharp.rl.fixup import FixupBlock

_BINS = 10  # of the depth, beside the number itself
_PATCH = 4  # pixels of an image become channels, so many by so many
_EMBEDDING = 32  # numbers for the goal, and as many for the previous action
_STRIDES = (1, 2, 2, 2)


@keras.saving.register_keras_serializable("keras_sharp")
class NavigationPolicy(keras.Model):
    """The policy and value network of large batch simulation, for a depth camera.

        depth -> itself and 10 one-hot bins, 4x4 pixels to channels, 1x1 convolution
              -> 4 `FixupBlock`s of 1, 2, 4 and 8 times `width` -> 3x3 convolution
              -> dense `hidden`, LayerNorm, ReLU
        [that | dense(rho, cos phi, sin phi) | embedding of the previous action]
              -> `layers` `EpisodicLSTM`s of `units` -> logits, and a value

    The defaults are the paper's. It takes a dictionary of

    - `"depth"`: `(environments, steps, size, size, 1)`, 0 to 1;
    - `"goal"`: `(environments, steps, 2)`, distance `rho` in m and angle `phi` in radians;
    - `"previous"`: `(environments, steps)` integers, the previous action + 1, and 0 in the first
      step of an episode, where all memory is lost;
    - `"memory"`: `(environments, layers, 2, units)`, before the first step; see `forget`;

    and returns logits, `(environments, steps, actions)` float32, values, `(environments, steps)`
    float32, and the memory after the last step.

    Args:
        size: Pixels of a side of the image, a multiple of 4.
        actions: Number of actions.
        width: Channels of the first stage.
        hidden: Numbers that are left of an image.
        units: Of an LSTM layer.
        layers: LSTM layers.
        kwargs: Those of every Keras model.

    Raises:
        ValueError: If an argument is out of range.

    Note:
        Weights whose first values the authors' code leaves to PyTorch begin here as Keras's do, the
        two convolutions beside the blocks as He et al. have them. An LSTM has one bias, not two.

        Of images smaller than the paper's, stages that would leave less than 2x2 places halve
        nothing: of a 3x3 convolution that sees a single place only the middle counts.

    References:
        - [Shacklett et al., 2021](https://arxiv.org/abs/2103.07013), as in
          [its code](https://github.com/shacklettbp/bps-nav)
    """

    def __init__(
        self,
        size: int = 64,
        actions: int = 4,
        *,
        width: int = 64,
        hidden: int = 512,
        units: int = 512,
        layers: int = 2,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._arguments = {
            "size": integer("size", size),
            "actions": integer("actions", actions),
            "width": integer("width", width),
            "hidden": integer("hidden", hidden),
            "units": integer("units", units),
            "layers": integer("layers", layers),
        }
        if size % _PATCH:
            raise ValueError(f"`size` must be a multiple of {_PATCH}. Received: size={size}")
        policy = {"dtype": self.dtype_policy}
        self.vision = _vision(size, width, hidden, policy)
        self.goal = keras.layers.Dense(_EMBEDDING, **policy)
        self.goal.build((None, None, 3))
        self.previous = keras.layers.Embedding(actions + 1, _EMBEDDING, **policy)
        self.previous.build((None, None))
        self.recurrent = [EpisodicLSTM(units, **policy) for _ in range(layers)]
        features = hidden + 2 * _EMBEDDING
        for layer in self.recurrent:
            layer.build(((None, None, features), (None, None), (None, 2, units)))
            features = units
        start = keras.initializers.Orthogonal
        self.logits = keras.layers.Dense(actions, kernel_initializer=start(0.01), dtype="float32")
        self.value = keras.layers.Dense(1, kernel_initializer=start(0.1), dtype="float32")
        for head in (self.logits, self.value):
            head.build((None, None, units))
        self.built = True

    def forget(self, environments: int) -> tf.Tensor:
        """Returns the memory of agents that have seen nothing: zeros."""
        return tf.zeros(
            (environments, self._arguments["layers"], 2, self._arguments["units"]), tf.float32
        )

    def call(self, observations: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns logits, values and the memory after the last step, for what the class says."""
        depth, goal, previous = (observations[name] for name in ("depth", "goal", "previous"))
        steps = ops.shape(depth)[:2]
        seen = self.vision(ops.reshape(depth, (-1, *depth.shape[2:])))
        rho, phi = goal[..., 0], goal[..., 1]
        features = [
            ops.reshape(seen, (*steps, self._arguments["hidden"])),
            self.goal(ops.stack([rho, ops.cos(phi), ops.sin(phi)], axis=-1)),
            self.previous(previous),
        ]
        x = ops.concatenate(features, axis=-1)
        begins, memory = previous == 0, []
        for number, layer in enumerate(self.recurrent):
            x, state = layer((x, begins, observations["memory"][:, number]))
            memory.append(state)
        values = self.value(x)[..., 0]
        return self.logits(x), values, ops.cast(ops.stack(memory, axis=1), "float32")

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the model was made with."""
        base = {"name": self.name, "trainable": self.trainable, "dtype": self.dtype_policy.name}
        return {**base, **self._arguments}


@keras.saving.register_keras_serializable("keras_sharp")
class DepthChannels(keras.layers.Layer):
    """Depth in 0 to 1 as itself and one-hot bins, with 4x4 pixels laid out as channels."""

    def call(self, depth: tf.Tensor) -> tf.Tensor:
        """Takes `(images, size, size, 1)`, returns `(images, size / 4, size / 4, 176)`."""
        bins = ops.clip(ops.cast(ops.floor(depth[..., 0] * _BINS), "int32"), 0, _BINS - 1)
        channels = ops.concatenate([depth, ops.one_hot(bins, _BINS, dtype=depth.dtype)], axis=-1)
        return tf.nn.space_to_depth(channels, _PATCH)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the output."""
        height, width = (side // _PATCH for side in input_shape[1:3])
        return input_shape[0], height, width, _PATCH**2 * (1 + _BINS)


def _vision(size: int, width: int, hidden: int, policy: dict[str, Any]) -> keras.Sequential:
    """Returns the network from one image to `hidden` numbers."""
    convolution = {"kernel_initializer": "he_normal", "activation": "relu", **policy}
    layers = [DepthChannels(**policy), keras.layers.Conv2D(width, 1, use_bias=False, **convolution)]
    side = size // _PATCH
    for stage, stride in enumerate(_STRIDES):
        stride = stride if side > stride else 1
        layers.append(FixupBlock(2**stage * width, len(_STRIDES), stride, **policy))
        side = -(-side // stride)
    # Twice as many numbers as are left in the end: 1024 for the paper's 512.
    channels = max(round(2 * hidden / side**2), 1)
    layers += [
        keras.layers.Conv2D(channels, 3, padding="same", **convolution),
        keras.layers.Flatten(**policy),
        keras.layers.Dense(hidden, use_bias=False, **policy),
        keras.layers.LayerNormalization(epsilon=1e-5, **policy),
        keras.layers.ReLU(**policy),
    ]
    vision = keras.Sequential(layers, name="vision")
    vision.build((None, size, size, 1))
    return vision
