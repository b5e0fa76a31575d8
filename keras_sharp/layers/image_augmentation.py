"""The augmentation of images that Keskar et al. tried on large batches."""

from typing import Any

import keras


@keras.saving.register_keras_serializable("keras_sharp")
class ImageAugmentation(keras.layers.Layer):
    """Random horizontal flips, rotations and translations, on the device that trains.

    Three of Keras's own layers, one after the other, each with new random numbers for each image
    and each step. At inference nothing happens. Put it in front of a network.

    Args:
        flip: Whether images are flipped horizontally, every other one.
        degrees: Largest rotation either way, in degrees.
        shift: Largest translation either way, as a share of height and width.
        fill_mode: How the parts beyond the border are filled, as in `keras.layers.RandomRotation`.
            Defaults to `"nearest"`: the paper does not say.
        seed: Seed of the random numbers.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: If `degrees` or `shift` are out of range.

    Example:
    ```python
    model = keras.Sequential([keras.Input((32, 32, 3)), ImageAugmentation(seed=0), network])
    ```

    References:
        - [Keskar et al., 2017](https://arxiv.org/abs/1609.04836), appendix E
    """

    def __init__(
        self,
        flip: bool = True,
        degrees: float = 10.0,
        shift: float = 0.2,
        fill_mode: str = "nearest",
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not 0 <= degrees <= 180:
            raise ValueError(f"`degrees` must be in [0, 180]. Received: degrees={degrees}")
        if not 0 <= shift <= 1:
            raise ValueError(f"`shift` must be in [0, 1]. Received: shift={shift}")
        self.flip = flip
        self.degrees = degrees
        self.shift = shift
        self.fill_mode = fill_mode
        self.seed = seed
        # One seed for all three would tie flips to angles.
        seeds = [None] * 3 if seed is None else [3 * seed + i for i in range(3)]
        kind, fill = {"dtype": self.dtype_policy}, {"fill_mode": fill_mode}
        self.steps = []
        if flip:
            self.steps.append(keras.layers.RandomFlip("horizontal", seed=seeds[0], **kind))
        if degrees:
            turn = degrees / 360
            self.steps.append(keras.layers.RandomRotation(turn, seed=seeds[1], **fill, **kind))
        if shift:
            share = (shift, shift)
            self.steps.append(keras.layers.RandomTranslation(*share, seed=seeds[2], **fill, **kind))

    def build(self, input_shape: tuple) -> None:
        """Builds the layers inside, which have no weights."""
        for step in self.steps:
            step.build(input_shape)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns images, `(batch, height, width, channels)`, changed in training."""
        for step in self.steps:
            inputs = step(inputs, training=training)
        return inputs

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns the shape of the inputs."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the layer was made with."""
        return {
            **super().get_config(),
            "flip": self.flip,
            "degrees": self.degrees,
            "shift": self.shift,
            "fill_mode": self.fill_mode,
            "seed": self.seed,
        }
