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
    look at it, the model is the mean of the replicas, and so it is once `fit` returns, or is left
    by an exception. A callback that looks at it within an epoch sees the first replica. A
    checkpoint holds all of them. `logs["consensus_distance"]` is the mean over replicas of
    `|w_i - mean|^2`, with all weights in one vector. Beside `val_loss` and `val_accuracy`, of the
    mean, `val_mean_of_nodes_loss` and the like are the means of what each replica has by itself on
    all validation data, which takes as many evaluations as there are replicas.

    An object serves one model. A subclass overrides `apply` and `vectors_per_step`.

    Attributes:
        bytes_of_weights: Size of the vector of all weights that replicas exchange. Known, like
            `bytes_per_step`, once `fit` has begun.

    Raises:
        ValueError: By `fit`, if there is more than one worker, if optimizer, constraints or
            callbacks don't fit, or if the object serves another model.
    """

    def __init__(self) -> None:
        self.bytes_of_weights = 0
        self._model: keras.Model | None = None
        self._own: list[keras.Variable] = []
        self._kept: list[tuple[np.ndarray, np.ndarray]] | None = None

    def build(self, strategy: tf.distribute.Strategy, model: keras.Model, forward: Forward) -> None:
        """Learns whose variables differ. Called in the strategy's scope, before steps are traced.

        Args:
            strategy: The strategy of the model.
            model: The model, its optimizer built.
            forward: The pass over a part of a batch, traced before.
        """
        if self._model not in (None, model):
            raise ValueError(
                "`communication` must be another object for every model, since it keeps what the "
                f"replicas of one differ in. Received: {type(self).__name__} of "
                f"{self._model.name!r} for {model.name!r}"
            )
        optimizer = model.optimizer
        self.check_optimizer(optimizer)
        self.check_weights(forward.trainable)
        self._model = model
        self._strategy = strategy
        self._optimizer = optimizer
        self._forward = forward
        sizes = [v.value.shape.num_elements() for v in forward.trainable]
        self.bytes_of_weights = sum(sizes) * vector_type(forward.trainable).size
        # Callbacks change the learning rate, which is that of all replicas.
        rate = getattr(optimizer, "_learning_rate", None)
        slots = [v for v in optimizer.variables if v is not rate and "float" in v.dtype]
        self._own = [*forward.trainable, *forward.statistics, *slots]
        if len(self._replicas(self._own[0])) < strategy.num_replicas_in_sync:
            raise ValueError(
                f"`communication` can't be {type(self).__name__} with several workers: it serves "
                "the replicas of one process. Use `AllReduce()` there. Received: "
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

    def vectors_per_step(self, step: int) -> float:
        """Returns how many vectors as long as all weights a replica sends, on average over them.

        Args:
            step: Number of the step, from 0.
        """
        raise NotImplementedError

    def bytes_per_step(self, step: int) -> float:
        """Returns how many bytes of weights and gradients a replica sends, on average over them.

        Figures of the loss and the metrics, a few bytes, don't count.

        Args:
            step: Number of the step, from 0.
        """
        return self.vectors_per_step(step) * self.bytes_of_weights

    def check_optimizer(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Checks that an optimizer can step on replicas that differ.

        Raises:
            ValueError: If it can't.
        """
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            raise ValueError(
                f"`optimizer` can't be a LossScaleOptimizer for {type(self).__name__}: replicas "
                "would scale their losses differently. Keras makes one of any optimizer if the "
                "model is in `mixed_float16`; use `mixed_bfloat16`."
            )
        if getattr(optimizer, "use_ema", False):
            raise ValueError(
                f"`optimizer` must not have `use_ema` for {type(self).__name__}: to swap the "
                "weights for their averages makes replicas equal. Received: use_ema=True"
            )

    def check_weights(self, weights: list[keras.Variable]) -> None:
        """Checks that weights may be averaged.

        Raises:
            ValueError: If a weight has a constraint.
        """
        bound = [v.path for v in weights if v.constraint is not None]
        if bound:
            raise ValueError(
                f"`model` must have no constraints for {type(self).__name__}: they would not hold "
                f"for averages of weights. Received: a constraint of {', '.join(bound)}"
            )

    def check_callbacks(self, callbacks: list[keras.callbacks.Callback]) -> None:
        """Checks that callbacks save the mean of the replicas.

        Raises:
            ValueError: If one saves within an epoch, when the model is the first replica.
        """
        kinds = keras.callbacks.ModelCheckpoint | keras.callbacks.BackupAndRestore
        for callback in callbacks:
            if isinstance(callback, kinds) and callback.save_freq != "epoch":
                raise ValueError(
                    f'`save_freq` must be "epoch" for {type(self).__name__}: within an epoch '
                    "the model has the weights of the first replica alone. Received: "
                    f"{type(callback).__name__} with save_freq={callback.save_freq}"
                )

    @contextlib.contextmanager
    def consensus(self) -> Iterator[dict[str, float]]:
        """Makes the model the mean of the replicas for a while, and yields figures for the logs.

        A weight that is changed meanwhile stays so, on all replicas.
        """
        values = [self._read(v) for v in self._own]
        weights, means = values[: len(self._forward.trainable)], [_mean(v) for v in values]
        squares = [
            ((values.astype(np.float64) - values.mean(0, dtype=np.float64)) ** 2).sum()
            for values in weights
        ]
        for variable, mean in zip(self._own, means, strict=True):
            variable.assign(mean)
        self._kept = list(zip(values, means, strict=True))
        try:
            yield {"consensus_distance": float(sum(squares)) / len(weights[0])}
            for variable, own in zip(self._own, self._own_values(), strict=True):
                self._write(variable, own)
        finally:
            self._kept = None

    def nodes(self) -> Iterator[None]:
        """Makes the model each of the replicas in turn; once it is closed they are as before."""
        variables = [*self._forward.trainable, *self._forward.statistics]
        values = [self._read(v) for v in variables]
        try:
            for node in range(len(values[0])):
                for variable, of_all in zip(variables, values, strict=True):
                    variable.assign(of_all[node])
                yield
        finally:
            for variable, of_all in zip(variables, values, strict=True):
                self._write(variable, of_all)

    @contextlib.contextmanager
    def settled(self) -> Iterator[None]:
        """Leaves the mean of the replicas in the model, whatever ends the training within."""
        try:
            yield
        finally:
            self.settle()

    def settle(self) -> None:
        """Leaves the mean of the replicas in the model."""
        for variable in self._own:
            variable.assign(_mean(self._read(variable)))

    def get_state(self) -> dict[str, Any]:
        """Returns the variables of every replica, for a checkpoint."""
        return {"replicas": self._own_values()} if self._own else {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `get_state` returned.

        Raises:
            ValueError: If it is of other variables or of another number of replicas.
        """
        shapes = [self._read(v).shape for v in self._own]
        stored = [np.shape(values) for values in state["replicas"]]
        if stored != shapes:
            raise ValueError(
                "The state must be of equally many replicas with variables of the same shapes. "
                f"Received: {stored}, (replicas, ...) of each variable, for {shapes}"
            )
        for variable, values in zip(self._own, state["replicas"], strict=True):
            self._write(variable, values)

    def move(self, variables: list[keras.Variable], values: list) -> None:
        """Assigns every replica its own values. Called in cross-replica context."""
        assign_each(self._strategy, [v.value for v in variables], values)

    def _own_values(self) -> list[np.ndarray]:
        """Returns what every replica has, or will have once the model is no mean any more."""
        if self._kept is None:
            return [self._read(v) for v in self._own]
        return [
            values if np.array_equal(v.numpy(), mean, equal_nan=True) else self._read(v)
            for v, (values, mean) in zip(self._own, self._kept, strict=True)
        ]

    def _replicas(self, variable: keras.Variable) -> tuple:
        return self._strategy.experimental_local_results(variable.value)

    def _read(self, variable: keras.Variable) -> np.ndarray:
        return np.stack([replica.numpy() for replica in self._replicas(variable)])

    def _write(self, variable: keras.Variable, values: np.ndarray) -> None:
        for replica, value in zip(self._replicas(variable), values, strict=True):
            replica.assign(value)


def assign_each(strategy: tf.distribute.Strategy, variables: list, values: list) -> None:
    """Assigns every replica its own values. Called in cross-replica context.

    In a replica, assigning asks how to average.
    """
    for variable, value in zip(variables, values, strict=True):
        strategy.extended.update(variable, _assign, args=(value,))


def vector_type(tensors: list) -> tf.DType:
    """Returns the type that holds tensors or variables exactly: float64 if one is, else float32."""
    return tf.float64 if any(t.dtype == "float64" for t in tensors) else tf.float32


def flatten(tensors: list[tf.Tensor]) -> tf.Tensor:
    """Returns all tensors as one vector, `(n,)` of their `vector_type`."""
    dtype = vector_type(tensors)
    return tf.concat([tf.reshape(tf.cast(t, dtype), [-1]) for t in tensors], 0)


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
