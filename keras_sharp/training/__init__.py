"""Training with large batches: the loop, its gradient rules and its ways to communicate."""

from keras_sharp.training.communication import AllReduce
from keras_sharp.training.gradient import Plain
from keras_sharp.training.trainer import Trainer

__all__ = ["AllReduce", "Plain", "Trainer"]
