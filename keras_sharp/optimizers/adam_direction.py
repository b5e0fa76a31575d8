"""Adam's direction, for optimizers that scale it or project it."""

import math
from typing import Any

import tensorflow as tf
from keras import ops

from keras_sharp.optimizers.selective import SelectiveOptimizer, check_range


class AdamDirection(SelectiveOptimizer):
    """An optimizer that makes its step of Adam's direction.

    With `t` counted from 1:

        m <- beta_1 m + (1 - beta_1) g
        v <- beta_2 v + (1 - beta_2) g^2
        direction = (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon)

    Args:
        learning_rate: A float or a `keras.optimizers.schedules.LearningRateSchedule`.
        beta_1: Decay rate of the mean `m`, in [0, 1).
        beta_2: Decay rate of the mean square `v`, in [0, 1).
        epsilon: Keeps the direction finite.
        decay_bias_and_norm: See `SelectiveOptimizer`.
        **base: All other arguments of `keras.optimizers.Optimizer`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        learning_rate: Any,
        beta_1: float,
        beta_2: float,
        epsilon: float,
        decay_bias_and_norm: bool,
        **base: Any,
    ):
        check_range(0, 1, beta_1=beta_1, beta_2=beta_2)
        check_range(0, float("inf"), epsilon=epsilon)
        super().__init__(learning_rate, decay_bias_and_norm, **base)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def build(self, variables: list) -> None:
        """Creates a mean and a mean square for each weight."""
        if self.built:
            return
        super().build(variables)
        names = ["mean", "mean_square"]
        self._means, self._mean_squares = self.add_optimizer_variables(variables, names)

    def direction(self, gradient: tf.Tensor, variable: Any) -> tf.Tensor:
        """Returns the direction of one weight, after its two means took in the gradient."""
        index = self._get_variable_index(variable)
        mean, square = self._means[index], self._mean_squares[index]
        m, v = (ops.cast(each, gradient.dtype) for each in (mean, square))
        self.assign_add(mean, (1 - self.beta_1) * (gradient - m))
        self.assign_add(square, (1 - self.beta_2) * (ops.square(gradient) - v))
        m, v = (ops.cast(each, gradient.dtype) for each in (mean, square))
        # Numbers, not tensors, take the two corrections.
        bias_1 = self._bias(self.beta_1, gradient.dtype)
        root = ops.sqrt(self._bias(self.beta_2, gradient.dtype))
        return m * (root / bias_1) / (ops.sqrt(v) + self.epsilon * root)

    def _bias(self, beta: float, dtype: Any) -> tf.Tensor:
        """Returns `1 - beta^t`, to all digits where `beta` is close to 1."""
        if beta == 0:
            return ops.ones((), dtype)  # its logarithm is not finite
        steps = ops.cast(self.iterations + 1, dtype)
        return -ops.expm1(steps * math.log(beta))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the optimizer was made with."""
        own = ("beta_1", "beta_2", "epsilon")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}
