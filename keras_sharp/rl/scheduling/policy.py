"""Networks that look at every waiting job in the same way."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

_FEATURES = 8
_TIMES = 2  # the first of them: the wait and the requested time
_LEAST = 1e-5  # of a share that is not 0: the others are kept as far below 1
# Finite, so that 0 times its logarithm is 0 and a queue without jobs has a distribution.
_NEVER = -1e6


@keras.saving.register_keras_serializable("keras_sharp")
class JobKernel(keras.layers.Layer):
    """One number for each waiting job, from one small network that is applied to each alike.

    It is applied to nothing else: its cost is that of the jobs that wait, not of the window.

    Times go from seconds to days, and what counts is how many times longer one is than the other:
    of the wait `x` and of the requested time `x` the network is given
    `1 - 2 log(x + 1e-5) / log(1e-5)`, from -1 to 1.

    Args:
        widths: Of its hidden layers, with ReLU; one linear unit follows.
        empty: The number of a slot without a job.
        kwargs: Those of every Keras layer.
    """

    def __init__(self, widths: Sequence[int], empty: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.widths = tuple(widths)
        self.empty = empty
        policy = {"dtype": self.dtype_policy}
        hidden = [keras.layers.Dense(width, activation="relu", **policy) for width in self.widths]
        # A `Sequential` would have the global policy, and round what it is given.
        self.dense = [*hidden, keras.layers.Dense(1, **policy)]

    def build(self, input_shape: Any) -> None:
        """Makes the weights, which the number of slots has no part in."""
        features = input_shape[0][-1]
        for layer in self.dense:
            layer.build((None, features))
            features = layer.units
        self.built = True

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Takes `(..., queue, features)` and `(..., queue)` bool; returns `(..., queue)`."""
        features, waiting = inputs
        places = tf.where(tf.reshape(waiting, [-1]))
        jobs = tf.gather(tf.reshape(features, [-1, features.shape[-1]]), places[:, 0])
        times = 1 - 2 * tf.math.log(jobs[:, :_TIMES] + _LEAST) / math.log(_LEAST)
        x = tf.concat([times, jobs[:, _TIMES:]], axis=1)
        for layer in self.dense:
            x = layer(x)
        numbers = x[:, 0]
        slots = tf.fill([tf.size(waiting)], tf.cast(self.empty, numbers.dtype))
        return tf.reshape(tf.tensor_scatter_nd_update(slots, places, numbers), tf.shape(waiting))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the queues."""
        return tuple(input_shape[1])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the layer was made with."""
        return {**super().get_config(), "widths": self.widths, "empty": self.empty}


def kernel_policy(widths: Sequence[int] = (32, 16, 8)) -> keras.Model:
    """Makes the policy of RLScheduler, from what a `SchedulingEnvironment` shows to logits.

    A job's logit depends on that job alone, so the order of the queue and its length do not matter,
    and an empty slot is never chosen. Weights are drawn from Keras's global seed.

    Args:
        widths: Of the hidden layers.

    Returns:
        A model from a pair, `(sequences, decisions, queue, 8)` features and
        `(sequences, decisions, queue)` bool, to `(sequences, decisions, queue)` logits.

    Note:
        The authors' network sees times, not their logarithms.

    References:
        Zhang et al. 2020, "RLScheduler", SC20; widths as in its code.
    """
    features, waiting = _inputs(None)
    # Half precision, where it is on, has no number as low as that of an empty slot, and hardly any
    # as small as the share of a short job.
    logits = JobKernel(widths, _NEVER, dtype="float32")((features, waiting))
    return keras.Model((features, waiting), logits, name="kernel_policy")


def value_network(
    queue: int = 128, widths: Sequence[int] = (32, 16, 8), then: Sequence[int] = (64, 32, 8)
) -> keras.Model:
    """Makes the value network of RLScheduler: a number a job, and a network of all these numbers.

    Args:
        queue: Slots of the window.
        widths: Of the hidden layers that see one job.
        then: Of the hidden layers that see all numbers.

    Returns:
        A model from the same pair as `kernel_policy`'s to `(sequences, decisions)` values.

    Note:
        The number of an empty slot is 0; in the authors' code it is what the network makes of the
        empty slot's features.
    """
    features, waiting = _inputs(queue)
    x = JobKernel(widths, 0.0, dtype="float32")((features, waiting))
    for width in then:
        x = keras.layers.Dense(width, activation="relu")(x)
    values = ops.squeeze(keras.layers.Dense(1, dtype="float32")(x), axis=-1)
    return keras.Model((features, waiting), values, name="value_network")


def _inputs(queue: int | None) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    features = keras.Input((None, queue, _FEATURES), name="features")
    return features, keras.Input((None, queue), dtype="bool", name="waiting")
