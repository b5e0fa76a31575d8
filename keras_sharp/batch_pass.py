"""One evaluation batch at explicit weights: loss, derivatives and outputs, traced by TensorFlow."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_sharp.accuracy import hits
from keras_sharp.batches import Batch
from keras_sharp.losses import LossTerms, Term
from keras_sharp.normalization import batch_statistics, exact_moments, moving_statistics
from keras_sharp.tracing import traced
from keras_sharp.weights import FlatVariables

# In float16 losses are scaled up before they are differentiated. `LossScaleOptimizer` of Keras
# begins with 2**15 for the mean of a batch, which is this for each example of a batch of 1024.
_PER_EXAMPLE = 32.0
_HALVINGS = 32
_LEAST = 1e-30  # all factors are 0 if all losses have the weight 0


class BatchPass:
    """What `Objective` adds up over batches, as functions of a flat vector of weights.

    The only part of the measuring half that knows how TensorFlow differentiates.

    Args:
        model: A built model.
        weights: Its trainable weights.
        statistics: Its moving statistics.
        loss: Its loss.
        by_batch: Whether BatchNormalization uses the statistics of the batch.

    Attributes:
        terms: The terms of the loss, without numbers. Known once masses or a value were computed.
        masses: `(vector, batch)` to the masses of the terms, `(terms,)` float64, and whether all
            labels are classes; without the work of a forward pass, as long as shapes are known and
            no layer masks.
        value: `(vector, batch)` to numerators and masses of the terms, each `(terms,)` float64, and
            whether all labels are classes.
        evaluation: `(vector, statistics or None, batch)` to numerators, masses, the numbers of
            right predictions and of all, and whether all labels are classes.
        gradient: `(vector, factors, batch)` to numerators, the gradient `(n,)` of the sum of
            `factors * numerators`, and whether all labels are classes.
        product: `(vector, along, factors, statistics or None, batch)` to the Hessian of that sum
            times `along`, `(n,)`.
        outputs: `(vector, batch)` to the model's outputs.
        estimate: `(vector, batch)` to the means and variances of what BatchNormalization layers are
            given, flattened like the moving statistics.
    """

    def __init__(
        self,
        model: keras.Model,
        weights: FlatVariables,
        statistics: FlatVariables,
        loss: LossTerms,
        by_batch: bool,
    ):
        self.terms: list[Term] = []
        self._model = model
        self._weights = weights
        self._statistics = statistics
        self._loss = loss
        self._by_batch = by_batch
        self._scaled = "float16" in floating_types(model, weights)
        self.masses = traced(self._masses, reduce_retracing=True)
        self.value = traced(self._value, reduce_retracing=True)
        self.evaluation = traced(self._evaluation, reduce_retracing=True)
        self.gradient = traced(self._gradient, reduce_retracing=True)
        self.product = traced(self._product, reduce_retracing=True)
        self.outputs = traced(self._outputs, reduce_retracing=True)
        self.estimate = traced(self._estimate, reduce_retracing=True)

    def _forward(
        self, vector: tf.Tensor, batch: Batch, statistics: tf.Tensor | None = None
    ) -> tuple[Any, list[Term]]:
        x, y, *sample_weight = batch
        values = self._weights.pairs(vector) + _shared(self._model)
        values += [] if statistics is None else self._statistics.pairs(statistics)
        scope = keras.StatelessScope(values, collect_losses=True)
        with scope, batch_statistics(self._model, scope, self._by_batch):
            outputs = self._model(x, training=False)
            return outputs, self._loss(y, outputs, *sample_weight)

    def _masses(self, vector: tf.Tensor, batch: Batch) -> tuple[tf.Tensor, ...]:
        # TensorFlow runs only what the result needs.
        return self._sums(self._forward(vector, batch)[1])[1:]

    def _value(self, vector: tf.Tensor, batch: Batch) -> tuple[tf.Tensor, ...]:
        return self._sums(self._forward(vector, batch)[1])

    def _evaluation(
        self, vector: tf.Tensor, statistics: tf.Tensor | None, batch: Batch
    ) -> tuple[tf.Tensor, ...]:
        outputs, terms = self._forward(vector, batch, statistics)
        numerators, masses, in_range = self._sums(terms)
        return numerators, masses, hits(batch[1], outputs, terms[0].loss), in_range

    def _gradient(
        self, vector: tf.Tensor, factors: tf.Tensor, batch: Batch
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        def derive(factors: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return self._differentiated(vector, factors, None, batch)

        gradient, numerators, in_range = self._in_range_of_float16(derive, factors)
        return numerators, gradient, in_range

    def _product(
        self,
        vector: tf.Tensor,
        along: tf.Tensor,
        factors: tf.Tensor,
        statistics: tf.Tensor | None,
        batch: Batch,
    ) -> tf.Tensor:
        def derive(factors: tf.Tensor) -> tuple[tf.Tensor, ...]:
            with exact_moments(), tf.GradientTape(watch_accessed_variables=False) as outer:
                outer.watch(vector)
                gradient, *others = self._differentiated(vector, factors, statistics, batch)
            product = outer.gradient(gradient, vector, output_gradients=along)
            return _or_zeros(product, vector), *others

        return self._in_range_of_float16(derive, factors)[0]

    def _differentiated(
        self, vector: tf.Tensor, factors: tf.Tensor, statistics: tf.Tensor | None, batch: Batch
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(vector)
            _, terms = self._forward(vector, batch, statistics)
            numerators = tf.stack([term.numerator for term in terms])
            share = tf.reduce_sum(factors * numerators)
        return _or_zeros(tape.gradient(share, vector), vector), numerators, _all_in_range(terms)

    def _in_range_of_float16(
        self, derive: Callable[[tf.Tensor], tuple[tf.Tensor, ...]], factors: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Returns `derive(factors)`: a derivative, linear in the factors, numerators and others.

        The factors are about 1 over the number of examples, and a share of so many is 0 in float16.
        If anything computes in float16, they are multiplied by a power of two that makes them
        about `_PER_EXAMPLE`, the result is divided by it in float64, and while it is not finite
        though the numerators are, the power is halved. It does not depend on batches or calls
        before.
        """
        if not self._scaled:
            return derive(factors)

        def scaled(scale: tf.Tensor) -> list[tf.Tensor]:
            derivative, *others = derive(scale * factors)
            return [scale, tf.cast(derivative, tf.float64) / scale, *others]

        def overflows(
            scale: tf.Tensor, derivative: tf.Tensor, numerators: tf.Tensor, *_: tf.Tensor
        ) -> tf.Tensor:
            finite = tf.reduce_all(tf.math.is_finite(derivative))
            helps = tf.reduce_all(tf.math.is_finite(numerators))
            return ~finite & helps & (scale > first * 2.0**-_HALVINGS)

        largest = tf.maximum(tf.reduce_max(tf.abs(factors)), _LEAST)
        two = tf.constant(2.0, factors.dtype)
        first = two ** tf.floor(tf.math.log(_PER_EXAMPLE / largest) / tf.math.log(two))
        found = tf.while_loop(overflows, lambda scale, *_: scaled(scale / 2), scaled(first))
        return tuple(found[1:])

    def _outputs(self, vector: tf.Tensor, batch: Batch) -> Any:
        return self._forward(vector, batch)[0]

    def _estimate(self, vector: tf.Tensor, batch: Batch) -> tf.Tensor:
        seen: dict[int, list[tf.Tensor]] = {}
        scope = keras.StatelessScope(self._weights.pairs(vector) + _shared(self._model))
        with scope, batch_statistics(self._model, scope, True, seen):
            self._model(batch[0], training=False)
        estimates = []
        for variable in moving_statistics(self._model):
            # A layer that is called several times has the mean of its calls, as in training.
            values = seen.get(id(variable)) or [tf.convert_to_tensor(variable)]
            if any(value.graph is not tf.compat.v1.get_default_graph() for value in values):
                raise NotImplementedError(
                    "Statistics of BatchNormalization layers inside a recurrent loop cannot be "
                    f"estimated. Received: {variable.path!r}"
                )
            estimates.append(tf.reshape(tf.add_n(values) / len(values), [-1]))
        return tf.concat(estimates, axis=0)

    def _sums(self, terms: list[Term]) -> tuple[tf.Tensor, ...]:
        # Tensors of a trace are of no use outside of it.
        self.terms = [
            term._replace(numerator=None, mass=None, labels_in_range=None) for term in terms
        ]
        return (
            tf.stack([term.numerator for term in terms]),
            tf.stack([term.mass for term in terms]),
            _all_in_range(terms),
        )


def floating_types(model: keras.Model, weights: FlatVariables) -> set[str]:
    """Returns the names of the floating types that weights have or layers compute in."""
    kinds = {weights.dtype.name, *(layer.compute_dtype for layer in model._flatten_layers())}
    return {kind for kind in kinds if "float" in kind}


def _shared(model: keras.Model) -> list[tuple[keras.Variable, tf.Tensor]]:
    """Returns the first replica's values of what is not moved, for all replicas.

    Moving statistics drift apart where BatchNormalization is not synchronized, and the first
    replica's are those that Keras saves.
    """
    return [
        (variable, tf.convert_to_tensor(variable.value.values[0]))
        for variable in model.non_trainable_variables
        if isinstance(variable.value, tf.distribute.DistributedValues)
        and variable.value.dtype.is_floating
    ]


def _all_in_range(terms: list[Term]) -> tf.Tensor:
    return tf.reduce_all([term.labels_in_range for term in terms])


def _or_zeros(gradient: tf.Tensor | None, like: tf.Tensor) -> tf.Tensor:
    # No path from the weights to the loss: the derivative is zero, not missing.
    return tf.zeros_like(like) if gradient is None else gradient
