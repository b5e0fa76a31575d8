"""Keras layers for large batches."""

from keras_sharp.layers.conversion import (
    with_ghost_batch_normalization,
    with_split_batch_normalization,
)
from keras_sharp.layers.ghost_batch_normalization import GhostBatchNormalization
from keras_sharp.layers.image_augmentation import ImageAugmentation
from keras_sharp.layers.split_batch_normalization import SplitBatchNormalization

__all__ = [
    "GhostBatchNormalization",
    "ImageAugmentation",
    "SplitBatchNormalization",
    "with_ghost_batch_normalization",
    "with_split_batch_normalization",
]
