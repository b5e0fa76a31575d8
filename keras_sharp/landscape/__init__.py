"""What is around the minimum?"""

from keras_sharp.landscape.directions import filter_normalized, random_directions
from keras_sharp.landscape.paths import path
from keras_sharp.landscape.published import published_path
from keras_sharp.landscape.surface import surface
from keras_sharp.landscape.trajectory import Plane, principal_plane

__all__ = [
    "Plane",
    "filter_normalized",
    "path",
    "principal_plane",
    "published_path",
    "random_directions",
    "surface",
]
