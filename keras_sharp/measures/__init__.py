"""How sharp is the minimum?"""

from keras_sharp.measures.average_case import average_case_sharpness
from keras_sharp.measures.density import hessian_density
from keras_sharp.measures.eigenvalues import hessian_eigenvalues
from keras_sharp.measures.hessian import HessianOperator
from keras_sharp.measures.keskar import sharpness
from keras_sharp.measures.logits import NormalizedLogits
from keras_sharp.measures.noise_scale import noise_scale
from keras_sharp.measures.report import measure
from keras_sharp.measures.trace import hessian_trace
from keras_sharp.measures.worst_case import worst_case_sharpness

__all__ = [
    "HessianOperator",
    "NormalizedLogits",
    "average_case_sharpness",
    "hessian_density",
    "hessian_eigenvalues",
    "hessian_trace",
    "measure",
    "noise_scale",
    "sharpness",
    "worst_case_sharpness",
]
