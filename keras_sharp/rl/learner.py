"""One model, the optimizer that moves it, and the loss that it lowers."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_sharp.tracing import traced

_NOBODY = -1  # number of an environment that does not exist


class Learner:
    """A model, its optimizer, and a loss of weighted terms.

    It belongs to the `tf.distribute` strategy in whose scope it is made.

    Args:
        model: A built model.
        optimizer: Its optimizer.
        terms: Takes the model's outputs and a batch; returns numbers for each step of each
            environment, by name.
        weights: What the loss weights them with; a term that is not there is only watched.

    Attributes:
        apply: `apply(gradients)` takes one step.
        finite: `finite()` returns whether all weights are finite, a bool tensor.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        terms: Callable[[Any, dict[str, Any]], dict[str, tf.Tensor]],
        weights: dict[str, float],
    ):
        optimizer.build(model.trainable_variables)
        self.model = model
        self.optimizer = optimizer
        # Outside of replicas, where the gradient is one: what clips in the optimizer sees it whole.
        self.apply = traced(lambda gradients: optimizer.apply(gradients))
        self.finite = traced(self._finite)
        self._strategy = tf.distribute.get_strategy()
        self._terms = terms
        self._weights = weights

    @property
    def variables(self) -> list[keras.Variable]:
        """Weights of the model and variables of the optimizer."""
        return [*self.model.variables, *self.optimizer.variables]

    def gradient(
        self, data: dict[str, Any], pieces: list[np.ndarray], count: int
    ) -> tuple[list[tf.Tensor], dict[str, float]]:
        """Returns the gradient over some environments, and the means of all terms.

        Args:
            data: Arrays with environments along the first axis; `"observations"`, `"taken"`, and
                what the terms need.
            pieces: Numbers of the environments, in parts that are gone through one by one.
            count: Steps taken in all of them, the divisor of the means.
        """
        gradients, means = None, None
        for rows in pieces:
            shares = np.array_split(rows, self._strategy.num_replicas_in_sync)
            # Convolutions of no images fail: a replica without environments takes one and
            # leaves out all of its steps.
            shares = [each if len(each) else np.array([_NOBODY]) for each in shares]
            shares = self._strategy.experimental_distribute_values_from_function(
                lambda replica, of=shares: tf.constant(of[replica.replica_id_in_sync_group])
            )
            found, terms = self._gradient(data, shares, tf.constant(count, tf.float32))
            if gradients is None:
                gradients, means = found, terms
            else:
                gradients = [each + more for each, more in zip(gradients, found, strict=True)]
                means = {name: means[name] + terms[name] for name in means}
        return gradients, {name: float(value) for name, value in means.items()}

    @tf.function(reduce_retracing=True, autograph=False)
    def _gradient(
        self, data: dict[str, Any], shares: Any, count: tf.Tensor
    ) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        found = self._strategy.run(self._share, args=(data, shares, count))
        return tree.map_structure(lambda each: self._strategy.reduce("SUM", each, None), found)

    def _share(
        self, data: dict[str, Any], rows: tf.Tensor, count: tf.Tensor
    ) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        exists = rows != _NOBODY
        batch = tree.map_structure(lambda each: tf.gather(each, tf.maximum(rows, 0)), data)
        batch["taken"] &= exists[:, None]
        with tf.GradientTape() as tape:
            terms = self._terms(self.model(batch["observations"], training=True), batch)
            terms = {
                name: tf.reduce_sum(tf.where(batch["taken"], term, 0.0)) / count
                for name, term in terms.items()
            }
            loss = sum(self._weights.get(name, 0.0) * term for name, term in terms.items())
            loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(
            loss, self.model.trainable_variables, unconnected_gradients="zero"
        )
        return [tf.convert_to_tensor(each) for each in gradients], terms

    def _finite(self) -> tf.Tensor:
        weights = self.model.trainable_variables
        return tf.reduce_all([tf.reduce_all(tf.math.is_finite(each)) for each in weights])
