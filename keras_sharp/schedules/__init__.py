"""Keras learning rate schedules for large batches."""

from keras_sharp.schedules.autowu_rate import AutoWURate
from keras_sharp.schedules.batch_increase import Phase, Plan, increased_batches
from keras_sharp.schedules.legw import LEGW
from keras_sharp.schedules.scaling import Scaled, linear_scaling, square_root_scaling
from keras_sharp.schedules.warm_up import WarmUp

__all__ = [
    "LEGW",
    "AutoWURate",
    "Phase",
    "Plan",
    "Scaled",
    "WarmUp",
    "increased_batches",
    "linear_scaling",
    "square_root_scaling",
]
