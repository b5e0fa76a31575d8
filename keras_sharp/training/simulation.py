"""Many nodes on one device."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_sharp.arguments import integer
from keras_sharp.labelled import labelled, number_of_examples
from keras_sharp.losses import LossTerms
from keras_sharp.tracing import traced
from keras_sharp.training.forward import Contribution, Forward
from keras_sharp.training.mixing import stacked
from keras_sharp.training.neighbours import Neighbours, decayed, rate_ratio
from keras_sharp.training.own_weights import flatten, unflatten

# Ctrl-C acts, and divergence is noticed, between calls of the graph.
_STEPS_PER_CALL = 100


class Simulation:
    """Trains a model on many nodes at once, whose weights are stacked on one device.

    A communication takes the same steps here as in a `Trainer` with one replica for each node. All
    nodes start with the weights of the model, and draw dropout masks of their own. Moving
    statistics are averaged over the nodes in each step: they are linear in what the nodes see, so
    this is what averaging them at the end would give.

    Args:
        model: A built Keras model on one device.
        optimizer: A new `keras.optimizers.SGD`; momentum and weight decay are those of the method.
        loss: Any form `compile(loss=...)` takes.
        communication: A method and its topology, such as `DecentLaM(topology.ring(64))`.
        metrics: Any form `compile(metrics=...)` takes.

    Attributes:
        weights: Variable `(nodes, n)`, the weights of a node in a row; float32, or float64 if the
            model is.

    Raises:
        ValueError: If model, optimizer and communication don't fit, or the optimizer was used.

    Example:
    ```python
    nodes = keras_sharp.training.splits.dirichlet(y, 64, alpha=0.1)
    simulation = Simulation(
        model, keras.optimizers.SGD(0.1, momentum=0.9), "mse", DecentLaM(topology.ring(64))
    )
    simulation.fit((x, y), nodes, batch_size=16, steps=1000)
    simulation.evaluate((x_test, y_test))
    ```
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.SGD,
        loss: Any,
        communication: Neighbours,
        *,
        metrics: Any = None,
    ):
        if not isinstance(communication, Neighbours):
            raise ValueError(
                "`communication` must be a method like `DecentLaM(topology.ring(64))`. "
                f"Received: communication={communication!r}"
            )
        model.compile(optimizer, loss, metrics=metrics, jit_compile=False)
        # For `mixed_float16` Keras makes another optimizer of it.
        communication.check_optimizer(model.optimizer)
        communication.check_weights(model.trainable_variables)
        if steps := int(optimizer.iterations.numpy()):
            raise ValueError(
                "`optimizer` must be new: nodes start without momentum at step 0. Received: an "
                f"optimizer that has taken {steps} steps"
            )
        optimizer.build(model.trainable_variables)
        self.model = model
        self._optimizer = optimizer
        self._method = communication
        self._pull = stacked(communication.topology)
        self._forward = Forward(model, LossTerms(model))
        start = flatten([v.value for v in model.trainable_variables])
        nodes = communication.topology.nodes
        self.weights = tf.Variable(tf.tile(start[None], [nodes, 1]), trainable=False)
        self._momenta = tf.Variable(tf.zeros_like(self.weights), trainable=False)
        self._rate_before = tf.Variable(tf.zeros((), start.dtype), trainable=False)
        self._run = traced(self._steps)

    def fit(
        self,
        data: tuple[np.ndarray, np.ndarray],
        split: Sequence[np.ndarray],
        *,
        batch_size: int,
        steps: int,
        shuffle: bool = True,
        seed: int = 0,
    ) -> dict[str, np.ndarray]:
        """Takes steps on every node, and leaves the mean of the nodes in the model.

        A second call goes on where the first ended: with the same arguments two calls of 100 steps
        are one of 200.

        Args:
            data: `(x, y)`, arrays.
            split: For each node, the indices of the examples it has.
            batch_size: Examples of a node in a step.
            steps: Number of steps. A node goes through its examples again and again, the last batch
                of a round being filled up from the next.
            shuffle: Whether each round has another order.
            seed: Decides which.

        Returns:
            By name, `(steps,)` float32: `loss`, the mean over the nodes of the loss of their
            batches before the step, and `consensus_distance`, the mean over the nodes of
            `|w_i - mean|^2` after it.

        Raises:
            ValueError: If the arrays have different lengths, if there is not one part of `split`
                for each node, with indices of examples in it, or if a label is no class.
            FloatingPointError: If the loss is not finite.
        """
        nodes = self._method.topology.nodes
        data = keras.tree.map_structure(np.asarray, labelled(data))
        _check_split(split, nodes, number_of_examples(data))
        batch_size, steps = integer("batch_size", batch_size), integer("steps", steps)
        done = int(self._optimizer.iterations.numpy())
        span = done * batch_size, (done + steps) * batch_size
        parts = zip(split, np.random.SeedSequence(seed).spawn(nodes), strict=True)
        orders = [_order(part, *span, shuffle and key) for part, key in parts]
        order = np.stack(orders).reshape(nodes, steps, batch_size).swapaxes(0, 1)
        data = keras.tree.map_structure(tf.convert_to_tensor, data)
        order, rows = tf.constant(order, tf.int32), []
        try:
            for first in range(0, steps, _STEPS_PER_CALL):
                count = min(_STEPS_PER_CALL, steps - first)
                rows.append(self._run(data, order, tf.constant(first), tf.constant(count)).numpy())
                _check(rows[-1], done + first)
        finally:
            self._assign(tf.reduce_mean(self.weights, 0))
        rows = np.concatenate(rows)
        return {"loss": rows[:, 0], "consensus_distance": rows[:, 1]}

    def evaluate(self, data: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
        """Returns loss and metrics of the mean of the nodes, which is left in the model.

        Beside each, `mean_of_nodes_...` is the mean over the nodes of what each has by itself, with
        the moving statistics of all.

        Args:
            data: `(x, y)`, arrays.
        """

        def results(weights):
            self._assign(weights)
            values = self.model.evaluate(*data, batch_size=1000, verbose=0, return_dict=True)
            return {name: float(value) for name, value in values.items()}

        each = [results(weights) for weights in tf.unstack(self.weights)]
        of_mean = results(tf.reduce_mean(self.weights, 0))
        names = {name: f"mean_of_nodes_{name}" for name in of_mean}
        return of_mean | {
            names[name]: float(np.mean([result[name] for result in each])) for name in of_mean
        }

    def bytes_per_step(self, step: int) -> float:
        """Returns how many bytes a node would send, on average over them; see `OwnWeights`.

        Args:
            step: Number of the step, from 0.
        """
        size = self.weights.shape[1] * self.weights.dtype.size
        return self._method.vectors_per_step(step) * size

    def _assign(self, weights: tf.Tensor) -> None:
        trainable = self._forward.trainable
        for v, value in zip(
            trainable, unflatten(weights, [v.value for v in trainable]), strict=True
        ):
            v.assign(value)

    def _steps(
        self, data: tuple, order: tf.Tensor, first: tf.Tensor, count: tf.Tensor
    ) -> tf.Tensor:
        """Returns the rows of some steps; `order` is `(steps, nodes, examples)`, indices."""

        def body(k, rows):
            batch = keras.tree.map_structure(lambda t: tf.gather(t, order[first + k]), data)
            return k + 1, rows.write(k, self._step(batch))

        rows = tf.TensorArray(tf.float32, count, element_shape=[3])
        loop = tf.while_loop(lambda k, _: k < count, body, (0, rows), parallel_iterations=1)
        return loop[1].stack()

    def _step(self, batch: tuple) -> tf.Tensor:
        """Returns loss, consensus distance and the number of nodes with bad labels."""
        shapes = [v.value for v in self._forward.trainable]

        def contribution(node):
            number, weights, batch = node
            at = unflatten(weights, shapes)
            found = self._forward(batch, at, record=False, number=number)
            gradients = decayed(self._optimizer, self._forward, at, found.gradients)
            return Contribution(found.values, [flatten(gradients)], found.states)

        x, m = tf.convert_to_tensor(self.weights), tf.convert_to_tensor(self._momenta)
        numbers = tf.range(x.shape[0], dtype=tf.int64)
        found = tf.vectorized_map(contribution, (numbers, x, batch))
        optimizer = self._optimizer
        step = tf.convert_to_tensor(optimizer.iterations.value)
        rate = tf.cast(optimizer.learning_rate, x.dtype)
        ratio = rate_ratio(rate, tf.convert_to_tensor(self._rate_before))
        pull = lambda z: self._pull(z, step)  # noqa: E731
        x, m = self._method.update(x, found.gradients[0], m, rate, ratio, optimizer.momentum, pull)
        self.weights.assign(x)
        self._momenta.assign(m)
        self._rate_before.assign(rate)
        optimizer.iterations.assign_add(1)
        for variable, values in zip(self._forward.states, found.states, strict=True):
            variable.assign(tf.reduce_mean(values, 0) if values.dtype.is_floating else values[0])
        bad, *terms = tf.unstack(tf.reduce_mean(found.values, 0))
        losses = [t.weight * value for t, value in zip(self._forward.terms, terms, strict=True)]
        distance = tf.reduce_mean(tf.reduce_sum((x - tf.reduce_mean(x, 0)) ** 2, 1))
        return tf.stack([tf.add_n(losses), tf.cast(distance, tf.float32), bad])


def descend(
    communication: Neighbours,
    gradients: Callable,
    x: np.ndarray,
    rates: Sequence[float],
    *,
    momentum: float = 0.0,
) -> np.ndarray:
    """Takes steps in NumPy, for studies on functions in closed form.

    Args:
        communication: A method and its topology.
        gradients: `gradients(x)` returns those of all nodes at `x`, `(nodes, n)`.
        x: `(nodes, n)`, where the nodes start.
        rates: The learning rate of each step.
        momentum: `beta`.

    Returns:
        `(nodes, n)` float64, where the nodes end.
    """
    x = np.array(x, np.float64)
    m, before = np.zeros_like(x), 0.0
    for step, rate in enumerate(rates):
        pull = (communication.topology.matrix(step) - np.eye(len(x))).__matmul__
        ratio = rate / before if before > 0 else 1.0
        x, m = communication.update(x, gradients(x), m, rate, ratio, momentum, pull)
        before = rate
    return x


def _order(part: np.ndarray, first: int, end: int, key: Any) -> np.ndarray:
    """Returns some of the examples of a node, round after round, shuffled if there is a key."""
    # Rounds before the first are shuffled, too: each depends on those before it.
    rounds = -(-end // len(part))
    orders = np.tile(np.asarray(part), (rounds, 1))
    if key:
        orders = np.random.default_rng(key).permuted(orders, axis=1)
    return orders.ravel()[first:end]


def _check_split(split: Sequence[np.ndarray], nodes: int, examples: int) -> None:
    if len(split) != nodes or not all(len(part) for part in split):
        raise ValueError(
            f"`split` must have a part with examples for each of {nodes} nodes. Received: "
            f"{len(split)} parts with {[len(part) for part in split]} examples"
        )
    for node, part in enumerate(map(np.asarray, split)):
        indices = part.ndim == 1 and part.dtype.kind in "iu"
        if not indices or part.min() < 0 or part.max() >= examples:
            raise ValueError(
                f"`split` must have indices of examples, integers from 0 to {examples - 1}. "
                f"Received: for node {node} {part.dtype} of shape {part.shape}, from "
                f"{part.min()} to {part.max()}"
            )


def _check(rows: np.ndarray, first: int) -> None:
    if rows[:, 2].any():
        raise ValueError(
            "Labels must be integers between 0 and the number of classes - 1. Received: others, in "
            f"one of the steps {first + 1} to {first + len(rows)}"
        )
    bad = ~np.isfinite(rows[:, :2]).all(1)
    if bad.any():
        raise FloatingPointError(
            f"The loss or the weights are not finite in step {first + int(np.argmax(bad)) + 1}. "
            "Lower the learning rate."
        )
