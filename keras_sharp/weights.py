"""The weights of a model as one flat vector, and back.

Entry order is that of the variables, each flattened in row-major order. Reading never changes the
model; the way back makes tensors for a `keras.StatelessScope`, not assignments.
"""

import keras
import numpy as np
import tensorflow as tf


class FlatVariables:
    """Maps between a flat vector and some variables of a model.

    Args:
        variables: Keras variables, possibly none.

    Attributes:
        shapes: Shape of each variable.
        size: Number of entries `n`.
        dtype: Floating type of the flat tensor: the widest among the variables.
    """

    def __init__(self, variables: list[keras.Variable]):
        self._variables = list(variables)
        self.shapes = [tuple(variable.shape) for variable in self._variables]
        self._sizes = [int(np.prod(shape)) for shape in self.shapes]
        self.size = sum(self._sizes)
        wide = any(variable.dtype == "float64" for variable in self._variables)
        self.dtype = tf.float64 if wide else tf.float32

    def read(self) -> np.ndarray:
        """Returns the variables' current values, `(n,)` float64."""
        values = [np.asarray(variable.numpy(), np.float64).ravel() for variable in self._variables]
        return np.concatenate([np.empty(0), *values])

    def write(self, values: np.ndarray) -> None:
        """Assigns `(n,)` values to the variables."""
        for variable, value in self.pairs(tf.constant(values, self.dtype)):
            variable.assign(value)

    def pairs(self, vector: tf.Tensor) -> list[tuple[keras.Variable, tf.Tensor]]:
        """Cuts a flat tensor into `(variable, value)` pairs for a `keras.StatelessScope`.

        Args:
            vector: `(n,)` tensor of type `dtype`. Differentiable.
        """
        pieces = tf.split(vector, self._sizes) if self._sizes else []
        return [
            (variable, tf.cast(tf.reshape(piece, shape), variable.dtype))
            for variable, piece, shape in zip(self._variables, pieces, self.shapes, strict=True)
        ]

    def segments(self) -> dict[str, slice]:
        """Returns where each variable lies in the flat vector, by the variable's path.

        Where Keras has given several variables the same path, all but the first have a number.
        """
        segments: dict[str, slice] = {}
        ends = np.cumsum(self._sizes)
        for variable, size, end in zip(self._variables, self._sizes, ends, strict=True):
            path, number = variable.path, 1
            while path in segments:
                number += 1
                path = f"{variable.path}/{number}"
            segments[path] = slice(int(end) - size, int(end))
        return segments


class FlatWeights(FlatVariables):
    """Maps between a flat vector and a model's trainable weights.

    Args:
        model: A built Keras model.

    Raises:
        ValueError: If the model is not built or has no trainable weights.
    """

    def __init__(self, model: keras.Model):
        if not model.built:
            raise ValueError(
                "`model` must be built: its weights do not exist yet. Call it once on a batch, or "
                f"`model.build(input_shape)`. Received: model={model.name!r}"
            )
        super().__init__(model.trainable_variables)
        if not self.size:
            raise ValueError(
                "`model` must have trainable weights: there is nothing to move. Set "
                f"`trainable=True` on the layers to measure. Received: model={model.name!r}"
            )
