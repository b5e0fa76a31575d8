"""Training with large batches: the loop, its gradient rules and its ways to communicate."""

from keras_sharp.training.adversarial import Adversarial
from keras_sharp.training.communication import AllReduce
from keras_sharp.training.conadv import ConAdv, DisAdv
from keras_sharp.training.conservative import Conservative
from keras_sharp.training.gradient import Plain
from keras_sharp.training.pgd import FGSM, PGD
from keras_sharp.training.sam import ASAM, SAM
from keras_sharp.training.trainer import Trainer

__all__ = [
    "ASAM",
    "FGSM",
    "PGD",
    "SAM",
    "Adversarial",
    "AllReduce",
    "ConAdv",
    "Conservative",
    "DisAdv",
    "Plain",
    "Trainer",
]
