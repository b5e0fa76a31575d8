"""Decentralized methods against closed forms, and on replicas against nodes on one device."""

import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from replica_weights import KeepReplicas

from keras_sharp.training import Trainer, topology
from keras_sharp.training.mixing import Mixing, stacked
from keras_sharp.training.neighbours import (
    DSGD,
    AWCDmSGD,
    DADmSGD,
    DecentLaM,
    DmSGD,
    PmSGD,
    QGDmSGD,
)
from keras_sharp.training.simulation import Simulation, descend

WITH_MOMENTUM = [DmSGD, DADmSGD, AWCDmSGD, QGDmSGD, DecentLaM]
NODES = 8


class Quadratics:
    """Least squares with other data, and so another optimum, on every node."""

    def __init__(self):
        rng = np.random.default_rng(0)
        rows, target = rng.normal(size=(NODES, 50, 4)), rng.normal(size=4)
        values = rows @ target + rng.normal(size=(NODES, 50))
        self.hessians = np.einsum("nri,nrj->nij", rows, rows) / 50
        self.linear = np.einsum("nri,nr->ni", rows, values) / 50
        self.optimum = np.linalg.solve(self.hessians.sum(0), self.linear.sum(0))

    def gradients(self, x):
        return np.einsum("nij,nj->ni", self.hessians, x) - self.linear

    def fixed_point(self, rate):
        """Solves `x = W (x - rate g(x))`."""
        matrix, n = topology.ring(NODES).matrix(0), 4
        inner = np.eye(n) - rate * self.hessians
        system = np.eye(NODES * n) - np.einsum("ij,jab->iajb", matrix, inner).reshape(
            NODES * n, NODES * n
        )
        return np.linalg.solve(system, (rate * matrix @ self.linear).ravel()).reshape(NODES, n)

    def run(self, method, rates, momentum):
        return descend(method, self.gradients, np.zeros((NODES, 4)), rates, momentum=momentum)

    def bias(self, x):
        return ((x - self.optimum) ** 2).sum(1).mean()


@pytest.fixture(scope="module")
def quadratics():
    return Quadratics()


@pytest.mark.parametrize(("beta", "rate"), [(0.5, 3e-3), (0.9, 1e-3)])
def test_bias_where_gradients_differ(quadratics, beta, rate):
    rates, ring = np.full(5000, rate), topology.ring(NODES)
    x = quadratics.run(DecentLaM(ring), rates, beta)
    np.testing.assert_allclose(x, quadratics.fixed_point(rate), rtol=1e-6)
    plain = quadratics.bias(quadratics.fixed_point(rate))
    assert quadratics.bias(x) / plain == pytest.approx(1, rel=0.01)
    x = quadratics.run(DmSGD(ring), rates, beta)
    np.testing.assert_allclose(x, quadratics.fixed_point(rate / (1 - beta)), rtol=1e-6)
    assert quadratics.bias(x) / plain == pytest.approx(1 / (1 - beta) ** 2, rel=0.15)
    assert quadratics.bias(quadratics.run(QGDmSGD(ring), rates, beta)) < 1.01 * plain


def test_without_momentum_each_is_dsgd(quadratics):
    rates, graph = np.linspace(0, 0.1, 20), topology.one_peer_exponential(NODES)
    x = np.zeros((NODES, 4))
    for step, rate in enumerate(rates):
        x = graph.matrix(step) @ (x - rate * quadratics.gradients(x))
    for method in (DSGD, DmSGD, QGDmSGD, DecentLaM):
        np.testing.assert_allclose(quadratics.run(method(graph), rates, 0.0), x, atol=1e-13)
    y = np.zeros((NODES, 4))
    for step, rate in enumerate(rates):
        y = graph.matrix(step) @ y - rate * quadratics.gradients(y)
    np.testing.assert_allclose(quadratics.run(AWCDmSGD(graph), rates, 0.0), y, atol=1e-13)


@pytest.mark.parametrize("method", WITH_MOMENTUM)
def test_steps_by_hand_under_warm_up_and_a_drop(quadratics, method):
    # The equations as published, with momenta of the units of a gradient. The first rate is not 0:
    # there two of them would divide by it.
    rates, beta = [0.01, 0.05, 0.1, 0.1, 0.01], 0.9
    w = topology.ring(NODES).matrix(0)
    x, m = np.zeros((NODES, 4)), np.zeros((NODES, 4))
    for gamma in rates:
        g = quadratics.gradients(x)
        if method is DmSGD:
            m = beta * m + g
            x = w @ (x - gamma * m)
        elif method is DADmSGD:
            m = w @ (beta * m + g)
            x = w @ (x - gamma * m)
        elif method is AWCDmSGD:
            m = beta * m + g
            x = w @ x - gamma * m
        elif method is QGDmSGD:
            new = w @ (x - gamma * (beta * m + g))
            m = beta * m + (1 - beta) * (x - new) / gamma
            x = new
        else:
            m = beta * m + (x - w @ (x - gamma * g)) / gamma
            x = x - gamma * m
    found = quadratics.run(method(topology.ring(NODES)), rates, beta)
    np.testing.assert_allclose(found, x, atol=1e-13)


@pytest.mark.parametrize("method", WITH_MOMENTUM)
def test_the_full_graph_is_momentum_sgd_and_a_rate_of_zero_does_no_harm(quadratics, method):
    rates, beta = [0.0, 0.0, 0.01, 0.1, 0.1, 0.0, 0.1], 0.9
    x, m = np.zeros((NODES, 4)), np.zeros(4)
    for rate in rates:
        m = beta * m + quadratics.gradients(x).mean(0)
        x = x - rate * m
    reference = quadratics.run(PmSGD(NODES), rates, beta)
    np.testing.assert_allclose(reference, x, atol=1e-13)
    found = quadratics.run(method(topology.full(NODES)), rates, beta)
    assert np.isfinite(found).all()
    if method in (DmSGD, DADmSGD):
        np.testing.assert_allclose(found.mean(0), x[0], atol=1e-13)
    rising = [0.01, 0.1, 0.1, 0.05]
    if method is DecentLaM:
        found = quadratics.run(method(topology.full(NODES)), rising, beta)
        np.testing.assert_allclose(found, quadratics.run(PmSGD(NODES), rising, beta), atol=1e-13)


def test_replicas_average_as_the_matrices_say(replicas):
    strategy, before = replicas(4), threads()
    kinds = (topology.ring, topology.star, topology.one_peer_exponential, topology.random_matchings)
    made = [kind(4) for kind in (*kinds, topology.exponential, topology.full)]
    made.append(topology.Topology("alone", [np.eye(4), topology.hypercube(4).matrix(1)]))
    mixings = [Mixing(each, strategy) for each in made]
    z = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")

    @tf.function(autograph=False)
    def mixed(step):
        def on_replica(step):
            own = tf.constant(z)[tf.distribute.get_replica_context().replica_id_in_sync_group]
            return tf.stack([own + mixing.pull(own, step) for mixing in mixings])

        return strategy.run(on_replica, args=(step,))

    for step in (0, 1, 5):
        local = strategy.experimental_local_results(mixed(tf.constant(step)))
        found = np.stack([each.numpy() for each in local], 1)
        expected = [each.matrix(step) @ z for each in made]
        np.testing.assert_allclose(found, expected, atol=5e-7)
        on_one_device = [z + stacked(each)(tf.constant(z), tf.constant(step)) for each in made]
        np.testing.assert_allclose(on_one_device, expected, atol=5e-7)
    # Hundreds of exchanges leave no threads behind, as some do that have a time limit.
    for step in range(30):
        mixed(tf.constant(step))
    assert threads() - before < 100


def threads():
    """Returns how many threads this process has, those of TensorFlow included."""
    return int(re.search(r"Threads:\s*(\d+)", pathlib.Path("/proc/self/status").read_text())[1])


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("float64")
def test_a_training_goes_on_with_what_each_replica_had(replicas, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 4, 2)), rng.normal(size=(2, 4, 1))
    graph = topology.Topology("pair", [[[0.7, 0.3], [0.3, 0.7]]])
    strategy, rates = replicas(2), [0.0, 0.125, 0.25, 0.0625, 0.0625]

    def make():
        with strategy.scope():
            dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
            model = keras.Sequential([keras.Input((2,)), dense])
            rate = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1, 2], rates[:4])
            optimizer = keras.optimizers.SGD(rate, momentum=0.9)
            return Trainer(model, optimizer, "mse", communication=DecentLaM(graph))

    def gradients(w):
        return 2 * np.einsum("nki,nk->ni", x, np.einsum("nki,ni->nk", x, w) - y[..., 0]) / 4

    options = {"batch_size": 8, "epochs": 5, "shuffle": False, "verbose": 0}
    options["checkpoint"] = tmp_path / "training.npz"
    data = x.reshape(8, 2), y.reshape(8, 1)
    with pytest.raises(KeyboardInterrupt):
        make().fit(data, **options, callbacks=[Stop()])
    trainer = make()
    keep = KeepReplicas(trainer._communication)
    trainer.fit(data, **options, callbacks=[keep])
    expected = descend(DecentLaM(graph), gradients, np.ones((2, 2)), rates, momentum=0.9)
    assert np.ptp(expected, axis=0).min() > 0.01
    # To more digits than float32 has.
    np.testing.assert_allclose(keep.weights, expected, rtol=1e-12)


def train_both(net, loss, blobs, strategy, method, kind, momentum):
    """Trains on replicas and on nodes of one device, on the same examples."""
    nodes, x, y = strategy.num_replicas_in_sync, blobs[0][:128], blobs[1][:128]
    size = 32 // nodes
    split = np.arange(128).reshape(4, nodes, size).swapaxes(0, 1).reshape(nodes, -1)

    def optimizer():
        # It begins at rate 0.
        rate = keras.optimizers.schedules.PolynomialDecay(0.0, 10, 0.05)
        return keras.optimizers.SGD(rate, momentum=momentum, weight_decay=0.01)

    def make():
        return method(nodes if method is PmSGD else kind(nodes))

    model = net(strategy, "plain")
    with strategy.scope():
        trainer = Trainer(model, optimizer(), loss, communication=make())
    keep = KeepReplicas(trainer._communication)
    options = {"shuffle": False, "verbose": 0, "callbacks": [keep]}
    history = trainer.fit((x, y), batch_size=32, epochs=13, **options).history
    simulation = Simulation(net(None, "plain"), optimizer(), loss, make())
    figures = simulation.fit((x, y), split, batch_size=size, steps=52, shuffle=False)
    return trainer, history, keep.weights, simulation, figures


def check_both(net, loss, blobs, strategy, method, kind, momentum=0.9):
    trainer, history, weights, simulation, figures = train_both(
        net, loss, blobs, strategy, method, kind, momentum
    )
    # Weights are at most about 1. In float64 nothing but rounding can be left.
    atol = 1e-6 if weights.dtype == "float32" else 1e-12
    np.testing.assert_allclose(simulation.weights.numpy(), weights, atol=atol)
    for one, other in zip(trainer.model.variables, simulation.model.variables, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=2 * atol)
    np.testing.assert_allclose(history["loss"][-1], figures["loss"][-4:].mean(), rtol=1e-5)
    distances = history["consensus_distance"]
    if method is PmSGD:
        assert max(distances) < 1e-10
    else:
        assert distances[-1] > 1e-6
        np.testing.assert_allclose(distances, figures["consensus_distance"][3::4], rtol=1e-4)
    return trainer, history


def test_replicas_and_stacked_nodes_take_the_same_steps(net, loss, blobs, replicas):
    strategy = replicas(4)
    trainer, history = check_both(net, loss, blobs, strategy, DecentLaM, topology.ring)
    assert history["loss"][-1] < history["loss"][0] / 2
    size = 4 * sum(np.prod(v.shape) for v in trainer.model.trainable_variables)
    # In a ring of four all exchange in two rounds; with the one opposite, in one.
    assert trainer._communication.bytes_per_step(3) == 2 * size
    one_peer = DecentLaM(topology.one_peer_exponential(4))
    assert [one_peer.vectors_per_step(step) for step in (2, 3)] == [2, 1]
    assert DADmSGD(topology.ring(4)).vectors_per_step(3) == 4
    # What is left is the mean, on every replica.
    kernel = trainer.model.trainable_variables[0]
    first, *others = strategy.experimental_local_results(kernel.value)
    for other in others:
        np.testing.assert_array_equal(other.numpy(), first.numpy())


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("method", "kind", "momentum"),
    [
        (PmSGD, topology.full, 0.9),
        (DSGD, topology.hypercube, 0.0),
        (DADmSGD, topology.ring, 0.9),
        (AWCDmSGD, topology.star, 0.9),
        (QGDmSGD, topology.random_matchings, 0.9),
    ],
)
def test_each_method_agrees_on_replicas_and_stacked_nodes(
    net, loss, blobs, replicas, method, kind, momentum
):
    check_both(net, loss, blobs, replicas(4), method, kind, momentum)


EIGHT = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import tensorflow as tf
device = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 8)
sys.path.insert(0, sys.argv[1])
import keras, numpy as np
from test_neighbours import DecentLaM, check_both, topology
def net(strategy=None, batch_norm=None):
    keras.utils.set_random_seed(0)
    with (strategy or tf.distribute.get_strategy()).scope():
        layers = [keras.layers.Dense(16), keras.layers.Activation("tanh"), keras.layers.Dense(3)]
        return keras.Sequential([keras.Input((10,)), *layers])
x = np.random.default_rng(0).normal(size=(130, 10)).astype("float32")
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(8)])
blobs = x, np.argmax(x[:, :3], axis=1)
check_both(net, loss, blobs, strategy, DecentLaM, topology.ring)
keras.config.set_floatx("float64")
keras.config.set_dtype_policy("float64")
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
check_both(net, loss, blobs, strategy, DecentLaM, topology.one_peer_exponential)
"""


@pytest.mark.slow
def test_eight_replicas_and_stacked_nodes_take_the_same_steps():
    command = [sys.executable, "-c", EIGHT, os.path.dirname(__file__)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("options", [{"nesterov": True, "momentum": 0.9}, {"global_clipnorm": 1.0}])
def test_only_plain_sgd_is_taken(net, loss, options):
    optimizer = keras.optimizers.SGD(0.1, **options)
    with pytest.raises(ValueError, match="`optimizer` must be SGD without"):
        Simulation(net(), optimizer, loss, DmSGD(topology.ring(4)))


def test_what_does_not_fit_is_refused(net, loss, blobs):
    with pytest.raises(ValueError, match="`optimizer` must be SGD without"):
        Simulation(net(), keras.optimizers.Adam(), loss, DmSGD(topology.ring(4)))
    with pytest.raises(ValueError, match="`optimizer` must have no momentum"):
        Simulation(net(), keras.optimizers.SGD(0.1, momentum=0.9), loss, DSGD(topology.ring(4)))
    with pytest.raises(ValueError, match="must not have `use_ema`"):
        DSGD(topology.ring(4)).check_optimizer(keras.optimizers.SGD(0.1, use_ema=True))
    with pytest.raises(ValueError, match="`topology` must be a topology"):
        DmSGD("ring")
    trainer = Trainer(net(), "sgd", loss, communication=DSGD(topology.ring(4)))
    with pytest.raises(ValueError, match="4 nodes, 1 replicas"):
        trainer.fit(blobs, batch_size=32, verbose=0)
