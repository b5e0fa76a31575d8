"""Results as matplotlib axes.

Every function draws on `ax`, or on the axes of a new figure, and returns what it has drawn on. None
of them shows or saves a figure. Matplotlib is imported by the first call.
"""

from keras_sharp.plots.axes import legend_above
from keras_sharp.plots.paths import path
from keras_sharp.plots.sharpness import batch_size_sweep, sharpness_against_loss
from keras_sharp.plots.spectrum import eigenvalues, spectrum
from keras_sharp.plots.surfaces import surface, surface_3d
from keras_sharp.plots.topology import topology
from keras_sharp.plots.training import training_curves

__all__ = [
    "batch_size_sweep",
    "eigenvalues",
    "legend_above",
    "path",
    "sharpness_against_loss",
    "spectrum",
    "surface",
    "surface_3d",
    "topology",
    "training_curves",
]
