"""What compare_decentralized.py trains: topologies, methods, networks and sizes."""

from collections.abc import Callable
from typing import NamedTuple

import keras

from keras_sharp.training import AWCDmSGD, DADmSGD, DecentLaM, DmSGD, PmSGD, QGDmSGD, topology
from keras_sharp.training.neighbours import Neighbours

TOPOLOGIES: dict[str, Callable[[int], topology.Topology]] = {
    kind.__name__.replace("_", "-"): kind
    for kind in (
        topology.ring,
        topology.grid,
        topology.torus,
        topology.star,
        topology.exponential,
        topology.symmetric_exponential,
        topology.one_peer_exponential,
        topology.hypercube,
        topology.random_matchings,
        topology.full,
    )
}
# LARS has rates by layer, and all nodes agree on each step: on one device it takes the same.
LARS = "PmSGD+LARS"
METHODS: dict[str, Callable[[topology.Topology], Neighbours] | None] = {
    "PmSGD": lambda graph: PmSGD(graph.nodes),
    LARS: None,
    "DmSGD": DmSGD,
    "DA-DmSGD": DADmSGD,
    "AWC-DmSGD": AWCDmSGD,
    "QG-DmSGD": QGDmSGD,
    "DecentLaM": DecentLaM,
}
MOMENTUM = 0.9
# At the smallest batch of a data set; they grow with the root of the batch. Candidates are these
# times the factors of methods_settings, the same number for every method.
RATE, LARS_RATE = 0.05, 1.0
# Shares of the steps in which the rate rises, and after which it drops to a tenth.
WARM_UP, DROP_AFTER = 0.1, 2 / 3
# Concentration of the classes that a node has.
ALPHA = 0.1
SPLITS = ("even", "dirichlet")


class Settings(NamedTuple):
    """How methods are compared on a data set, where the command says nothing else.

    Attributes:
        units: Width of the hidden layers.
        batch_sizes: Examples of a node in a step; a tenth of all training examples is added.
        epochs: Of each training.
        trials: Trainings at the rate that was chosen.
    """

    units: int
    batch_sizes: tuple[int, ...]
    epochs: int
    trials: int


DATASETS = {
    "digits": Settings(units=64, batch_sizes=(8, 32), epochs=40, trials=3),
    "mnist": Settings(units=128, batch_sizes=(32, 512), epochs=15, trials=3),
}


def network(input_shape: tuple[int, ...], classes: int, units: int) -> keras.Model:
    """Returns a network of two hidden layers.

    It has no BatchNormalization: the statistics of a node with few classes are not those of all.
    """
    layers = [keras.Input(input_shape), keras.layers.Flatten()]
    layers += [keras.layers.Dense(units, activation="relu") for _ in range(2)]
    return keras.Sequential([*layers, keras.layers.Dense(classes)])
