"""How sharp is the minimum?"""

from keras_sharp.measures.keskar import sharpness

__all__ = ["sharpness"]
