"""What the optimizers here share: a decay inside the rule, and biases that are left alone."""

import math
from typing import Any

import keras

# The names Keras's layers give their biases, and the scales and shifts of normalisation.
BIAS_AND_NORM = ("bias", "gamma", "beta", "scale")


class SelectiveOptimizer(keras.optimizers.Optimizer):
    """A Keras optimizer that decays weights by its own rule, and not biases and normalisation.

    A trainable weight counts as bias or normalisation if it has fewer than two axes, or if its name
    is one that Keras's layers use for them: bias, gamma, beta or scale. The name alone finds the
    biases of attention and GRU layers, and normalisation over several axes.

    Keras's `exclude_from_weight_decay` excludes more weights from the decay.

    Args:
        learning_rate: A float or a `keras.optimizers.schedules.LearningRateSchedule`.
        decay_bias_and_norm: Whether weight decay applies to biases and normalisation too.
        **base: All other arguments of `keras.optimizers.Optimizer`.

    Raises:
        ValueError: If `weight_decay` is negative.
    """

    def __init__(self, learning_rate: Any, decay_bias_and_norm: bool, **base: Any):
        if base["weight_decay"] is not None:
            check_range(0, math.inf, weight_decay=base["weight_decay"])
        super().__init__(learning_rate, **base)
        self.decay_bias_and_norm = decay_bias_and_norm

    def decay_of(self, variable: Any) -> float:
        """Returns the weight decay of a trainable weight, 0 if it has none."""
        return self.weight_decay if self.weight_decay and self._use_weight_decay(variable) else 0.0

    def is_bias_or_norm(self, variable: Any) -> bool:
        """Returns whether a trainable weight is a bias or belongs to a normalisation layer."""
        own = self.own(variable)
        return len(own.shape) < 2 or own.name in BIAS_AND_NORM

    def own(self, variable: Any) -> keras.Variable:
        """Returns the Keras variable of a trainable weight.

        Keras hands its update the TensorFlow variable, of one replica, whose name is a path.
        """
        return self._trainable_variables[self._get_variable_index(variable)]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the optimizer was made with."""
        return {**super().get_config(), "decay_bias_and_norm": self.decay_bias_and_norm}

    def _use_weight_decay(self, variable: Any) -> bool:
        spared = not self.decay_bias_and_norm and self.is_bias_or_norm(variable)
        return not spared and super()._use_weight_decay(variable)

    def _apply_weight_decay(self, variables: Any) -> None:
        """Does nothing: Keras would decay the weights here, before a step and outside its rule."""


def check_range(low: float, high: float, **values: float) -> None:
    """Checks arguments given by their names.

    Raises:
        ValueError: If one is less than `low`, or not less than `high`.
    """
    for name, value in values.items():
        if not low <= value < high:
            raise ValueError(f"`{name}` must be in [{low}, {high}). Received: {name}={value}")
