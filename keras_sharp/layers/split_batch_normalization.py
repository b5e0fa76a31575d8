"""Split batch normalization: statistics of their own for adversarial examples."""

from typing import Any

import keras

BRANCHES = ("main", "adversarial")


@keras.saving.register_keras_serializable("keras_sharp")
class SplitBatchNormalization(keras.layers.Layer):
    """Two BatchNormalization layers, one for clean examples and one for adversarial ones.

    Clean and adversarial examples have different statistics; a network trained on both does better
    if it does not mix them. Each branch has its own `gamma`, `beta` and moving statistics.
    `branch` decides which of them a call takes, at the time the call is traced. The adversarial
    gradient rules of `keras_sharp.training` set it on their own.

    Outside of them, and so in evaluation, in a saved model and in `keras_sharp.Objective`, it is
    `"main"`. A loss does not depend on the weights of the other branch then: measures count them
    among the weights, with derivatives of 0.

    Args:
        layer: The `keras.layers.BatchNormalization` of the main branch, or a subclass of it. The
            other branch has the same configuration, and begins with its own initial values.
            Defaults to `keras.layers.BatchNormalization()`.
        **kwargs: As for `keras.layers.Layer`.

    Attributes:
        branch: `"main"` or `"adversarial"`.
        main: The layer of the main branch.
        adversarial: That of the other.

    Raises:
        ValueError: If `layer` is no BatchNormalization, or `branch` is set to something else.

    Example:
    ```python
    layer = SplitBatchNormalization(keras.layers.BatchNormalization(momentum=0.9))
    layer.branch = "adversarial"
    layer(x_adversarial, training=True)
    ```

    References:
        - [Xie et al., 2019](https://arxiv.org/abs/1911.09665)
        - [Liu et al., 2021](https://arxiv.org/abs/2106.00221)
    """

    def __init__(self, layer: keras.layers.BatchNormalization | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        layer = keras.layers.BatchNormalization() if layer is None else layer
        if not isinstance(layer, keras.layers.BatchNormalization):
            raise ValueError(f"`layer` must be a `BatchNormalization`. Received: layer={layer!r}")
        self.main = layer
        config = {**layer.get_config(), "name": f"{layer.name}_adversarial"}
        self.adversarial = type(layer).from_config(config)
        self.supports_masking = True
        self.branch = "main"

    @property
    def branch(self) -> str:
        """The branch that calls take: `"main"` or `"adversarial"`."""
        return self._branch

    @branch.setter
    def branch(self, branch: str) -> None:
        if branch not in BRANCHES:
            raise ValueError(f"`branch` must be one of {BRANCHES}. Received: branch={branch!r}")
        self._branch = branch

    def build(self, input_shape: tuple) -> None:
        """Creates the weights of both branches."""
        for layer in (self.main, self.adversarial):
            if not layer.built:  # as `main` is when a saved model is loaded
                layer.build(input_shape)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Returns the inputs normalized by the branch chosen."""
        layer = self.main if self.branch == "main" else self.adversarial
        options = {} if mask is None else {"mask": mask}
        return layer(inputs, training=training, **options)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns the shape of the inputs."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the layer was made with."""
        return {**super().get_config(), "layer": keras.saving.serialize_keras_object(self.main)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SplitBatchNormalization":
        """Makes a layer from what `get_config` returned."""
        return cls(**{**config, "layer": keras.saving.deserialize_keras_object(config["layer"])})
