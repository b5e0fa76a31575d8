"""How sharp is the minimum?"""

from keras_sharp.measures.keskar import epsilon_sharpness, sharpness

__all__ = ["epsilon_sharpness", "sharpness"]
