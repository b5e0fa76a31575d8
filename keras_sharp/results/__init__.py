"""What the measures return."""

from keras_sharp.results.base import Result
from keras_sharp.results.sharpness import SharpnessResult

__all__ = ["Result", "SharpnessResult"]
