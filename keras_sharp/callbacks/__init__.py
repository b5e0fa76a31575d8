"""Keras callbacks: measuring while a model is trained, AutoWU and the average of the weights."""

from keras_sharp.callbacks.autowu import AutoWU
from keras_sharp.callbacks.measure_during_training import MeasureDuringTraining
from keras_sharp.callbacks.noise_scale import NoiseScale
from keras_sharp.callbacks.swa import SWA

__all__ = ["SWA", "AutoWU", "MeasureDuringTraining", "NoiseScale"]
