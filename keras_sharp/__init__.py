"""Sharpness of minima and large-batch training for Keras models."""

from keras_sharp import (
    callbacks,
    datasets,
    landscape,
    large_batch,
    layers,
    networks,
    optimizers,
    plots,
    results,
    schedules,
    training,
)
from keras_sharp.measures import (
    HessianOperator,
    NormalizedLogits,
    average_case_sharpness,
    hessian_density,
    hessian_eigenvalues,
    hessian_trace,
    measure,
    noise_scale,
    sharpness,
    worst_case_sharpness,
)
from keras_sharp.objective import Objective
from keras_sharp.version import __version__

__all__ = [
    "HessianOperator",
    "NormalizedLogits",
    "Objective",
    "__version__",
    "average_case_sharpness",
    "callbacks",
    "datasets",
    "hessian_density",
    "hessian_eigenvalues",
    "hessian_trace",
    "landscape",
    "large_batch",
    "layers",
    "measure",
    "networks",
    "noise_scale",
    "optimizers",
    "plots",
    "results",
    "schedules",
    "sharpness",
    "training",
    "worst_case_sharpness",
]
