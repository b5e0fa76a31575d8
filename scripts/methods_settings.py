"""What compare_methods.py trains: data sets with their networks and sizes, and learning rates."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import keras

from keras_sharp.large_batch import METHODS
from keras_sharp.networks import C1, F1

# How many of the training examples choose the learning rate; nothing is trained on them.
VALIDATION_SHARE = 0.2
# Every method has as many candidates, these multiples of the rate its optimizer usually has. Only
# the units differ: a step of LARS or SNGM is a length, a step of SGD is not.
GRID = (0.25, 1.0, 4.0)
_SGD = 0.05
_OWN = {"lars_legw": 1.0, "lamb_legw": 1e-3, "sngm": 0.01, "adamp": 1e-3}
_OWN |= {"auto_wu": 1e-3, "conservative": 4e-3}
RATES = {method: _OWN.get(method, _SGD) for method in METHODS}


class Settings(NamedTuple):
    """How methods are compared on a data set, where the command says nothing else.

    Attributes:
        build: Makes the network for examples of a shape, and a number of classes; `synchronized`
            is whether BatchNormalization shares its statistics among replicas.
        small_batch: Batch size of the reference, and the base of all scaling.
        batch_sizes: The large ones.
        epochs: Of each training.
        trials: Trainings at the rate that was chosen.
        methods: Names of the methods.
        own: More arguments for some of them.
        jit_compile: Whether XLA compiles a step.
    """

    build: Callable[..., keras.Model]
    small_batch: int
    batch_sizes: tuple[int, ...]
    epochs: int
    trials: int
    methods: tuple[str, ...]
    own: dict[str, dict[str, Any]]
    jit_compile: bool | str


def small_network(
    input_shape: tuple[int, ...], classes: int, *, synchronized: bool = False
) -> keras.Model:
    """Returns F1 in small: two hidden layers of 64."""
    layers = [keras.Input(input_shape)]
    for _ in range(2):
        layers += [keras.layers.Dense(64)]
        layers += [keras.layers.BatchNormalization(momentum=0.9, synchronized=synchronized)]
        layers += [keras.layers.ReLU()]
    return keras.Sequential([*layers, keras.layers.Dense(classes)])


# All are images whose grey levels are between 0 and 1, and attacked ones stay there.
_ATTACKS = {name: {"clip": (0.0, 1.0)} for name in ("adversarial", "dis_adv", "con_adv")}
# Statistics that lag behind the weights would count against large batches, and they are what
# attacks see: hence their momentum.
DATASETS = {
    "digits": Settings(
        small_network,
        small_batch=32,
        batch_sizes=(128, 512),
        epochs=20,
        trials=3,
        methods=tuple(name for name in METHODS if name != "augmentation"),  # they are rows
        own=_ATTACKS,
        jit_compile=False,  # takes longer than all the steps
    ),
    "mnist": Settings(
        partial(F1, momentum=0.9),
        small_batch=256,
        batch_sizes=(6000,),
        epochs=20,
        trials=3,
        methods=tuple(METHODS),
        own=_ATTACKS | {"augmentation": {"flip": False}},
        jit_compile="auto",
    ),
    "cifar10": Settings(
        partial(C1, momentum=0.9),
        small_batch=256,
        batch_sizes=(5000,),
        epochs=20,
        trials=3,
        methods=tuple(METHODS),
        own=_ATTACKS,
        jit_compile="auto",
    ),
}
