"""A loss that does not see how large the logits are."""

from typing import Any

import keras

# Andriushchenko et al. 2023, their code: the least length that logits are divided by.
_LEAST = 1e-10


@keras.saving.register_keras_serializable("keras_sharp")
class NormalizedLogits(keras.losses.Loss):
    """A loss of the logits `z' / |z'|`, `z' = z - mean(z)`, example by example.

    What a network predicts does not depend on the scale of its logits, but how sharp its loss is
    does.

    Args:
        loss: A loss from logits, such as `CategoricalCrossentropy(from_logits=True)`.
        name: Name of the loss.

    Raises:
        ValueError: If the loss is not from logits; when called, if there is only one logit.

    References:
        - [Andriushchenko et al., 2023](https://arxiv.org/abs/2302.07011), section 4.
    """

    def __init__(self, loss: keras.losses.Loss, name: str = "normalized_logits"):
        if not getattr(loss, "from_logits", False):
            raise ValueError(
                "`loss` must be a single one with `from_logits=True`, such as "
                "keras.losses.SparseCategoricalCrossentropy(from_logits=True), of a model without "
                f"a final softmax: only logits can be normalised. Received: loss={loss!r}"
            )
        super().__init__(name=name, reduction=loss.reduction, dtype=loss.dtype)
        self.loss = loss
        # What tells a loss of integer labels.
        self.fn = getattr(loss, "fn", None)
        self.ignore_class = getattr(loss, "ignore_class", None)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns one value per example."""
        if y_pred.shape[-1] == 1:
            raise ValueError(
                "`y_pred` must hold two logits or more: normalised, nothing would be left of a "
                f"single logit. Received: y_pred of shape {tuple(y_pred.shape)}"
            )
        centred = y_pred - keras.ops.mean(y_pred, axis=-1, keepdims=True)
        square = keras.ops.sum(keras.ops.square(centred), axis=-1, keepdims=True)
        return self.loss.call(
            y_true, centred / keras.ops.sqrt(keras.ops.maximum(square, _LEAST**2))
        )

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs."""
        return {"name": self.name, "loss": keras.saving.serialize_keras_object(self.loss)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "NormalizedLogits":
        """Returns the loss that `get_config` describes."""
        return cls(keras.saving.deserialize_keras_object(config["loss"]), config["name"])
