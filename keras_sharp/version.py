"""The version of keras-sharp."""

__version__ = "0.1.0"
