"""Replicas that hold weights of their own, and the mean of them that counts in the end."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_sharp.training.forward import Forward


class OwnWeights:
    """Base of the communications under which the weights of the replicas differ.

    Each replica trains with the gradient of its own part of the batch, and keeps its own weights,
    optimizer variables and moving statistics. After an epoch, while it is validated and callbacks
    look at it, the model is the mean of the replicas, and so it is once `fit` returns. A checkpoint
    holds them all. `logs["consensus_distance"]` is the mean over replicas of `|w_i - mean|^2`, with
    all weights in one vector.

    A subclass overrides `apply` and `bytes_per_step`.

    Attributes:
        bytes_of_weights: Size of the vector of all weights that replicas exchange. Known, like
            `bytes_per_step`, once `fit` has begun.

    Raises:
        ValueError: By `fit`, if there is more than one worker.
    """

    def __init__(self) -> None:
        self.bytes_of_weights = 0
        self._own: list[keras.Variable] = []
        self._kept: list[np.ndarray] | None = None

    def build(
        self,
        strategy: tf.distribute.Strategy,
        optimizer: keras.optimizers.Optimizer,
        forward: Forward,
    ) -> None:
        """Learns whose variables differ. Called in the strategy's scope, before steps are traced.

        Args:
            strategy: The strategy of the model.
            optimizer: The model's, built.
            forward: The pass over a part of a batch, traced before.
        """
        self._strategy = strategy
        self._optimizer = optimizer
        self._forward = forward
        sizes = [v.value.shape.num_elements() for v in forward.trainable]
        self.bytes_of_weights = sum(sizes) * tf.float32.size
        # Callbacks change the learning rate, which is that of all replicas.
        rate = getattr(optimizer, "_learning_rate", None)
        slots = [v for v in optimizer.variables if v is not rate and "float" in v.dtype]
        self._own = [*forward.trainable, *forward.statistics, *slots]
        if len(self._replicas(self._own[0])) < strategy.num_replicas_in_sync:
            raise ValueError(
                f"`communication` can't be {type(self).__name__} with several workers. Received: "
                f"strategy={type(strategy).__name__}"
            )

    def __call__(self, gradients: list[tf.Tensor], share: tf.Tensor) -> list[tf.Tensor]:
        """Returns the replica's own gradient.

        It is that of the replica's part of the global loss, times the number of replicas: the mean
        over replicas is the gradient of the batch, also where the parts have different sizes.
        """
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        return [replicas * gradient for gradient in gradients]

    def apply(self, gradients: list, optimizer_step: Callable) -> None:
        """Takes a step on every replica. Called in a graph, in cross-replica context.

        Args:
            gradients: What `__call__` returned, or a gradient rule made of it, on every replica.
            optimizer_step: `optimizer_step(gradients)` lets the optimizer take its own step.
        """
        raise NotImplementedError

    def bytes_per_step(self, step: int) -> float:
        """Returns how many bytes of weights and gradients a replica sends, on average over them.

        Figures of the loss and the metrics, a few bytes, don't count.

        Args:
            step: Number of the step, from 0.
        """
        raise NotImplementedError

    @contextlib.contextmanager
    def consensus(self) -> Iterator[dict[str, float]]:
        """Makes the model the mean of the replicas for a while, and yields figures for the logs.

        A weight that is changed meanwhile stays so, on all replicas.
        """
        self._kept = [self._read(v) for v in self._own]
        weights = self._kept[: len(self._forward.trainable)]
        means = [_mean(values) for values in self._kept]
        squares = [
            ((values.astype(np.float64) - values.mean(0, dtype=np.float64)) ** 2).sum()
            for values in weights
        ]
        for variable, mean in zip(self._own, means, strict=True):
            variable.assign(mean)
        try:
            yield {"consensus_distance": float(sum(squares)) / len(weights[0])}
            for variable, mean, values in zip(self._own, means, self._kept, strict=True):
                if np.array_equal(variable.numpy(), mean, equal_nan=True):
                    self._write(variable, values)
        finally:
            self._kept = None

    def settle(self) -> None:
        """Leaves the mean of the replicas in the model."""
        for variable in self._own:
            variable.assign(_mean(self._read(variable)))

    def get_state(self) -> dict[str, Any]:
        """Returns the variables of every replica, for a checkpoint."""
        if not self._own:
            return {}
        return {"replicas": self._kept or [self._read(v) for v in self._own]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `get_state` returned."""
        for variable, values in zip(self._own, state["replicas"], strict=True):
            self._write(variable, values)

    def move(self, variables: list[keras.Variable], values: list) -> None:
        """Assigns every replica its own values. Called in cross-replica context."""
        for variable, value in zip(variables, values, strict=True):
            self._strategy.extended.update(variable.value, _assign, args=(value,))

    def _replicas(self, variable: keras.Variable) -> tuple:
        return self._strategy.experimental_local_results(variable.value)

    def _read(self, variable: keras.Variable) -> np.ndarray:
        return np.stack([replica.numpy() for replica in self._replicas(variable)])

    def _write(self, variable: keras.Variable, values: np.ndarray) -> None:
        for replica, value in zip(self._replicas(variable), values, strict=True):
            replica.assign(value)


def flatten(tensors: list[tf.Tensor]) -> tf.Tensor:
    """Returns all tensors as one vector, `(n,)` float32."""
    return tf.concat([tf.reshape(tf.cast(t, tf.float32), [-1]) for t in tensors], 0)


def unflatten(vector: tf.Tensor, like: list[tf.Tensor]) -> list[tf.Tensor]:
    """Cuts a vector into tensors of the shapes and types of others."""
    pieces = tf.split(vector, [t.shape.num_elements() for t in like])
    return [
        tf.cast(tf.reshape(piece, t.shape), t.dtype) for piece, t in zip(pieces, like, strict=True)
    ]


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean(0, dtype=np.float64).astype(values.dtype)


def _assign(variable: tf.Variable, value: tf.Tensor) -> None:
    variable.assign(value)
