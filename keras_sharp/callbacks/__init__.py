"""Measuring while a model is trained."""

from keras_sharp.callbacks.measure_during_training import MeasureDuringTraining
from keras_sharp.callbacks.noise_scale import NoiseScale

__all__ = ["MeasureDuringTraining", "NoiseScale"]
