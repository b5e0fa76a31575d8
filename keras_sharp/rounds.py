"""Batches evaluated in rounds, one on each replica of all workers."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_sharp.batch_pass import BatchPass
from keras_sharp.batches import Batch
from keras_sharp.hashing import ArrayHash, joint_hash
from keras_sharp.workers import Workers, WorkersError


class Rounds:
    """Runs the functions of a `BatchPass` under a strategy; every worker gets all the results.

    Args:
        batch_pass: The functions.
        strategy: Where they run.
        workers: The processes of the strategy, each with the same batches.
    """

    def __init__(self, batch_pass: BatchPass, strategy: tf.distribute.Strategy, workers: Workers):
        self._pass = batch_pass
        self._strategy = strategy
        self._workers = workers

    def over(
        self, batches: Iterator[Batch], function: Callable, *arguments: tf.Tensor
    ) -> Iterator[tuple[Any, Batch]]:
        """Yields `(function(*arguments, batch), batch)` in the batches' order.

        Raises:
            WorkersError: On every worker, if they evaluate something else or elsewhere.
        """
        replicas = self._strategy.num_replicas_in_sync
        if replicas == 1:
            for batch in batches:
                yield function(*arguments, batch), batch
            return
        rounds = iter(lambda: list(itertools.islice(batches, replicas)), [])
        for number, own in enumerate(rounds):
            # A replica without a batch of its own repeats the last one; its result is left out.
            slots = own + [own[-1]] * (replicas - len(own))
            distributed = self._strategy.experimental_distribute_values_from_function(
                lambda context: slots[context.replica_id_in_sync_group]  # noqa: B023
            )
            results = self._strategy.run(function, args=(*arguments, distributed))
            local = self._of_all_replicas(results, function, arguments, number)
            for slot, batch in enumerate(own):
                yield (
                    keras.tree.map_structure_up_to(results, lambda each: each[slot], local),  # noqa: B023
                    batch,
                )

    def _of_all_replicas(
        self, results: Any, function: Callable, arguments: tuple, number: int
    ) -> Any:
        """Returns, for each result, what it is on every replica of all workers, in their order."""
        local = keras.tree.map_structure(self._strategy.experimental_local_results, results)
        if self._workers.count == 1:
            return local
        [name] = [name for name, each in vars(self._pass).items() if each is function]
        # The loss is known once masses or a value were computed.
        loss = " + ".join(f"{t.weight} {t.loss} ({t.reduction})" for t in self._pass.terms)
        what = f"`{name}` of {loss}, round {number}"
        arrays = keras.tree.map_structure(lambda each: each.numpy(), local)
        at = joint_hash([ArrayHash(each.numpy()) for each in arguments if each is not None])
        places, parts = zip(*self._workers.gather(what, (at, arrays)), strict=True)
        if len(set(places)) > 1:
            raise WorkersError(
                "All workers must evaluate the same at the same weights: call the same measure "
                "with the same arguments on each of them, on machines of one kind, whose rounding "
                f"agrees. Received: weights that differ on the {len(places)} workers"
            )
        return keras.tree.map_structure_up_to(
            results, lambda *each: [tf.convert_to_tensor(a) for part in each for a in part], *parts
        )
