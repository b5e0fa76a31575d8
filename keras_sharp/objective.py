"""The function of the weights that every measure is a number of."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_sharp.batch_pass import BatchPass, floating_types
from keras_sharp.batches import Batch, EvaluationBatches
from keras_sharp.labelled import number_of_examples
from keras_sharp.losses import LossTerms
from keras_sharp.normalization import batch_normalizations, moving_statistics
from keras_sharp.rounds import Rounds
from keras_sharp.tracing import traced
from keras_sharp.weights import FlatVariables, FlatWeights
from keras_sharp.workers import Workers


class Objective:
    """The loss `f(w)` of a model over fixed data, as a pure function of its trainable weights.

    The model is evaluated at weights that are handed in, and never assigned to: an exception
    half-way leaves every weight, moving statistic, seed and optimizer slot as it was. Dropout is
    off. Batches are combined as the loss's own reduction means it, so in inference mode `f` does
    not depend on how the data are batched. Under a `tf.distribute` strategy whole batches go to the
    replicas and are added up in their order: loss and gradient are the same bits on any number of
    replicas. Under `MultiWorkerMirroredStrategy` every worker reads all the data, evaluates its
    part of the batches, and gets the same numbers.

    Args:
        model: A built Keras model. Only its trainable weights are arguments of `f`; its other
            variables (moving statistics, frozen layers) are read when `f` is evaluated.
        data: A tuple of arrays, a `tf.data.Dataset` of batches or a `keras.utils.PyDataset`,
            labelled.
        loss: Any form `compile(loss=...)` takes. Defaults to the compiled loss.
        batch_norm: `"inference"`: BatchNormalization uses its moving statistics. `"batch"`: it uses
            the statistics of the evaluation batch, whose size is then part of the function. Frozen
            BatchNormalization layers stay in inference mode, as everywhere in Keras.
        batch_size: Examples per evaluation batch. Defaults to 1000 for arrays and to a pipeline's
            own.
        penalties: Whether `model.losses` (regularizers, `add_loss`) belong to `f`.
        check_data: Whether to refuse data that are not the same the second time.

    Raises:
        ValueError: For an unbuilt model, one without trainable weights or without a loss, data that
            are empty, unlabelled or change, weights that are not finite, and labels that are no
            class of the output.

    Example:
    ```python
    objective = keras_sharp.Objective(model, (x, y), batch_norm="batch", batch_size=5000)
    loss, gradient = objective.value_and_gradient(objective.weights)
    ```
    """

    def __init__(
        self,
        model: keras.Model,
        data: Any,
        loss: Any = None,
        *,
        batch_norm: str = "inference",
        batch_size: int | None = None,
        penalties: bool = True,
        check_data: bool = True,
    ):
        if batch_norm not in ("inference", "batch"):
            raise ValueError(
                f'`batch_norm` must be "inference" or "batch". Received: batch_norm={batch_norm!r}'
            )
        self._model = model
        self._flat = FlatWeights(model)
        if not np.isfinite(self.weights).all():  # a layer may turn NaN into 0, and hide it
            raise ValueError(
                "The weights of the model must be finite. Received: NaN or infinity in "
                f"{np.sum(~np.isfinite(self.weights)):,} of {self.size:,}"
            )
        self._statistics = FlatVariables(moving_statistics(model))
        terms = LossTerms(model, loss, penalties=penalties, dtype=tf.float64)
        self._pass = BatchPass(model, self._flat, self._statistics, terms, batch_norm == "batch")
        self._batches = EvaluationBatches(data, batch_size, check=check_data)
        self._batch_norm = batch_norm
        self._penalties = penalties
        self._strategy = model.distribute_strategy
        self._workers = Workers(self._strategy)
        self._rounds = Rounds(self._pass, self._strategy, self._workers)
        given = self._batches.digest, self._batches.sizes, batch_norm, penalties
        self._workers.check_same(
            "`data`, `batch_size`, `batch_norm` and `penalties`",
            lambda: given,
            "Each worker reads all the data.",
        )
        self._divisors: np.ndarray | None = None
        self._centre: np.ndarray | None = None
        self._known: dict[str, Any] = {}
        self._add = traced(lambda total, part: total + tf.cast(part, tf.float64))

    @property
    def model(self) -> keras.Model:
        """The model."""
        return self._model

    @property
    def batches(self) -> EvaluationBatches:
        """The evaluation batches, in their order."""
        return self._batches

    @property
    def workers(self) -> Workers:
        """The processes that evaluate `f` together."""
        return self._workers

    @property
    def size(self) -> int:
        """Number of trainable weights `n`."""
        return self._flat.size

    @property
    def weights(self) -> np.ndarray:
        """The model's current weights, `(n,)` float64, in `model.trainable_variables` order."""
        return self._flat.read()

    @property
    def statistics(self) -> np.ndarray:
        """The moving statistics of unfrozen BatchNormalization layers, `(m,)` float64.

        All means, then all variances.
        """
        return self._statistics.read()

    @property
    def rounding(self) -> float:
        """Relative rounding of the coarsest floating type that weights or layers compute in.

        That of bfloat16 if a single layer does: `f` is no more exact than its coarsest step.
        """
        return max(_rounding(kind) for kind in floating_types(self._model, self._flat))

    @property
    def segments(self) -> dict[str, slice]:
        """Where each trainable variable lies in the flat vector, by the variable's path."""
        return self._flat.segments()

    @property
    def settings(self) -> dict[str, Any]:
        """What makes this the function it is, ready for JSON."""
        norms = batch_normalizations(self._model)
        sizes = self._batches.sizes
        return {
            "model": self._model.name,
            "weights": self.size,
            "examples": self._batches.examples,
            "data_digest": self._batches.digest,
            "batches": len(sizes),
            "batch_size": max(sizes),
            "batch_norm": self._batch_norm,
            "batch_norm_layers": len(norms),
            "frozen_batch_norm_layers": [layer.name for layer in norms if not layer.trainable],
            "penalties": self._penalties,
            "losses": [
                {
                    "output": term.name,
                    "loss": term.loss,
                    "reduction": term.reduction,
                    "weight": term.weight,
                }
                for term in self._pass.terms
            ],
            "dtype_policy": self._model.dtype_policy.name,
            "replicas": self._strategy.num_replicas_in_sync,
        }

    def value(self, weights: np.ndarray | tf.Tensor | None = None) -> float:
        """Returns `f(w)`, summed in float64; not finite if a loss is not.

        Args:
            weights: `(n,)`. Defaults to the model's current weights.

        Raises:
            ValueError: For a vector of another length, labels that are no class, data that are not
                the same as before, and sample weights or a mask that leave nothing to average over.
        """
        return self._once(
            "value", weights, lambda vector: self._summed(self._pass.value, vector)[0]
        )

    def evaluate(
        self,
        weights: np.ndarray | tf.Tensor | None = None,
        statistics: np.ndarray | None = None,
    ) -> tuple[float, float | None]:
        """Returns `f(w)` and the share of right predictions, in one pass.

        Args:
            weights: `(n,)`. Defaults to the model's current weights.
            statistics: `(m,)`, in the order of `statistics`. Defaults to the model's moving
                statistics. In batch mode they are not used.

        Returns:
            The loss, and the accuracy from 0 to 1, or None if the loss is no cross-entropy of
            Keras's or the model has several outputs.
        """
        vector, statistics = self._vector(weights), self._checked_statistics(statistics)
        value, (right, counted) = self._summed(self._pass.evaluation, vector, statistics)
        return value, float(right / counted) if counted else None

    def estimate_statistics(self, weights: np.ndarray | tf.Tensor | None = None) -> np.ndarray:
        """Returns means and variances over the data of what BatchNormalization layers are given.

        The layers use the statistics of the evaluation batch meanwhile, whatever the mode. Those of
        all batches are pooled: the variance includes that between batches.

        Args:
            weights: `(n,)`. Defaults to the model's current weights.

        Returns:
            `(m,)` float64, in the order of `statistics`.

        Raises:
            NotImplementedError: For a BatchNormalization layer inside a recurrent loop.
        """
        if not self._statistics.size:
            return self.statistics
        half, moments = self._statistics.size // 2, 0.0
        results = self._over_batches(self._pass.estimate, self._vector(weights))
        for (estimate, _), size in zip(results, self._batches.sizes, strict=True):
            if not size:  # a pipeline may yield an empty batch, whose mean is NaN
                continue
            mean, variance = np.split(estimate.numpy().astype(np.float64), [half])
            share = size / self._batches.examples
            moments = moments + share * np.concatenate([mean, variance + mean**2])
        mean, square = np.split(moments, [half])
        return np.concatenate([mean, np.maximum(square - mean**2, 0.0)])

    def value_and_gradient(
        self, weights: np.ndarray | tf.Tensor | None = None
    ) -> tuple[float, np.ndarray | tf.Tensor]:
        """Returns `f(w)` and its gradient, `(n,)` float64.

        Args:
            weights: `(n,)`. The gradient is a tensor if this is one, else NumPy. Defaults to the
                model's current weights.

        Raises:
            ValueError: As `value`.
        """
        value, gradient = self._once("gradient", weights, self._value_and_gradient)
        return value, gradient if isinstance(weights, tf.Tensor) else gradient.numpy()

    def _value_and_gradient(self, vector: tf.Tensor) -> tuple[float, tf.Tensor]:
        factors = tf.constant(self._factors())
        numerators, total = 0.0, None
        results = self._over_labelled(self._pass.gradient, vector, factors)
        for (part, gradient), _ in results:
            numerators = numerators + part.numpy()
            total = tf.cast(gradient, tf.float64) if total is None else self._add(total, gradient)
        return float(np.sum(self._factors() * numerators)), total

    def gradients(
        self,
        weights: np.ndarray | tf.Tensor | None = None,
        *,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> Iterator[tuple[int, tf.Tensor]]:
        """Yields the gradients of small batches, each with its number of examples.

        The gradient of an example is `N` times its share in that of `f`, that of a batch the mean
        over its examples; the mean over all examples is the gradient of `f`.

        Args:
            weights: `(n,)`. Defaults to the model's current weights.
            batch_size: Largest number of examples in a batch. The batches are random: arrays are
                shuffled as a whole; of a pipeline, the examples of each of its batches. Defaults to
                None: the evaluation batches.
            seed: Decides which examples make up a batch, with `batch_size`.

        Yields:
            The number of examples, and `(n,)` float64.
        """
        vector, factors = self._vector(weights), tf.constant(self._factors())
        batches = None if batch_size is None else self._batches.pieces(batch_size, seed)
        results = self._over_labelled(self._pass.gradient, vector, factors, batches=batches)
        for (_, gradient), batch in results:
            if examples := number_of_examples(batch):  # a pipeline may yield an empty one
                yield examples, self._batches.examples / examples * tf.cast(gradient, tf.float64)

    def hessian_vector_product(
        self,
        vector: np.ndarray | tf.Tensor,
        weights: np.ndarray | tf.Tensor | None = None,
        statistics: np.ndarray | None = None,
    ) -> np.ndarray | tf.Tensor:
        """Returns the Hessian of `f` at `w` times a vector, `(n,)` float64.

        Exact also through LayerNormalization, GroupNormalization and BatchNormalization in batch
        mode, where TensorFlow's own second derivatives are not.

        Args:
            vector: `(n,)`. The result is a tensor if this is one, else NumPy.
            weights: `(n,)`. Defaults to the model's current weights.
            statistics: `(m,)`, as `evaluate` takes them.

        Raises:
            NotImplementedError: If an operation of the model has no second derivative.
            ValueError: As `value`.
        """
        at, along = self._vector(weights), self._vector(vector)
        factors, total = tf.constant(self._factors()), None
        arguments = at, along, factors, self._checked_statistics(statistics)
        try:
            for product, _ in self._over_batches(self._pass.product, *arguments):
                total = tf.cast(product, tf.float64) if total is None else self._add(total, product)
        except LookupError as error:
            raise NotImplementedError(
                f"An operation of {self._model.name!r} has no second derivative in TensorFlow "
                f"({error}). On a GPU these are the fused recurrent kernels: build LSTM and GRU "
                "with `use_cudnn=False`."
            ) from error
        return total if isinstance(vector, tf.Tensor) else total.numpy()

    def parts(self, examples: int) -> Iterator["Objective"]:
        """Yields `f` over successive parts of the data, as objectives of their own.

        A part is one evaluation batch, whose statistics BatchNormalization uses in batch mode. The
        parts share what this objective has traced.

        Args:
            examples: Examples in a part; the last one has what is left.
        """
        for batch in self._batches.regrouped(examples):
            part = copy.copy(self)
            part._batches = EvaluationBatches(batch, examples)
            part._divisors, part._centre = None, None
            yield part

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """While open, during which nobody may change the model, `f` at its weights is known.

        The value there and the gradient, with which most measures begin, are computed once.
        """
        self._centre, self._known = self.weights, {}
        try:
            yield
        finally:
            self._centre, self._known = None, {}

    def predict(self, weights: np.ndarray | tf.Tensor | None = None) -> Any:
        """Returns the model's outputs at `w` in this BatchNormalization mode.

        Args:
            weights: `(n,)`. Defaults to the model's current weights.

        Returns:
            NumPy arrays `(N, ...)`, structured as the model's outputs.

        Raises:
            ValueError: For a vector of another length, and data that are not the same as before.
        """
        vector = self._vector(weights)
        parts = [outputs for outputs, _ in self._over_batches(self._pass.outputs, vector)]
        return keras.tree.map_structure(
            lambda *leaves: np.concatenate([each.numpy() for each in leaves]), *parts
        )

    def _over_batches(
        self, function: Callable, *arguments: Any, batches: Iterator[Batch] | None = None
    ) -> Iterator[tuple[Any, Batch]]:
        """Yields `(function(*arguments, batch), batch)` in the batches' order."""
        return self._rounds.over(
            iter(self._batches) if batches is None else batches, function, *arguments
        )

    def _over_labelled(
        self, function: Callable, *arguments: Any, batches: Iterator[Batch] | None = None
    ) -> Iterator[tuple[list[Any], Batch]]:
        """Yields what `_over_batches` does, without the last result: if labels are classes."""
        for (*results, in_range), batch in self._over_batches(
            function, *arguments, batches=batches
        ):
            self._check_labels(in_range, batch)
            yield results, batch

    def _summed(self, function: Any, *arguments: Any) -> tuple[float, np.ndarray]:
        """Returns `f` and the sum of what `function` returns beside it."""
        numerators, masses, others = 0.0, 0.0, np.zeros(2)
        for (part, mass, *other), _ in self._over_labelled(function, *arguments):
            numerators, masses = numerators + part.numpy(), masses + mass.numpy()
            others = others + sum(each.numpy() for each in other)
        if self._divisors is None:
            self._divisors = self._checked_divisors(masses)
        return float(np.sum(self._factors() * numerators)), others

    def _once(
        self, name: str, weights: np.ndarray | tf.Tensor | None, compute: Callable[[tf.Tensor], Any]
    ) -> Any:
        """Returns `compute(weights)`, while at rest only once at the model's weights."""
        vector = self._vector(weights)
        resting = self._centre is not None
        if not resting or not (weights is None or np.array_equal(weights, self._centre)):
            return compute(vector)
        if name not in self._known:
            self._known[name] = compute(vector)
        return self._known[name]

    def _vector(self, weights: np.ndarray | tf.Tensor | None) -> tf.Tensor:
        return _checked_vector(self.weights if weights is None else weights, self._flat)

    def _checked_statistics(self, statistics: np.ndarray | None) -> tf.Tensor | None:
        return None if statistics is None else _checked_vector(statistics, self._statistics)

    def _factors(self) -> np.ndarray:
        """`(terms,)`: what each term's numerator is multiplied by in `f`."""
        if self._divisors is None:
            masses, vector = 0.0, self._vector(None)
            for (mass,), _ in self._over_labelled(self._pass.masses, vector):
                masses = masses + mass.numpy()
            self._divisors = self._checked_divisors(masses)
        return np.array([term.weight for term in self._pass.terms]) / self._divisors

    def _checked_divisors(self, masses: np.ndarray) -> np.ndarray:
        sums = np.array([term.reduction == "sum" for term in self._pass.terms])
        divisors = np.where(sums, 1.0, masses)
        if not np.all(divisors > 0):
            raise ValueError(
                "`data` must give every loss something to average over, and sample weights and "
                f"mask leave nothing. Received: a sum of {divisors.min()} for "
                f"{self._pass.terms[int(divisors.argmin())].name!r}"
            )
        return divisors

    def _check_labels(self, in_range: tf.Tensor, batch: Batch) -> None:
        if bool(in_range):
            return
        labels = [np.asarray(leaf) for leaf in keras.tree.flatten(batch[1])]
        ranges = ", ".join(f"{leaf.min()} to {leaf.max()}" for leaf in labels)
        outputs = keras.tree.map_structure(
            lambda leaf: leaf.shape[-1], self._pass.outputs(self._vector(None), batch)
        )
        raise ValueError(
            "Labels must be integers from 0 to the number of classes - 1, those of a binary loss "
            f"from 0 to 1. Received: labels from {ranges}; classes: {outputs}"
        )


def _rounding(kind: str) -> float:
    return float(np.spacing(tf.as_dtype(kind).as_numpy_dtype(1)))


def _checked_vector(vector: np.ndarray | tf.Tensor, flat: FlatVariables) -> tf.Tensor:
    if tuple(vector.shape) != (flat.size,):
        raise ValueError(
            f"A vector over the weights must have shape ({flat.size},). Received: "
            f"{tuple(vector.shape)}"
        )
    return tf.cast(vector, flat.dtype)
