"""Keras optimizers for large batches."""

from keras_sharp.optimizers.adamp import AdamP
from keras_sharp.optimizers.corrected_sgd import CorrectedSGD
from keras_sharp.optimizers.lamb import LAMB
from keras_sharp.optimizers.lars import LARS
from keras_sharp.optimizers.sgdp import SGDP
from keras_sharp.optimizers.sngm import SNGM

__all__ = ["LAMB", "LARS", "SGDP", "SNGM", "AdamP", "CorrectedSGD"]
