"""The version of this package, and of everything that can move a number."""

import keras
import scipy
import tensorflow as tf

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Returns the versions that every result states."""
    return {
        "keras_sharp": __version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "scipy": scipy.__version__,
    }
