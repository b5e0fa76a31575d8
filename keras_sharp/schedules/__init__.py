"""Keras learning rate schedules for large batches."""

from keras_sharp.schedules.legw import LEGW
from keras_sharp.schedules.scaling import Scaled, linear_scaling, square_root_scaling
from keras_sharp.schedules.warm_up import WarmUp

__all__ = ["LEGW", "Scaled", "WarmUp", "linear_scaling", "square_root_scaling"]
