"""Large batches in reinforcement learning."""

from keras_sharp.rl import scheduling

__all__ = ["scheduling"]
