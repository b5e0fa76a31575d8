"""Averages with neighbours, stacked on one device or between replicas."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_sharp.training.topology import Topology

# Group keys of collectives are 32-bit numbers, global to the process: every `Mixing` gets a range
# of its own, one key for each pair of replicas, beyond those of the strategies.
_keys = itertools.count(2**20)


class Rounds(NamedTuple):
    """A topology as rounds in which every node exchanges with one partner at most.

    Attributes:
        partners: `(period, rounds, nodes)` int32; the node itself where it has none.
        weights: `(period, rounds, nodes)` float64, what the node gives its partner's vector.
    """

    partners: np.ndarray
    weights: np.ndarray


def rounds(topology: Topology) -> Rounds:
    """Returns as few rounds as a greedy colouring of the edges finds.

    A matching is one round. An even ring takes two and an odd one three. So does a step of the
    one-peer exponential graph, which is made of such rings (but one round for pairs, its last step
    for a power of two). It is directed: both halves of an exchange travel, and one is not used.
    """
    steps = [_partners(matrix) for matrix in topology.matrices]
    count, nodes = max(len(step) for step in steps), np.arange(topology.nodes)
    partners = np.array([step + [nodes] * (count - len(step)) for step in steps])
    partners = partners.reshape(topology.period, count, topology.nodes).astype(np.int32)
    period = np.arange(topology.period)[:, None, None]
    weights = np.where(partners == nodes, 0, topology.matrices[period, nodes, partners])
    return Rounds(partners, weights)


def all_reduced(nodes: int) -> float:
    """Returns how many vectors a node sends until all have the mean.

    A ring of all nodes adds up and hands round, a part of the vector at a time.
    """
    return 2 * (nodes - 1) / nodes


def vectors_sent(topology: Topology) -> np.ndarray:
    """Returns how many vectors a node sends in each step of a period, on average over the nodes.

    Times the bytes of a vector this is the traffic of a method that exchanges one vector in a step;
    of `topology.full(nodes)` it is that of `AllReduce`.

    Args:
        topology: Who averages with whom.

    Returns:
        `(period,)` float64.
    """
    if is_full(topology):
        return np.array([all_reduced(topology.nodes)])
    return (rounds(topology).partners != np.arange(topology.nodes)).sum(1).mean(1)


def stacked(topology: Topology) -> Callable:
    """Returns the `pull` of `Mixing` for `z` of the shape `(nodes, n)`, all nodes in one tensor."""
    if is_full(topology):
        return lambda z, step: tf.reduce_mean(z, 0) - z
    partners, weights = rounds(topology)

    def pull(z: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        step = tf.cast(step % topology.period, tf.int32)
        pulled = tf.zeros_like(z)
        # No matrix product: GPUs round its factors.
        for index in range(partners.shape[1]):
            weight = tf.gather(tf.constant(weights[:, index, :, None], z.dtype), step)
            pulled += weight * (tf.gather(z, tf.gather(partners[:, index], step)) - z)
        return pulled

    return pull


class Mixing:
    """Averages over neighbours, on the collectives of TensorFlow. Called on every replica.

    Args:
        topology: One node for each replica. None: `mean` alone is used.
        strategy: Their strategy.
    """

    def __init__(self, topology: Topology | None, strategy: tf.distribute.Strategy):
        self._replicas = strategy.num_replicas_in_sync
        self._first_key, *_ = itertools.islice(_keys, self._replicas**2)
        self._rounds: Rounds | None = None
        if topology is not None and not is_full(topology):
            self._rounds = rounds(topology)
        with strategy.scope():
            # Without a resource on each device on which its collectives wait for each other,
            # TensorFlow puts the halves of an exchange one after the other, a deadlock.
            self._token = tf.Variable(
                0.0,
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.NONE,
            )

    def pull(self, z: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Returns `sum_j W[i, j] (z_j - z_i)`, `(n,)`: where the neighbours draw this replica to.

        What neighbours agree on cancels before anything is rounded.

        Args:
            z: `(n,)` float32 or float64, this replica's.
            step: Number of the step, an integer scalar.
        """
        if self._rounds is None:
            return self.mean(z) - z
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        partners, weights = self._rounds
        step = tf.cast(step % len(partners), tf.int32)
        pulls = [tf.zeros_like(z)]
        for index in range(partners.shape[1]):
            partner = tf.gather(partners[:, index], step)[replica]
            weight = tf.gather(tf.constant(weights[:, index], z.dtype), step)[replica]
            difference = functools.partial(self._difference, z, replica, partner)
            if (partners[:, index] == np.arange(self._replicas)).any():
                nothing = functools.partial(tf.zeros_like, z)
                pulls.append(weight * tf.cond(partner != replica, difference, nothing))
            else:
                pulls.append(weight * difference())
        return tf.add_n(pulls)

    def mean(self, z: tf.Tensor) -> tf.Tensor:
        """Returns the mean over all replicas, `(n,)`. It may be called under a condition."""
        if self._replicas == 1:
            return z
        group = self._group(self._replicas, self._first_key)
        reduction = {"merge_op": "Add", "final_op": "Id"}
        return tf.raw_ops.CollectiveReduceV2(input=z, **reduction, **group) / self._replicas

    def _difference(self, z: tf.Tensor, replica: tf.Tensor, partner: tf.Tensor) -> tf.Tensor:
        """Returns the partner's vector less `z`."""
        low, high = tf.minimum(replica, partner), tf.maximum(replica, partner)
        group = self._group(2, self._first_key + low * self._replicas + high)
        both = tf.raw_ops.CollectiveGatherV2(input=z[None], **group)
        # One of them is this replica's own, whichever it is.
        return (both[0] - z) + (both[1] - z)

    def _group(self, size: int, key: tf.Tensor | int) -> dict[str, Any]:
        return {
            "group_size": size,
            "group_key": key,
            "instance_key": 1,
            "ordering_token": [_local(self._token).handle],
            "communication_hint": "auto",
            # None: replicas share a process, and one does not die alone. Each collective with a
            # limit leaves threads asleep until then, however soon it is done.
            "timeout_seconds": 0.0,
        }


def _local(variable: tf.Variable) -> tf.Variable:
    """Returns this replica's own part of a variable, for which TensorFlow has no public name."""
    own = getattr(variable, "_get_on_device_or_primary", None)
    return variable if own is None else own()


def is_full(topology: Topology) -> bool:
    """Whether every step averages exactly, all nodes with equal weights."""
    return topology.period == 1 and np.allclose(topology.matrices, 1 / topology.nodes, atol=0)


def _partners(matrix: np.ndarray) -> list[np.ndarray]:
    """Returns matchings that contain every pair of neighbours once, each `(nodes,)`."""
    found: list[np.ndarray] = []
    nodes = np.arange(len(matrix))
    for i, j in np.argwhere(np.triu((matrix > 0) | (matrix.T > 0), 1)):
        free = (m for m in found if m[i] == i and m[j] == j)
        matching = next(free, None)
        if matching is None:
            matching = nodes.copy()
            found.append(matching)
        matching[i], matching[j] = j, i
    return found
