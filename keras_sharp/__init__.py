"""Sharpness of minima and large-batch training for Keras models."""

from keras_sharp import callbacks, datasets, landscape, networks, plots, results, training
from keras_sharp.measures import measure, noise_scale, sharpness
from keras_sharp.objective import Objective
from keras_sharp.version import __version__

__all__ = [
    "Objective",
    "__version__",
    "callbacks",
    "datasets",
    "landscape",
    "measure",
    "networks",
    "noise_scale",
    "plots",
    "results",
    "sharpness",
    "training",
]
