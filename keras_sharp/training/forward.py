"""The training pass over a part of a batch, forward and backward, without touching the model."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_sharp.losses import LossTerms, Term

# Distance between the seeds of two parts of a batch: more than any layer draws in a step.
SEED_STRIDE = 1_000_003


class Contribution(NamedTuple):
    """What a part of a batch adds to the step.

    Attributes:
        values: `(1 + terms,)` float32: 1 if a label is no class, then the part's share of each term
            of the loss. The shares of all parts add up to the term of the batch.
        gradients: The part's share of the gradient, a dense tensor for each trainable weight.
        states: New values of `Forward.states`.
    """

    values: tf.Tensor
    gradients: list[tf.Tensor]
    states: list[tf.Tensor]


class Forward:
    """The pass of a model and its loss over a part of a global batch.

    It runs in a `keras.StatelessScope`, so no weight and no state is assigned: each part can draw
    its own dropout masks, and the moving statistics of all parts can be averaged and written once.

    Args:
        model: A built and compiled model.
        loss: Its loss.

    Attributes:
        trainable: The trainable weights.
        states: Variables that passes update, in the order of `Contribution.states`. Known, like
            the attributes below, once a pass was traced on each branch.
        updated: The ids of those that a pass updates, for each branch.
        connected: Indices of the trainable weights on which the loss depends, on some branch.
        terms: The terms of the loss of the pass traced last.
        weighted: Whether the divisors of the terms depend on more than the number of examples.
    """

    def __init__(self, model: keras.Model, loss: LossTerms):
        self.trainable = model.trainable_variables
        self.states: list[keras.Variable] = []
        self.updated: dict[str, set[int]] = {}
        self.connected: set[int] = set()
        self.terms: list[Term] = []
        self.weighted = False
        self._model = model
        self._loss = loss
        kept = [metric for layer in model._flatten_layers() for metric in layer._metrics]
        self._metrics = [v for metric in kept for v in metric.variables]
        self._seeds = [v for v in model.non_trainable_variables if v.name == "seed_generator_state"]
        # Others may use the name for something else.
        branches = [(layer, getattr(layer, "branch", None)) for layer in model._flatten_layers()]
        self._branching = [
            layer
            for layer, branch in branches
            if isinstance(branch, str) and branch in ("main", "adversarial")
        ]

    @property
    def statistics(self) -> list[keras.Variable]:
        """The moving statistics: states that are floats."""
        return [v for v in self.states if v.value.dtype.is_floating]

    @contextlib.contextmanager
    def on_branch(self, branch: str) -> Iterator[None]:
        """Makes layers whose `branch` is `"main"` or `"adversarial"` take this one.

        Enter it in cross-replica context: the threads that trace replicas wait for each other
        half-way through the model, so none of them may go back to the main branch on its own.
        """
        before = [layer.branch for layer in self._branching]
        for layer in self._branching:
            layer.branch = branch
        try:
            yield
        finally:
            for layer, old in zip(self._branching, before, strict=True):
                layer.branch = old

    def __call__(
        self,
        batch: tuple,
        at: list[tf.Tensor] | None = None,
        *,
        record: bool = True,
        number: tf.Tensor | None = None,
        share: tf.Tensor | None = None,
        masses: tf.Tensor | None = None,
        branch: str = "main",
        attack: Callable | None = None,
        attack_at: tuple[list, list] | None = None,
    ) -> Contribution:
        """Returns what the part adds to the step.

        Args:
            batch: `(x, y)` or `(x, y, sample_weight)`.
            at: Where to evaluate, a tensor for each trainable weight. Defaults to the weights.
            record: Whether the metrics count this pass.
            number: Number of the part. None if the batch is one part, like `share` and `masses`.
            share: Scalar float32, the part's fraction of the examples of the batch.
            masses: `(terms,)`, the divisors of the terms for the whole batch, if `weighted`.
            branch: The branch of `on_branch` this is called in.
            attack: Changes the inputs before: `attack(slope, x, moment)` returns them, see `PGD`.
            attack_at: Values of `trainable` and `statistics` the attack looks at. Defaults to `at`
                and the current ones.

        Raises:
            ValueError: If the pass updates what no step would write, as `predict` does.
        """
        if attack is not None:
            place = (at, None) if attack_at is None else attack_at
            batch = self._attacked(batch, attack, *place, number, branch)
        targets = [v.value for v in self.trainable] if at is None else at
        scale = loss_scale(self._model.optimizer)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(targets)
            options = {"number": number, "record": record, "branch": branch}
            y_pred, states = self.predict(batch, at, **options)
            values = [_value(term, share, masses, i) for i, term in enumerate(self.terms)]
            loss = tf.add_n([t.weight * value for t, value in zip(self.terms, values, strict=True)])
            if scale is not None:
                loss *= tf.cast(scale, loss.dtype)
        gradients = tape.gradient(loss, targets)
        for i, g in enumerate(gradients):
            if g is None:
                g = tf.zeros(targets[i].shape, targets[i].dtype)
            else:
                self.connected.add(i)
            g = tf.convert_to_tensor(g)  # an embedding's gradient is sparse
            gradients[i] = g if scale is None else g / tf.cast(scale, g.dtype)
        if record:
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
            self._model.compute_metrics(x, y, y_pred, sample_weight)
        return Contribution(tf.stack([self._bad_labels(), *values]), gradients, states)

    def predict(
        self,
        batch: tuple,
        at: Any = None,
        *,
        number: Any = None,
        record: bool = False,
        branch: str = "main",
        training: bool = True,
        statistics: list[tf.Tensor] | None = None,
    ) -> tuple[Any, list[tf.Tensor]]:
        """Returns the predictions and the new states, and sets `terms` and `weighted`.

        Raises:
            ValueError: If the pass updates variables whose updates would be lost.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        # Without an entry in the scope a weight would be missing in its regularizer.
        at = [v.value for v in self.trainable] if at is None else at
        values, shifts = list(zip(self.trainable, at, strict=True)), {}
        if statistics is not None:
            values += zip(self.statistics, statistics, strict=True)
        if number is not None:
            shifts = {id(v): tf.cast(number * SEED_STRIDE, v.dtype) for v in self._seeds}
            values += [(v, v.value + shifts[id(v)]) for v in self._seeds]
        scope = keras.StatelessScope(values, collect_losses=True)
        before = dict(scope.state_mapping)
        with scope:
            y_pred = self._model(x, training=training)
            updated = {k for k, v in scope.state_mapping.items() if before.get(k) is not v}
            self.terms = self._loss(y, y_pred, sample_weight)
        divisors = [t.mass for t in self.terms if t.reduction != "sum"]
        self.weighted = any(_depends_on_values(mass) for mass in divisors)
        self._check_updates(updated)
        self.updated.setdefault(branch, set()).update(updated)
        known = set().union(*self.updated.values())
        self.states = [v for v in self._model.non_trainable_variables if id(v) in known]
        if record:
            self._update_layer_metrics(scope, y_pred)
        values = scope.state_mapping
        states = [values.get(id(v), tf.convert_to_tensor(v.value)) for v in self.states]
        return y_pred, [s - shifts.get(id(v), 0) for s, v in zip(states, self.states, strict=True)]

    def _attacked(
        self,
        batch: tuple,
        attack: Callable,
        at: list | None,
        statistics: list | None,
        number: Any,
        branch: str,
    ) -> tuple:
        """Returns the part with the inputs that an attack makes of them."""
        x, *others = batch
        if not all(part.dtype.is_floating for part in keras.tree.flatten(x)):
            dtypes = [part.dtype.name for part in keras.tree.flatten(x)]
            raise ValueError(
                "`data` must have inputs that are floats to be attacked: convert them before. "
                f"Received: inputs of {', '.join(dtypes)}"
            )
        scale = loss_scale(self._model.optimizer)
        options = {"number": number, "branch": branch, "statistics": statistics}

        def slope(x):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(keras.tree.flatten(x))
                self.predict((x, *others), at, training=attack.training, **options)
                values = [term.weight * _value(term, None, None, 0) for term in self.terms]
                loss = tf.add_n(values)
                if scale is not None:
                    loss *= tf.cast(scale, loss.dtype)
            zero = tf.UnconnectedGradients.ZERO
            return tape.gradient(loss, x, unconnected_gradients=zero)

        part = tf.zeros((), tf.int64) if number is None else number
        iterations = tf.convert_to_tensor(self._model.optimizer.iterations.value)
        moment = tf.stack([tf.cast(iterations, tf.int64), part])
        return tf.nest.map_structure(tf.stop_gradient, attack(slope, x, moment)), *others

    def masses(self) -> tf.Tensor:
        """Returns the divisors of the terms of the pass traced last, `(terms,)`."""
        return tf.stack([t.mass for t in self.terms])

    def _bad_labels(self) -> tf.Tensor:
        good = tf.reduce_all([t.labels_in_range for t in self.terms])
        return 1.0 - tf.cast(good, tf.float32)

    def _update_layer_metrics(self, scope: keras.StatelessScope, y_pred: Any) -> None:
        empty = tf.equal(tf.shape(keras.tree.flatten(y_pred)[0])[0], 0)
        for v in self._metrics:
            if id(v) in scope.state_mapping:
                v.assign(tf.where(empty, v.value, scope.get_current_value(v)))

    def _check_updates(self, updated: set[int]) -> None:
        known = {id(v) for v in [*self._model.non_trainable_variables, *self._metrics]}
        if not updated <= known:
            names = [v.path for v in self.trainable if id(v) in updated] or "of no layer"
            raise ValueError(
                "A forward pass may update non-trainable weights, seed generators and metrics that "
                "are attributes of the model or its layers, and nothing else: other updates would "
                f"be lost. Received: model {self._model.name!r}, which updates variables {names}. "
                "Give random layers a `keras.random.SeedGenerator` of their own."
            )


def loss_scale(optimizer: keras.optimizers.Optimizer) -> Any:
    """Returns the factor by which an optimizer wants the loss scaled, or None."""
    one = tf.ones(())
    scale = optimizer.scale_loss(one)
    return None if scale is one else scale


def _depends_on_values(tensor: tf.Tensor) -> bool:
    """Whether a tensor of a graph depends on values (masks, weights) and not on shapes alone."""
    seen, found = set(), [tensor.op]
    while found:
        op = found.pop()
        if op.name in seen or op.type in ("Shape", "Size"):
            continue
        if op.type != "Const" and not op.inputs:
            return True
        seen.add(op.name)
        found += [t.op for t in op.inputs]
    return False


def _value(term: Term, share: Any, masses: Any, index: int) -> tf.Tensor:
    """Returns the part's share of a term."""
    if term.reduction == "sum":
        return term.numerator
    if masses is not None:
        return tf.math.divide_no_nan(term.numerator, masses[index])
    value = tf.math.divide_no_nan(term.numerator, term.mass)
    return value if share is None else share * value
