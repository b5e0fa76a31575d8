"""The pass over a global batch as a sum of passes over its parts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from keras_sharp.training.forward import Contribution, Forward
from keras_sharp.training.own_weights import OwnWeights
from keras_sharp.training.split import Batch, Split


class Evaluation(NamedTuple):
    """What is evaluated on a batch, and where.

    Attributes:
        at: A value on every replica for each trainable weight, or None for the weights.
        attack_at: Values of weights and moving statistics that an attack looks at, or None.
        record: Whether the metrics count it.
        branch: Which branch layers take that have several.
        ahead: None, or what changes the weights of each part once more, see `Step.gradient`.
        attack: None, or what changes the inputs, see `Forward`.
    """

    at: list | None = None
    attack_at: tuple[list, list] | None = None
    record: bool = True
    branch: str = "main"
    ahead: Callable | None = None
    attack: Callable | None = None

    @property
    def places(self) -> tuple:
        """What differs from replica to replica."""
        return self.at, self.attack_at


class Passes:
    """Splits a global batch evenly over replicas and micro-batches, and adds up the passes.

    A part without examples (where there are more parts) adds nothing, whatever layers make of it.

    Args:
        strategy: The strategy of the model.
        forward: The pass over a part, traced before.
        communication: How replicas agree on the gradient.
        micro_batch: Largest number of examples a replica processes at once. None: no limit.
        jit_compile: Whether XLA compiles the pass over a micro-batch.
        noise: Whether the values of a batch tell how the gradients of its parts differ.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        forward: Forward,
        communication: Callable,
        micro_batch: int | None,
        jit_compile: bool,
        noise: bool = False,
    ):
        self._strategy = strategy
        self._replicas = strategy.num_replicas_in_sync
        self._communication = communication
        self._micro_batch = micro_batch
        self._noise = noise
        self._forward = forward
        self._pass: Callable = forward
        if jit_compile:
            self._pass = tf.function(forward, jit_compile=True, autograph=False)
        self._sums: list[tf.Variable] = []
        if micro_batch is not None:
            with strategy.scope():
                self._sums = [_local_sum(v.value) for v in [*forward.trainable, *forward.states]]

    def is_one(self, size: Any) -> bool:
        """Whether a batch of `size` examples, an int or a tensor, is a single part for sure."""
        fits = self._micro_batch is None or (isinstance(size, int) and size <= self._micro_batch)
        return self._replicas == 1 and fits

    def whole(self, batch: tuple, evaluation: Evaluation) -> tuple[tf.Tensor, list, list]:
        """Returns what `total` does, for a batch that is a single part."""

        def run(places):
            result = self._evaluate(self._forward, batch, places, evaluation)
            gradients = self._communication(result.gradients, tf.ones(()))
            values = tf.concat([tf.zeros(3), result.values], 0)  # a part has nothing to differ from
            return values, gradients, result.states

        return self._strategy.run(run, args=(evaluation.places,))

    def total(self, batch: Batch, evaluation: Evaluation) -> tuple[tf.Tensor, list[Any], list[Any]]:
        """Returns the values of a batch, and on every replica its gradient and the new states.

        The values are three figures of noise and `Contribution.values`. With `noise` and `record`
        the figures are `|g|^2` of the gradient `g`, the number of parts `p` with examples, and
        `sum_p s_p |g_p|^2`, where `s_p` is the fraction of the examples in a part and `g_p` the
        gradient of the part by itself; else zeros.

        Args:
            batch: The batch.
            evaluation: What is evaluated, and where.
        """
        rounds = 1  # micro-batches of a replica
        if self._micro_batch is not None:
            rounds = -(-batch.size // (self._replicas * self._micro_batch))
        split = Split(self._strategy, batch, rounds)
        terms = len(self._forward.terms)
        noise, places = self._noise and evaluation.record, evaluation.places

        def masses_of(part, places):
            options = {"number": part.number, "branch": evaluation.branch}
            self._forward.predict(part.batch, places[0], **options)
            return part.unless_empty(self._forward.masses())

        masses = None
        if self._forward.weighted:
            # Nothing is differentiated here, and the graph leaves out what the divisors don't need.
            masses = split.sum(masses_of, places, terms)

        def pass_over(part, places):
            known = {"number": part.number, "share": part.share, "masses": masses}
            result = self._evaluate(self._pass, part.batch, places, evaluation, **known)
            figures = tf.zeros(2)
            if noise:  # a part's gradient is its share, s_p g_p
                figures = tf.stack([1.0, _square(result.gradients) / part.share])
            return Contribution(
                part.unless_empty(tf.concat([figures, result.values], 0)),
                [part.unless_empty(g) for g in result.gradients],
                [part.unless_empty(part.weigh(state)) for state in result.states],
            )

        def pass_and_exchange(part, places):
            values, gradients, states = pass_over(part, places)
            return values, *self._exchange(gradients, states, part.share)

        if split.is_flat:
            values, gradients, states = split.run(pass_and_exchange, places, 0)
            values = self._strategy.reduce("SUM", values, axis=None)
            return self._with_square(noise, values, gradients), gradients, states

        def clear():
            for total in self._sums:
                total.assign(tf.zeros_like(total))

        def add(part, places):
            values, gradients, states = pass_over(part, places)
            for total, value in zip(self._sums, [*gradients, *states], strict=True):
                total.assign_add(value)
            return values

        def exchange_sums():
            sums = [tf.identity(total) for total in self._sums]
            count = len(self._forward.trainable)
            return self._exchange(sums[:count], sums[count:], split.share_of_replica())

        self._strategy.run(clear)
        values = split.sum(add, places, 3 + terms)
        gradients, states = self._strategy.run(exchange_sums)
        return self._with_square(noise, values, gradients), gradients, states

    def _evaluate(
        self, run: Callable, batch: tuple, places: tuple, evaluation: Evaluation, **known: Any
    ) -> Contribution:
        """Passes over a part, and a second time if its weights are changed. On every replica."""
        at, attack_at = places
        options = known | {"branch": evaluation.branch}
        if evaluation.attack is not None:
            options |= {"attack": evaluation.attack, "attack_at": attack_at}
        result = run(batch, at, record=evaluation.record, **options)
        if evaluation.ahead is None:
            return result
        weights = at or [tf.convert_to_tensor(v.value) for v in self._forward.trainable]
        ahead = evaluation.ahead(weights, result.gradients)
        return result._replace(gradients=run(batch, ahead, record=False, **options).gradients)

    def _with_square(self, noise: bool, values: tf.Tensor, gradients: list) -> tf.Tensor:
        square = tf.zeros(())
        if noise:
            squares = self._strategy.run(_square, args=(gradients,))
            square = self._strategy.reduce("MEAN", squares, axis=None)
        return tf.concat([[square], values], 0)

    def _exchange(
        self, gradients: list[tf.Tensor], states: list[tf.Tensor], share: tf.Tensor
    ) -> tuple[list, list]:
        """Returns what this replica goes on with. Called on every replica."""
        if isinstance(self._communication, OwnWeights):
            return self._communication(gradients, share), self._own(states, share)
        averaged = [state for state in states if state.dtype.is_floating]
        if averaged:
            averaged = tf.distribute.get_replica_context().all_reduce("SUM", averaged)
        averaged = iter(averaged)
        states = [next(averaged) if state.dtype.is_floating else state for state in states]
        return self._communication(gradients, share), states

    def _own(self, states: list[tf.Tensor], share: tf.Tensor) -> list[tf.Tensor]:
        """Returns the replica's own statistics, those it has where it saw no example."""
        before = [tf.convert_to_tensor(v.value) for v in self._forward.states]
        return [
            tf.where(share > 0, new / tf.cast(share, new.dtype), old)
            if old.dtype.is_floating
            else new
            for new, old in zip(states, before, strict=True)
        ]


def _square(gradients: list[tf.Tensor]) -> tf.Tensor:
    """Returns the squared norm of a gradient, float32."""
    return tf.add_n([tf.reduce_sum(tf.cast(g, tf.float32) ** 2) for g in gradients])


def _local_sum(like: tf.Variable) -> tf.Variable:
    """A variable of which every replica has its own."""
    return tf.Variable(
        tf.zeros(like.shape, like.dtype),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )
