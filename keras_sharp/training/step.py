"""One optimizer step on a global batch."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_sharp.tracing import traced
from keras_sharp.training.forward import Forward, loss_scale
from keras_sharp.training.own_weights import OwnWeights, assign_each
from keras_sharp.training.passes import Evaluation, Passes
from keras_sharp.training.split import Batch
from keras_sharp.training.strategy import chain_of

# Columns of a row of figures: those from SQUARE on are the values of the first pass, three figures
# of noise among them (see `Passes.total`), those from TERMS on the terms of the loss.
LOSS, SIZE, LEARNING_RATE, SQUARE, PARTS, PART_SQUARES, BAD_LABELS, TERMS = range(8)


def figures(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the columns of `(steps, columns)` rows that callbacks are told of, by name.

    The last three are 0 unless a callback asks for them with `needs_noise = True`: the squared norm
    `|g|^2` of the gradient, the number of parts `p` of the batch, and `sum_p s_p |g_p|^2`, with the
    part's fraction `s_p` of the examples and its own gradient `g_p`.
    """
    names = ("loss", "size", "learning_rate", "square", "parts", "part_squares")
    return dict(zip(names, rows.T, strict=False))


class Step:
    """One step, as a gradient rule sees it.

    Gradients and weights are lists with one entry per trainable weight, in the order of
    `model.trainable_variables`. Under a strategy an entry stands for a value on every replica:
    compute with them in `map` alone.

    Attributes:
        number: Number of steps the optimizer has taken, a scalar.
        names: Names of the trainable weights, as layers call them: `"kernel"`, `"bias"`...
        weights: The trainable weights.
        statistics: The moving statistics.
        first_pass: The values of the first pass and, by their indices in `Forward.states`, new
            states. None before the first pass.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        optimizer: keras.optimizers.Optimizer,
        forward: Forward,
        run: Callable,
    ):
        self.number = tf.convert_to_tensor(optimizer.iterations.value)
        self.names = [v.name for v in forward.trainable]
        self.weights = [v.value for v in forward.trainable]
        self.statistics = [v.value for v in forward.statistics]
        self.first_pass: tuple[tf.Tensor, dict[int, Any]] | None = None
        self._strategy = strategy
        self._forward = forward
        self._run = run

    def gradient(
        self,
        at: list | None = None,
        *,
        ahead: Callable | None = None,
        attack: Callable | None = None,
        attack_at: tuple[list, list] | None = None,
        branch: str = "main",
    ) -> tuple[tf.Tensor, list]:
        """Evaluates the loss of the global batch and its gradient.

        All passes of a step draw the same dropout masks. The first one alone counts in the metrics;
        a moving statistic is that of the first pass that updates it.

        Args:
            at: Where to evaluate, as returned by `map`. Defaults to the weights.
            ahead: `ahead(weights, gradient)` returns weights at which each part of the batch (a
                replica's, or its micro-batch) is passed over again, `gradient` being the part's
                share of that of the batch. The loss is that of the first time, the gradient that of
                the second.
            attack: Changes the inputs before the pass, see `PGD`.
            attack_at: Values of `weights` and `statistics` the attack looks at. Defaults to `at`
                and the current ones.
            branch: The branch that layers with an attribute `branch` take.

        Returns:
            The loss of the batch, a scalar, and the gradient after the replicas communicated.
        """
        first = self.first_pass is None
        evaluation = Evaluation(at, attack_at, first, branch, ahead, attack)
        with self._forward.on_branch(branch):
            values, gradient, states = self._run(evaluation)
        if first:
            self.first_pass = values, {}
        written, updated = self.first_pass[1], self._forward.updated[branch]
        for index, (variable, state) in enumerate(zip(self._forward.states, states, strict=True)):
            if id(variable) in updated:
                written.setdefault(index, state)
        terms = zip(self._forward.terms, tf.unstack(values[TERMS - SQUARE :]), strict=True)
        return tf.add_n([term.weight * value for term, value in terms]), gradient

    def map(self, function: Callable, *lists: list) -> Any:
        """Returns `function(*lists)`, computed on every replica with its own values."""
        return self._strategy.run(function, args=lists)

    def choose(self, condition: tf.Tensor, yes: Callable, no: Callable) -> Any:
        """Returns `yes()` or `no()`, of which one alone is computed.

        The first pass must be in them, the same in both.
        """

        def passes(function):
            def run():
                self.first_pass = None
                return function(), self.first_pass

            return run

        result, self.first_pass = tf.cond(condition, passes(yes), passes(no))
        return result

    def assign(self, variables: list[tf.Variable], values: list) -> None:
        """Assigns values on every replica, the same on all, to variables a rule has for itself."""
        assign_each(self._strategy, variables, values)


class TrainStep:
    """Takes an optimizer step on a global batch. Called in a graph, in cross-replica context.

    Args:
        strategy: The strategy of the model.
        optimizer: The model's, built.
        forward: The pass over a part of a batch, traced before.
        passes: The pass over a global batch.
        gradient: The gradient rule.
        jit_compile: Whether XLA compiles the step on a batch that is a single part.
        communication: Takes the step, if it leaves replicas weights of their own.

    Attributes:
        columns: Length of a row of figures.
        bad_labels: The column that is not 0 if a label is no class.
        names: Names of the terms of the loss, the last columns.
        all_finite: Returns a scalar bool: whether all numbers that steps write into the model are
            finite, on every replica.
    """

    bad_labels = BAD_LABELS

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        optimizer: keras.optimizers.Optimizer,
        forward: Forward,
        passes: Passes,
        gradient: Callable,
        jit_compile: bool,
        communication: Callable | None = None,
    ):
        self.names = [term.name for term in forward.terms]
        self.columns = TERMS + len(self.names)
        self._strategy = strategy
        self._optimizer = optimizer
        self._forward = forward
        self._passes = passes
        self._gradient = gradient
        self._communication = communication
        self.all_finite = traced(self._all_finite)
        self._on_whole: Callable = self._take_whole
        if jit_compile:
            self._on_whole = traced(self._take_whole, jit_compile=True)

    def __call__(self, batch: Batch) -> tf.Tensor:
        """Returns the row of figures of the step, `(columns,)` float32.

        Raises:
            ValueError: If the gradient rule never evaluates the loss.
        """
        if self._passes.is_one(batch.size):
            return self._on_whole(batch.fetch(batch.handle))
        return self._take(functools.partial(self._passes.total, batch), batch.size)

    def _take_whole(self, batch: tuple) -> tf.Tensor:
        size = tf.shape(keras.tree.flatten(batch)[0])[0]
        return self._take(functools.partial(self._passes.whole, batch), size)

    def _take(self, run: Callable, size: Any) -> tf.Tensor:
        step = Step(self._strategy, self._optimizer, self._forward, run)
        learning_rate = self._optimizer.learning_rate
        result = self._gradient(step)
        if step.first_pass is None or not isinstance(result, tuple) or len(result) != 2:
            called = "without" if step.first_pass is None else "after"
            raise ValueError(
                "`gradient` must call `step.gradient()` at least once, and return the loss and the "
                f"gradient. Received: {type(self._gradient).__name__}, which returned "
                f"{type(result).__name__} {called} a call"
            )
        loss, gradient = result
        with _reduced_already(self._optimizer):
            if isinstance(self._communication, OwnWeights):
                self._communication.apply(gradient, self._step_of_optimizer)
            else:
                self._step_of_optimizer(gradient)
        values, states = step.first_pass
        # Every replica has its state at hand; its own way to assign would average once more.
        step.assign([self._forward.states[i].value for i in states], list(states.values()))
        figures = [loss, size, learning_rate]
        return tf.concat([[tf.cast(figure, tf.float32) for figure in figures], values], 0)

    def _all_finite(self) -> tf.Tensor:
        written = [v.value for v in [*self._forward.trainable, *self._forward.states]]

        def count_bad() -> tf.Tensor:
            values = [tf.convert_to_tensor(v) for v in written if v.dtype.is_floating]
            bad = [tf.math.count_nonzero(~tf.math.is_finite(value)) for value in values]
            return tf.add_n(bad)

        return self._strategy.reduce("SUM", self._strategy.run(count_bad), axis=None) == 0

    def _step_of_optimizer(self, gradient: list) -> None:
        self._strategy.run(self._apply, args=(gradient,))

    def _apply(self, gradient: list[tf.Tensor]) -> None:
        scale = loss_scale(self._optimizer)
        if scale is not None:
            gradient = [g * tf.cast(scale, g.dtype) for g in gradient]
        connected = self._forward.connected
        gradient = [g if i in connected else None for i, g in enumerate(gradient)]
        self._optimizer.apply(gradient, self._forward.trainable)


@contextlib.contextmanager
def _reduced_already(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Keeps an optimizer from adding up gradients over replicas while it is traced.

    Keras clips before it does that, each replica its own part. With gradients of the global batch,
    handed to every replica, clipping and everything else in `apply` sees what one device would see.
    """
    chain = chain_of(optimizer)
    try:
        for each in chain:
            each.__dict__["_all_reduce_sum_gradients"] = list
        yield
    finally:
        for each in chain:
            each.__dict__.pop("_all_reduce_sum_gradients", None)
