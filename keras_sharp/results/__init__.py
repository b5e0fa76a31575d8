"""What the measures return."""

from keras_sharp.results.adaptive import AverageCaseSharpnessResult, WorstCaseSharpnessResult
from keras_sharp.results.base import Result
from keras_sharp.results.hessian import (
    HessianDensityResult,
    HessianEigenvaluesResult,
    HessianTraceResult,
)
from keras_sharp.results.landscape import PathResult, SurfaceResult
from keras_sharp.results.noise import NoiseScaleResult
from keras_sharp.results.report import Report
from keras_sharp.results.sharpness import SharpnessResult

__all__ = [
    "AverageCaseSharpnessResult",
    "HessianDensityResult",
    "HessianEigenvaluesResult",
    "HessianTraceResult",
    "NoiseScaleResult",
    "PathResult",
    "Report",
    "Result",
    "SharpnessResult",
    "SurfaceResult",
    "WorstCaseSharpnessResult",
]
