"""An LSTM for rows in which one episode follows another."""

from typing import Any

import keras
import tensorflow as tf

from keras_sharp.arguments import integer


@keras.saving.register_keras_serializable("keras_sharp")
class EpisodicLSTM(keras.layers.Layer):
    """An LSTM whose state is zeroed where an episode begins.

    A sequence may be cut anywhere: with the state handed on, its parts give what the whole gives.
    Kernels begin orthogonal, biases at 0.

    Args:
        units: Numbers it returns for each step.
        kwargs: Those of every Keras layer.
    """

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = integer("units", units)

    def build(self, input_shape: Any) -> None:
        """Makes the weights, those of input, forget, candidate and output gate side by side."""
        features, gates = input_shape[0][-1], 4 * self.units
        self.kernel = self.add_weight((features, gates), "orthogonal", name="kernel")
        self.recurrent_kernel = self.add_weight(
            (self.units, gates), "orthogonal", name="recurrent_kernel"
        )
        self.bias = self.add_weight((gates,), "zeros", name="bias")
        self.built = True

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Goes through some steps of many rows.

        Args:
            inputs: `(rows, steps, features)`; `(rows, steps)` bool, with which step an episode
                begins; and the state before the first step, `(rows, 2, units)`.

        Returns:
            `(rows, steps, units)`, and the state after the last step, `(rows, 2, units)`.
        """
        features, begins, state = inputs
        # One product for all steps: only what depends on the step before is left to the loop.
        gates = tf.matmul(features, self.kernel) + self.bias
        goes_on = tf.cast(~begins, gates.dtype)[..., None]
        kernel = tf.convert_to_tensor(self.recurrent_kernel)

        def step(before, now):
            gates, goes_on = now
            output, cell = (each * goes_on for each in before)
            gates = gates + tf.matmul(output, kernel)
            into, keep, candidate, out = tf.split(gates, 4, axis=-1)
            cell = tf.sigmoid(keep) * cell + tf.sigmoid(into) * tf.tanh(candidate)
            return tf.sigmoid(out) * tf.tanh(cell), cell

        by_time = tuple(tf.transpose(each, (1, 0, 2)) for each in (gates, goes_on))
        start = tuple(tf.unstack(tf.cast(state, gates.dtype), axis=1))
        outputs, cells = tf.scan(step, by_time, start)
        return tf.transpose(outputs, (1, 0, 2)), tf.stack([outputs[-1], cells[-1]], axis=1)

    def compute_output_shape(self, input_shape: Any) -> tuple[tuple[int | None, ...], ...]:
        """Returns the shapes of outputs and state."""
        features, _, state = input_shape
        return (*features[:2], self.units), tuple(state)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the layer was made with."""
        return {**super().get_config(), "units": self.units}
