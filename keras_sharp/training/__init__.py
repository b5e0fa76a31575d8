"""Training with large batches: the loop, its gradient rules and its ways to communicate."""

from keras_sharp.training import splits, topology
from keras_sharp.training.adversarial import Adversarial
from keras_sharp.training.communication import AllReduce
from keras_sharp.training.conadv import ConAdv, DisAdv
from keras_sharp.training.conservative import Conservative
from keras_sharp.training.gradient import Plain
from keras_sharp.training.local_sgd import LocalSGD
from keras_sharp.training.neighbours import (
    DSGD,
    AWCDmSGD,
    DADmSGD,
    DecentLaM,
    DmSGD,
    Neighbours,
    PmSGD,
    QGDmSGD,
)
from keras_sharp.training.pgd import FGSM, PGD
from keras_sharp.training.sam import ASAM, SAM
from keras_sharp.training.simulation import Simulation, descend
from keras_sharp.training.trainer import Trainer

__all__ = [
    "ASAM",
    "AWCDmSGD",
    "Adversarial",
    "AllReduce",
    "ConAdv",
    "Conservative",
    "DADmSGD",
    "DSGD",
    "DecentLaM",
    "DisAdv",
    "DmSGD",
    "FGSM",
    "LocalSGD",
    "Neighbours",
    "PGD",
    "Plain",
    "PmSGD",
    "QGDmSGD",
    "SAM",
    "Simulation",
    "Trainer",
    "descend",
    "splits",
    "topology",
]
