"""The loss of a batch as terms that add up over batches, micro-batches and replicas.

Keras reduces the loss of a batch to one number, and the number of a whole is not the mean of the
numbers of its parts: an uneven last batch weighs too much, a masked or weighted one too little.
Kept as a sum and its divisor, any parts add up exactly, for each of Keras's reductions.
"""

from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras.src.losses.loss import apply_mask, reduce_weighted_values
from keras.src.trainers.compile_utils import CompileLoss

_SPARSE = (keras.losses.sparse_categorical_crossentropy,)
_BINARY = (keras.losses.binary_crossentropy, keras.losses.binary_focal_crossentropy)
_CROSS_ENTROPIES = (*_SPARSE, *_BINARY, keras.losses.categorical_crossentropy)


class Term(NamedTuple):
    """One term of the loss on one part of the data.

    The term of a union of parts is `sum(numerator) / sum(mass)`; for reduction `"sum"` the divisor
    is 1.

    Attributes:
        name: The output's or the penalty's name.
        reduction: `"sum_over_batch_size"`, `"sum"` or `"mean_with_sample_weight"`.
        weight: The term's factor in the total loss (`loss_weights` of `compile`).
        numerator: Scalar, sum of the weighted loss values.
        mass: Scalar, what Keras would divide by on this part.
        labels_in_range: Scalar bool, False if a label is no class of the output, or for a binary
            loss not from 0 to 1. Such a label counts as 0, so whoever evaluates terms must look at
            this.
        loss: What is computed, with its options.
    """

    name: str
    reduction: str
    weight: float
    numerator: tf.Tensor
    mass: tf.Tensor
    labels_in_range: tf.Tensor
    loss: str


class LossTerms:
    """The loss a model is compiled with, or another one, term by term.

    Masks of the outputs, `sample_weight`, `loss_weights` and several outputs mean what they mean in
    `keras.Model.fit`. Nothing is scaled by the number of replicas and no metric is updated.

    Args:
        model: A Keras model.
        loss: Any form `compile(loss=...)` takes. Defaults to the compiled loss.
        penalties: Whether `model.losses` (regularizers, `add_loss`) count. A penalty that depends
            on the data is averaged over parts by their numbers of examples.
        dtype: Type in which the loss values are summed, and Keras's cross-entropies computed if it
            is float64: `log(1 + 1e-6)` has one digit in float32.

    Raises:
        ValueError: If there is no loss, or the model computes its own (`compute_loss` overridden).
    """

    def __init__(
        self,
        model: keras.Model,
        loss: Any = None,
        *,
        penalties: bool = True,
        dtype: tf.DType = tf.float32,
    ):
        self._model = model
        self._penalties = penalties
        self._dtype = dtype
        weights = None
        if loss is None:
            if type(model).compute_loss is not keras.Model.compute_loss:
                raise ValueError(
                    f"`loss` must be given for {model.name!r}: the model overrides `compute_loss`, "
                    "and its loss cannot be split exactly over batches. Pass `loss=` in a form "
                    "`compile` takes."
                )
            loss, weights = _compiled_loss(model)
        self._reduce = _TermRecorder(loss, weights, getattr(model, "output_names", None), dtype)

    def __call__(self, y: Any, y_pred: Any, sample_weight: Any = None) -> list[Term]:
        """Returns the terms of one part.

        Call it in the `keras.StatelessScope(collect_losses=True)` in which `y_pred` was computed;
        the scope must hold values for all trainable variables, which regularizers look up there.
        """
        terms = self._reduce.terms(y, y_pred, sample_weight)
        if self._penalties and self._model.losses:
            examples = tf.cast(tf.shape(keras.tree.flatten(y_pred)[0])[0], self._dtype)
            value = tf.add_n([tf.cast(tf.reduce_sum(p), self._dtype) for p in self._model.losses])
            terms.append(
                Term(
                    "penalties",
                    "sum_over_batch_size",
                    1.0,
                    value * examples,
                    examples,
                    tf.constant(True),
                    "model.losses",
                )
            )
        return terms


def _compiled_loss(model: keras.Model) -> tuple[Any, Any]:
    # The only place that reads what `compile` was given: Keras has no public name for the loss
    # weights.
    compiled = getattr(model, "_compile_loss", None)
    if compiled is None:
        raise ValueError(
            "`loss` must be given, or the model compiled with one: `model.compile(loss=...)`. "
            f"Received: model={model.name!r}, loss=None"
        )
    return compiled._user_loss, compiled._user_loss_weights


class _TermRecorder(CompileLoss):
    """Keras's own matching of losses to outputs, with every reduction left open."""

    def __init__(self, loss: Any, loss_weights: Any, output_names: Any, dtype: tf.DType):
        super().__init__(loss, loss_weights, output_names=output_names)
        self._sum_dtype = dtype
        self._terms: list[Term] = []

    def build(self, y_true: Any, y_pred: Any) -> None:
        super().build(y_true, y_pred)
        self._flat_losses = [
            entry._replace(loss=self._recorded(entry), loss_weights=None)
            for entry in self._flat_losses
        ]

    def terms(self, y: Any, y_pred: Any, sample_weight: Any) -> list[Term]:
        self._terms = []
        self(y, y_pred, sample_weight)
        # Of several losses for a single output Keras computes all and takes the first.
        single = not keras.tree.is_nested(y) and not keras.tree.is_nested(y_pred)
        return self._terms[:1] if single else self._terms

    def _recorded(self, entry: Any):
        loss, dtype = entry.loss, self._sum_dtype
        if type(loss).__call__ is not keras.losses.Loss.__call__:
            raise ValueError(
                f"The loss of {entry.name!r} must override `call`, which returns one value per "
                f"example, and not `__call__`. Received: {type(loss).__name__}"
            )
        reduction = _standard(loss.reduction, entry.name)
        weight = 1.0 if entry.loss_weights is None else float(entry.loss_weights)
        widen = dtype == tf.float64 and getattr(loss, "fn", None) in _CROSS_ENTROPIES

        def call(y_true, y_pred, sample_weight):
            y_true, in_range = _labels_in_range(loss, y_true, y_pred)
            wide = _wide_logits(loss, y_pred) if widen else None
            kind = loss.dtype if wide is None else "float64"
            y_true, converted = (
                keras.tree.map_structure(lambda t: keras.ops.convert_to_tensor(t, dtype=kind), each)
                for each in (y_true, y_pred if wide is None else wide)
            )
            values = loss.call(y_true, converted)
            how = reduction
            if len(values.shape) == 0:
                values = _one_per_example(values, converted, sample_weight, entry.name)
                how = "sum_over_batch_size"
            masks = [getattr(each, "_keras_mask", None) for each in (y_pred, values)]
            masks = [mask for mask in masks if mask is not None]
            mask = tf.reduce_all(tf.stack(masks), axis=0) if masks else None
            mass = _mass(how, values, mask, sample_weight, dtype)
            values = reduce_weighted_values(values, sample_weight, mask, "none", kind)
            numerator = tf.reduce_sum(tf.cast(values, dtype))
            term = Term(entry.name, how, weight, numerator, mass, in_range, _identity(loss))
            self._terms.append(term)
            return tf.cast(numerator, loss.dtype)

        return call


def _wide_logits(loss: keras.losses.Loss, y_pred: tf.Tensor) -> tf.Tensor | None:
    """Returns `y_pred` in float64, or None if it is probabilities rounded already.

    From what came out of a softmax or a sigmoid Keras computes with the logits that went in, unless
    it has to convert the type, and so does this.
    """
    converted = y_pred.dtype.name != loss.dtype
    wide, logits = tf.cast(y_pred, tf.float64), getattr(y_pred, "_keras_logits", None)
    if logits is not None and not converted:
        wide._keras_logits = tf.cast(logits, tf.float64)
        return wide
    if tf.is_symbolic_tensor(y_pred) and y_pred.op.type in ("Softmax", "Sigmoid") and not converted:
        return None  # a cast would hide the operation by which Keras finds the logits
    return wide if getattr(loss, "from_logits", False) else None


def _standard(reduction: str | None, name: str) -> str:
    reduction = {"mean": "sum_over_batch_size"}.get(reduction, reduction)
    if reduction not in ("sum_over_batch_size", "sum", "mean_with_sample_weight"):
        raise ValueError(
            f"The loss of {name!r} must be reduced to one number: its reduction must be "
            '"sum_over_batch_size", "sum" or "mean_with_sample_weight". '
            f"Received: reduction={reduction!r}"
        )
    return reduction


def _one_per_example(values: tf.Tensor, y_pred: Any, sample_weight: Any, name: str) -> tf.Tensor:
    """Spreads a loss that is already one number over the examples it is the mean of."""
    if sample_weight is not None:
        raise ValueError(
            f"The loss of {name!r} must return one value per example to be weighted by "
            "`sample_weight`. Received: a loss that returns a scalar"
        )
    return tf.fill([tf.shape(keras.tree.flatten(y_pred)[0])[0]], values)


def _mass(
    reduction: str, values: tf.Tensor, mask: Any, sample_weight: Any, dtype: tf.DType
) -> tf.Tensor:
    """What Keras divides the sum of `values` by."""
    if reduction == "mean_with_sample_weight" and sample_weight is not None:
        weights = keras.ops.convert_to_tensor(sample_weight, dtype=values.dtype)
        weights = apply_mask(weights, mask, values.dtype, reduction)
        return tf.reduce_sum(tf.cast(weights, dtype))
    if mask is not None:
        return tf.reduce_sum(tf.cast(mask, dtype))
    return tf.cast(tf.size(values), dtype)


def _labels_in_range(loss: keras.losses.Loss, y_true: Any, y_pred: Any) -> tuple[Any, tf.Tensor]:
    """Replaces labels that the loss has no meaning for by 0, and says whether there were any.

    Of labels that are no class TensorFlow's CPU kernel raises without naming them, and its GPU
    kernel returns NaN; it takes 2.7 for class 2. The binary losses compute a number from any label.
    """
    function = getattr(loss, "fn", None)
    if function not in (*_SPARSE, *_BINARY):
        return y_true, tf.constant(True)
    y_true = tf.convert_to_tensor(y_true)
    _check_kind(y_true, y_pred, sparse=function in _SPARSE)
    if y_true.dtype == tf.bool:
        return y_true, tf.constant(True)
    # As wide as any number of classes: 300 is no uint8.
    labels = tf.cast(y_true, tf.float64 if y_true.dtype.is_floating else tf.int64)
    if function in _BINARY:
        good = (labels >= 0) & (labels <= 1)
    else:
        good = (labels >= 0) & (labels < tf.cast(y_pred.shape[-1], labels.dtype))
        if labels.dtype.is_floating:
            good &= labels == tf.floor(labels)
        ignored = getattr(loss, "ignore_class", None)
        if ignored is not None:
            good |= labels == tf.cast(ignored, labels.dtype)
    return tf.where(good, y_true, tf.zeros_like(y_true)), tf.reduce_all(good)


def _check_kind(y_true: tf.Tensor, y_pred: Any, sparse: bool) -> None:
    if y_true.dtype == tf.string:
        raise ValueError(
            "Labels must be numbers: with `keras.layers.StringLookup` or NumPy's "
            "`unique(labels, return_inverse=True)` each class gets one. Received: strings"
        )
    shape = y_true.shape
    many = shape.rank is not None and shape.rank == y_pred.shape.rank and (shape[-1] or 1) > 1
    if sparse and many:
        raise ValueError(
            "Labels of a sparse loss must be one class an example. Take `CategoricalCrossentropy` "
            "for labels that are one-hot, or their `argmax`. Received: labels of shape "
            f"{shape} for outputs of shape {y_pred.shape}"
        )


def _identity(loss: keras.losses.Loss) -> str:
    """Names a loss with everything that decides its values."""
    function = getattr(loss, "fn", None)
    if type(loss).__name__ == "LossFunctionWrapper" and function is not None:
        return getattr(function, "__qualname__", type(function).__name__)
    config = {name: value for name, value in loss.get_config().items() if name != "name"}
    return f"{type(loss).__name__}({', '.join(f'{k}={v!r}' for k, v in config.items())})"
