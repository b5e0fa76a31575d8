"""Sharpness of minima and large-batch training for Keras models."""

from keras_sharp import datasets, networks, training
from keras_sharp.measures import sharpness
from keras_sharp.objective import Objective
from keras_sharp.results import SharpnessResult
from keras_sharp.version import __version__

__all__ = [
    "Objective",
    "SharpnessResult",
    "__version__",
    "datasets",
    "networks",
    "sharpness",
    "training",
]
