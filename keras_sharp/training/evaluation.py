"""The loss and the metrics of a model on a global batch, with nothing learned."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_sharp.losses import LossTerms
from keras_sharp.tracing import traced
from keras_sharp.training.split import Batch, Part, Split


class EvaluationStep:
    """Evaluates a global batch. Called in a graph, in cross-replica context.

    Args:
        model: A built and compiled model.
        strategy: Its strategy.
        terms: Number of terms of its loss.
        jit_compile: Whether XLA compiles the evaluation; on one replica only.
        micro_batch: Largest number of examples a replica processes at once. None: no limit.

    Attributes:
        columns: Length of a row of figures: whether a label is no class, then the numerators and
            the masses of the terms.
        bad_labels: The column that is not 0 if a label is no class.
    """

    bad_labels = 0

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy,
        terms: int,
        jit_compile: bool,
        micro_batch: int | None = None,
    ):
        self.columns = 1 + 2 * terms
        self._model = model
        self._strategy = strategy
        self._micro_batch = micro_batch
        self._loss = LossTerms(model)
        self._terms: list[tuple[str, str, float]] = []
        self._on_whole: Callable = self._row
        if jit_compile:
            self._on_whole = traced(self._row, jit_compile=True)

    def __call__(self, batch: Batch) -> tf.Tensor:
        """Returns the row of figures of a batch, `(columns,)` float32."""
        replicas, rounds = self._strategy.num_replicas_in_sync, 1
        if self._micro_batch is not None:
            rounds = -(-batch.size // (replicas * self._micro_batch))
        split = Split(self._strategy, batch, rounds)
        if replicas == 1 and split.is_flat:
            return self._strategy.run(self._on_whole, args=(batch.fetch(batch.handle),))

        def row(part: Part, at: None) -> tf.Tensor:
            return part.unless_empty(self._on_whole(part.batch))

        return split.sum(row, None, self.columns)

    def losses(self, rows: np.ndarray) -> tuple[float, dict[str, float]]:
        """Returns the loss of the union of batches, and its terms by name.

        Args:
            rows: `(batches, columns)` float32.
        """
        _, *sums = rows.sum(axis=0, dtype=np.float64)
        numerators, masses = np.split(np.asarray(sums), 2)
        total, terms = 0.0, {}
        for (name, reduction, weight), numerator, mass in zip(
            self._terms, numerators, masses, strict=True
        ):
            divisor = 1.0 if reduction == "sum" else mass
            terms[name] = float(numerator / divisor) if divisor else 0.0
            total += weight * terms[name]
        return total, terms

    def check(self, rows: np.ndarray) -> None:
        """Checks that the data as a whole give every loss something to average over.

        Args:
            rows: `(batches, columns)` float32, of all batches.

        Raises:
            ValueError: If the sample weights or the mask leave nothing.
        """
        masses = rows[:, 1 + len(self._terms) :].sum(axis=0, dtype=np.float64)
        for (name, reduction, _), mass in zip(self._terms, masses, strict=True):
            if reduction != "sum" and not mass > 0:
                raise ValueError(
                    "`data` must give every loss something to average over. Received: sample "
                    f"weights or a mask that add up to {mass:g} for {name!r}"
                )

    def _row(self, batch: tuple) -> tf.Tensor:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        # Without an entry in the scope a weight would be missing in its regularizer.
        weights = [(v, v.value) for v in self._model.trainable_variables]
        with keras.StatelessScope(weights, collect_losses=True):
            y_pred = self._model(x, training=False)
            terms = self._loss(y, y_pred, sample_weight)
        self._model.compute_metrics(x, y, y_pred, sample_weight)
        self._terms = [(term.name, term.reduction, term.weight) for term in terms]
        good = tf.reduce_all([term.labels_in_range for term in terms])
        sums = [term.numerator for term in terms] + [term.mass for term in terms]
        return tf.stack([1.0 - tf.cast(good, tf.float32), *sums])
