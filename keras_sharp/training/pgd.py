"""Attacks: inputs nearby at which the loss is larger."""

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_sharp.arguments import integer, not_negative, one_of


class PGD:
    """Projected gradient ascent of the loss over inputs at most `epsilon` away.

    Each iteration goes `x' <- P(x' + step_size d)`, from `x' = x` on or from a random point nearby.
    For norm `"linf"`, `d = sign(g)` and no number changes by more than `epsilon`; for `"l2"`, `d =
    g / |g|` and the change of an example has a norm of at most `epsilon`. `g` is the gradient of
    the loss with respect to the inputs, and `P` goes back to the nearest allowed inputs.

    An attack is part of a gradient rule: `Adversarial`, `DisAdv` and `ConAdv`. It sees the inputs
    of the model, so layers that rescale or augment them come after it. It does not touch moving
    statistics, and an example's attack depends on no other example unless `training=True`.

    Args:
        epsilon: How far inputs may move, in their own units (1/255 of the range of images is one
            grey level). For `"linf"` it may be a number for each channel, the last axis.
        iterations: Number of gradients.
        step_size: How far an iteration goes, in the same units. Defaults to the diameter `2
            epsilon` divided by the iterations, and to `epsilon` for one or two.
        norm: `"linf"` or `"l2"`.
        random_start: Whether to start from a random point, drawn uniformly from all allowed ones
            (before `clip`). Like dropout masks, points are drawn anew for each part of a batch.
        clip: `(low, high)`, the range of valid inputs. None: any are.
        training: Whether the model is attacked in training mode, with dropout and the batch's own
            statistics, and not in inference mode.
        seed: Decides the random points.

    Raises:
        ValueError: If an argument is of no use.

    Note:
        Attacks are untargeted: they raise the loss of the true label. To lower that of another
        label drawn at random, as the code of AdvProp does by default, is left out.

    References:
        Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018,
        arXiv 1706.06083.
    """

    def __init__(
        self,
        epsilon: float | Sequence[float],
        iterations: int = 1,
        step_size: float | None = None,
        *,
        norm: str = "linf",
        random_start: bool = False,
        clip: tuple[float, float] | None = None,
        training: bool = False,
        seed: int = 0,
    ):
        self.norm = one_of("norm", norm, ("linf", "l2"))
        self.epsilon = self._radius(epsilon)
        self.iterations = integer("iterations", iterations)
        if step_size is not None:
            step_size = not_negative("step_size", step_size)
        self.step_size = step_size
        self.random_start = bool(one_of("random_start", random_start, (True, False)))
        if clip is not None and not (len(clip) == 2 and clip[0] < clip[1]):
            raise ValueError(
                f"`clip` must be None or (low, high) with low < high. Received: clip={clip!r}"
            )
        self.clip = None if clip is None else (float(clip[0]), float(clip[1]))
        self.training = bool(one_of("training", training, (True, False)))
        self.seed = integer("seed", seed, least=0)

    def __call__(self, slope: Callable, x: Any, moment: tf.Tensor) -> Any:
        """Returns the attacked inputs, in the structure of `x`.

        Args:
            slope: `slope(x)` is the gradient of the loss at inputs `x`.
            x: The inputs, float tensors whose first axis are the examples.
            moment: `(2,)` int64, number of the step and of the part of its batch.
        """
        step_size = self.step_size
        if step_size is None:
            step_size = np.multiply(self.epsilon, min(1.0, 2.0 / self.iterations))
        originals, moved = keras.tree.flatten(x), keras.tree.flatten(x)
        if self.random_start:
            moved = [
                self._inside(original + self._drawn(original, index, moment), original)
                for index, original in enumerate(originals)
            ]
        for _ in range(self.iterations):
            slopes = keras.tree.flatten(slope(keras.tree.pack_sequence_as(x, moved)))
            moved = [
                self._inside(at + tf.cast(step_size, at.dtype) * self._direction(g), original)
                for at, g, original in zip(moved, slopes, originals, strict=True)
            ]
        return keras.tree.pack_sequence_as(x, moved)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the attack was made with."""
        return {
            "epsilon": self.epsilon,
            "iterations": self.iterations,
            "step_size": self.step_size,
            "norm": self.norm,
            "random_start": self.random_start,
            "clip": self.clip,
            "training": self.training,
            "seed": self.seed,
        }

    def _radius(self, epsilon: Any) -> float | list[float]:
        if isinstance(epsilon, numbers.Real) or self.norm == "l2":
            return not_negative("epsilon", epsilon)
        return [not_negative("epsilon", float(each)) for each in epsilon]

    def _direction(self, slope: tf.Tensor) -> tf.Tensor:
        return tf.sign(slope) if self.norm == "linf" else _unit(slope)

    def _inside(self, x: tf.Tensor, original: tf.Tensor) -> tf.Tensor:
        """Returns the nearest allowed inputs."""
        if self.clip is not None:
            x = tf.clip_by_value(x, *self.clip)
        epsilon = tf.cast(self.epsilon, x.dtype)
        # Last, as it leads towards the original: what was inside the range stays there.
        if self.norm == "linf":
            return tf.clip_by_value(x, original - epsilon, original + epsilon)
        change = x - original
        length = _length(change)
        shorter = epsilon * tf.math.divide_no_nan(change, length)
        return original + tf.where(length > epsilon, shorter, change)

    def _drawn(self, x: tf.Tensor, index: int, moment: tf.Tensor) -> tf.Tensor:
        """Returns random changes, uniform in the ball or box."""
        seed = tf.constant([self.seed, index], tf.int64)
        for number in tf.unstack(moment):
            seed = tf.random.experimental.stateless_fold_in(seed, number)
        epsilon = tf.cast(self.epsilon, x.dtype)
        if self.norm == "linf":
            return epsilon * tf.random.stateless_uniform(tf.shape(x), seed, -1, 1, x.dtype)
        direction = _unit(tf.random.stateless_normal(tf.shape(x), seed, dtype=x.dtype))
        shape = tf.concat([tf.shape(x)[:1], tf.ones(len(x.shape) - 1, tf.int32)], 0)
        other = tf.random.experimental.stateless_fold_in(seed, 1)
        volume = tf.random.stateless_uniform(shape, other, dtype=x.dtype)
        return epsilon * direction * volume ** (1 / int(np.prod(x.shape[1:])))


class FGSM(PGD):
    """The fast gradient sign method: `x + epsilon sign(g)`, one step of `PGD` all the way.

    Args:
        epsilon: As in `PGD`.
        clip: As in `PGD`.
        training: As in `PGD`.

    References:
        Goodfellow, Shlens and Szegedy, Explaining and Harnessing Adversarial Examples, ICLR 2015,
        arXiv 1412.6572.
    """

    def __init__(
        self,
        epsilon: float | Sequence[float],
        *,
        clip: tuple[float, float] | None = None,
        training: bool = False,
    ):
        super().__init__(epsilon, clip=clip, training=training)


def _unit(x: tf.Tensor) -> tf.Tensor:
    """Returns every example with length 1, or 0 if it is 0."""
    return tf.math.divide_no_nan(x, _length(x))


def _length(x: tf.Tensor) -> tf.Tensor:
    """Returns the norm of every example, in axes of length 1."""
    axes = list(range(1, len(x.shape)))
    # Of slopes of a mean over many examples the squares alone may be too small for the type.
    largest = tf.reduce_max(tf.abs(x), axes, keepdims=True)
    squares = tf.reduce_sum(tf.math.divide_no_nan(x, largest) ** 2, axes, keepdims=True)
    return largest * tf.sqrt(squares)
