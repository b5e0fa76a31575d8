"""How sharp is the minimum?"""

from keras_sharp.measures.keskar import sharpness
from keras_sharp.measures.noise_scale import noise_scale
from keras_sharp.measures.report import measure

__all__ = ["measure", "noise_scale", "sharpness"]
