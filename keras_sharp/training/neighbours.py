"""Momentum SGD in which nodes average with their neighbours alone."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_sharp.training import topology as topologies
from keras_sharp.training.forward import Forward
from keras_sharp.training.mixing import Mixing, vectors_sent
from keras_sharp.training.own_weights import OwnWeights, flatten, unflatten, vector_type
from keras_sharp.training.topology import Topology


class Neighbours(OwnWeights):
    """Base of the decentralized methods: each is the `update` that SGD with momentum makes there.

    Learning rate `gamma`, momentum `beta` and weight decay `lambda` are those of the optimizer,
    which must be a `keras.optimizers.SGD` without further options. In step `k`, node `i` has the
    gradient `g_i` of its own part of the batch, to which `lambda x_i` is added before anything is
    exchanged, and weights `w_ij` for the vectors of its neighbours.

    A `Trainer` has one node on each replica; a `Simulation` takes any number. A method of one's own
    is a subclass with an `update`.

    Args:
        topology: Who averages with whom.

    Raises:
        ValueError: If the argument is no topology; by `fit`, if optimizer, constraints or number of
            replicas don't fit.

    Example:
    ```python
    strategy = tf.distribute.MirroredStrategy()
    with strategy.scope():
        model = make_model()
    nodes = strategy.num_replicas_in_sync
    trainer = Trainer(
        model,
        keras.optimizers.SGD(0.1, momentum=0.9),
        "mse",
        communication=DecentLaM(topology.one_peer_exponential(nodes)),
    )
    ```

    Note:
        The weight decay of Keras's SGD shrinks the weights outside of the momentum; here, as in the
        papers on these methods, it is part of the gradient. Velocities don't remember old learning
        rates, as in `CorrectedSGD`.

        The names `DADmSGD` and `AWCDmSGD` are those by which Yuan et al. (2021) seem to call these
        updates. Their paper was not at hand to confirm it.
    """

    # Vectors that a node tells its neighbours in a step.
    vectors = 1

    def __init__(self, topology: Topology):
        super().__init__()
        if not isinstance(topology, Topology):
            raise ValueError(
                "`topology` must be a topology like `topology.ring(8)`. "
                f"Received: topology={topology!r}"
            )
        self.topology = topology

    def update(
        self, x: Any, g: Any, m: Any, rate: Any, ratio: Any, beta: float, pull: Callable
    ) -> tuple[Any, Any]:
        """Returns weights and momentum after a step, in operators that arrays and tensors share.

        Args:
            x: Weights: `(n,)` of a node, or `(nodes, n)` of all.
            g: Gradients, of the same shape.
            m: Momenta, of the same shape, zeros at first.
            rate: `gamma`.
            ratio: `rate` over that of the step before; 1 where that is 0 or there was none.
            beta: Momentum.
            pull: Returns `sum_j w_ij (z_j - z_i)` of what has the same shape: added to `z` it makes
                `sum_j w_ij z_j`. In differences of weights it is more exact than that.
        """
        raise NotImplementedError

    def build(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        forward: Forward,
    ) -> None:
        """Prepares the exchange; see `OwnWeights`."""
        super().build(strategy, model, forward)
        if self.topology.nodes != strategy.num_replicas_in_sync:
            raise ValueError(
                "`topology` must have one node for each replica. Received: "
                f"{self.topology.nodes} nodes, {strategy.num_replicas_in_sync} replicas"
            )
        self._mixing = Mixing(self.topology, strategy)
        dtype = vector_type(forward.trainable).name
        self._rate_before = keras.Variable(0.0, dtype=dtype, trainable=False, name="rate_before")
        self._own.append(self._rate_before)

    def apply(self, gradients: list, optimizer_step: Callable) -> None:
        """Takes a step on every replica in place of the optimizer; see `OwnWeights`."""
        optimizer, moved = self._optimizer, list(self._forward.trainable)
        moved += [*optimizer.momentums, self._rate_before]
        self.move(moved, self._strategy.run(self._moved, args=(gradients,)))
        optimizer.iterations.assign_add(1)

    def vectors_per_step(self, step: int) -> float:
        """Returns how many vectors a node sends in a step; see `OwnWeights`. Known at once."""
        return self.vectors * float(self._sent[step % len(self._sent)])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the communication was made with."""
        return {"topology": self.topology}

    def check_optimizer(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Checks that an optimizer is plain SGD.

        Raises:
            ValueError: If it isn't.
        """
        super().check_optimizer(optimizer)
        options = ("nesterov", "clipnorm", "clipvalue", "global_clipnorm")
        options += ("gradient_accumulation_steps",)
        plain = isinstance(optimizer, keras.optimizers.SGD)
        used = [name for name in options if getattr(optimizer, name, None)]
        if not plain or used:
            raise ValueError(
                f"`optimizer` must be SGD without {', '.join(f'`{o}`' for o in options)} for "
                f"{type(self).__name__}, which has an update of its own. Received: "
                f"{type(optimizer).__name__} with {used}"
            )

    @functools.cached_property
    def _sent(self) -> np.ndarray:
        return vectors_sent(self.topology)

    def _moved(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """Returns new weights, momenta and learning rate of this replica."""
        trainable, optimizer = self._forward.trainable, self._optimizer
        weights = [tf.convert_to_tensor(v.value) for v in trainable]
        momenta = [tf.convert_to_tensor(v.value) for v in optimizer.momentums]
        step = tf.convert_to_tensor(optimizer.iterations.value)
        gradients = decayed(optimizer, self._forward, weights, gradients)
        x, g = flatten(weights), flatten(gradients)
        m = flatten(momenta) if momenta else tf.zeros_like(x)
        rate = tf.cast(optimizer.learning_rate, x.dtype)
        ratio = rate_ratio(rate, tf.convert_to_tensor(self._rate_before.value))
        x, m = self.update(
            x, g, m, rate, ratio, optimizer.momentum, lambda z: self._mixing.pull(z, step)
        )
        return [*unflatten(x, weights), *(unflatten(m, momenta) if momenta else []), rate]


class DSGD(Neighbours):
    """`x_i <- sum_j w_ij (x_j - gamma g_j)`: adapt, then combine. No momentum.

    References:
        - [Lian et al., 2017](https://arxiv.org/abs/1705.09056)

    Note:
        Lian et al. average the weights before the step, as `AWCDmSGD` does without momentum.
    """

    def check_optimizer(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Checks that an optimizer is plain SGD without momentum."""
        super().check_optimizer(optimizer)
        if optimizer.momentum:
            raise ValueError(
                "`optimizer` must have no momentum for DSGD; DmSGD is DSGD with momentum. "
                f"Received: momentum={optimizer.momentum}"
            )

    def update(self, x, g, m, rate, ratio, beta, pull):
        """Returns weights and momentum after a step; see `Neighbours`."""
        z = x - rate * g
        return z + pull(z), m


class DmSGD(Neighbours):
    """Each node has its own momentum.

        m_i <- beta m_i + g_i
        x_i <- sum_j w_ij (x_j - gamma m_j)

    With gradients that differ between nodes it ends, without noise, where DSGD does at a rate of
    `gamma / (1 - beta)`, which is farther from the optimum.
    """

    def update(self, x, g, m, rate, ratio, beta, pull):
        """Returns weights and momentum after a step; see `Neighbours`."""
        m = beta * m + g
        z = x - rate * m
        return z + pull(z), m


class PmSGD(DmSGD):
    """SGD with momentum on all nodes together, the reference: `DmSGD` on the full graph.

    In a `Trainer`, `AllReduce` with `CorrectedSGD` takes the same steps, but for the weight decay.

    Args:
        nodes: Number of nodes.
    """

    def __init__(self, nodes: int):
        super().__init__(topologies.full(nodes))


class DADmSGD(Neighbours):
    """DmSGD with double averaging: of momenta too, at twice the traffic.

    m_i <- sum_j w_ij (beta m_j + g_j)
    x_i <- sum_j w_ij (x_j - gamma m_j)
    """

    vectors = 2

    def update(self, x, g, m, rate, ratio, beta, pull):
        """Returns weights and momentum after a step; see `Neighbours`."""
        m = beta * m + g
        m = m + pull(m)
        z = x - rate * m
        return z + pull(z), m


class AWCDmSGD(Neighbours):
    """DmSGD that averages the weights without waiting for the gradient.

    m_i <- beta m_i + g_i
    x_i <- sum_j w_ij x_j - gamma m_i
    """

    def update(self, x, g, m, rate, ratio, beta, pull):
        """Returns weights and momentum after a step; see `Neighbours`."""
        m = beta * m + g
        return x + pull(x) - rate * m, m


class QGDmSGD(Neighbours):
    """Quasi-global momentum: of where the nodes went, not of what they saw.

        x_i' = sum_j w_ij (x_j - gamma (beta m_j + g_j))
        m_i <- beta m_i + (1 - beta) (x_i - x_i') / gamma
        x_i <- x_i'

    Kept is `gamma m`: nothing is divided by the learning rate. A step at a rate of 0 forgets the
    momentum.

    References:
        - [Lin et al., 2021](https://arxiv.org/abs/2102.04761)

    Note:
        Without Nesterov's momentum, which the paper also has.
    """

    def update(self, x, g, m, rate, ratio, beta, pull):
        """Returns weights and momentum after a step; see `Neighbours`."""
        m = beta * ratio * m
        z = x - m - rate * g
        d = m + rate * g - pull(z)
        return x - d, m + (1 - beta) * d


class DecentLaM(Neighbours):
    """Momentum on the whole direction of DSGD, mixing included.

        d_i = x_i - sum_j w_ij (x_j - gamma_k g_j)
        v_i <- beta (gamma_k / gamma_(k-1)) v_i + d_i
        x_i <- x_i - v_i

    Without noise it ends where DSGD does, whatever the momentum. This is the paper's rule with
    `v = gamma m`: nothing is divided by the learning rate. A step at a rate of 0 mixes, and
    forgets the momentum before it.

    References:
        - [Yuan et al., 2021](https://arxiv.org/abs/2104.11981)
    """

    def update(self, x, g, m, rate, ratio, beta, pull):
        """Returns weights and momentum after a step; see `Neighbours`."""
        d = rate * g - pull(x - rate * g)
        m = beta * ratio * m + d
        return x - m, m


def decayed(
    optimizer: keras.optimizers.SGD, forward: Forward, weights: list, gradients: list
) -> list:
    """Returns the gradients with those of the optimizer's weight decay."""
    if not optimizer.weight_decay:
        return gradients
    # What is excluded from decay, Keras tells under a private name alone.
    decays = [
        optimizer.weight_decay * (i in forward.connected and optimizer._use_weight_decay(v))
        for i, v in enumerate(forward.trainable)
    ]
    return [g + d * w if d else g for g, d, w in zip(gradients, decays, weights, strict=True)]


def rate_ratio(rate: tf.Tensor, before: tf.Tensor) -> tf.Tensor:
    """Returns the quotient of two learning rates, 1 where the one before is 0."""
    return tf.where(before > 0, tf.math.divide_no_nan(rate, before), tf.ones_like(rate))
