"""Stochastic weight averaging."""

import warnings
from typing import Any, Unpack

import keras
import numpy as np

from keras_sharp.arguments import integer
from keras_sharp.function_arguments import FunctionArguments
from keras_sharp.normalization import batch_normalizations, moving_statistics
from keras_sharp.objective import Objective
from keras_sharp.weights import FlatVariables


class SWA(keras.callbacks.Callback):
    """Leaves the equal mean of the weights of many epochs in the model.

    From an epoch on, the weights after each epoch (or each `every` epochs) are averaged, all with
    the same weight, in float64:

        mean <- mean + (w - mean) / count

    The training goes on with its own weights. At its end the mean takes their place, and a pass
    over `ds` gives BatchNormalization layers the statistics that belong to it: those they had on
    the way are of other weights. What the training logged is of its own weights: evaluate the model
    afterwards. The paper trains at a constant, rather high rate meanwhile.

    Works in `Trainer.fit`, whose checkpoint keeps the mean, and in `keras.Model.fit`.

    Args:
        start: Number of epochs before the first that counts.
        ds: The training data, for the statistics: a tuple of arrays, a `tf.data.Dataset` of batches
            or a `keras.utils.PyDataset`, without augmentation. Only a model with
            BatchNormalization needs them.
        every: Averages after every so many epochs.
        **function: `loss`, `batch_size`, `check_data`... of `keras_sharp.Objective`, of which the
            pass needs the batches alone.

    Attributes:
        count: Number of epochs in the mean.

    Raises:
        ValueError: If an argument is out of range; and by `fit`, before it trains, if the model has
            BatchNormalization and there is no `ds`, or one of no use.

    Note:
        As in the authors' code the pass normalizes each batch by itself. It pools means and
        variances over all examples, where the code averages the variances of batches, and leaves
        dropout off.

    Example:
    ```python
    average = SWA(start=160, ds=(x, y), batch_size=1000)
    trainer.fit((x, y), batch_size=8192, epochs=200, callbacks=[average])
    trainer.evaluate((x_test, y_test))
    ```

    References:
        - [Izmailov et al., 2018](https://arxiv.org/abs/1803.05407)
    """

    def __init__(
        self, start: int, ds: Any = None, *, every: int = 1, **function: Unpack[FunctionArguments]
    ):
        super().__init__()
        unknown = set(function) - set(FunctionArguments.__annotations__)
        if unknown:
            raise ValueError(
                f"`SWA` takes its own arguments and {sorted(FunctionArguments.__annotations__)}. "
                f"Received: {sorted(unknown)}"
            )
        self.start = integer("start", start, least=0)
        self.every = integer("every", every)
        self.count = 0
        self._mean = np.zeros(0)
        self._ds = ds
        self._function = function
        self._objective: Objective | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets a training before this one.

        Raises:
            ValueError: If data are needed and missing, or of no use.
        """
        self.count, self._mean, self._objective = 0, np.zeros(0), None
        normalizing = [layer for layer in batch_normalizations(self.model) if layer.trainable]
        if not normalizing:
            return
        if self._ds is None:
            raise ValueError(
                "`ds` must be the training data for a model with BatchNormalization, whose "
                "statistics belong to the weights averaged. Received: ds=None, layer "
                f"{normalizing[0].name!r}"
            )
        self._objective = Objective(self.model, self._ds, **self._function)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Takes the weights into the mean."""
        if epoch < self.start or (epoch - self.start) % self.every:
            return
        weights = FlatVariables(self.model.trainable_variables).read()
        self.count += 1
        mean = self._mean if self.count > 1 else np.zeros_like(weights)
        self._mean = mean + (weights - mean) / self.count

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Puts the mean into the model, and the statistics that belong to it."""
        if not self.count:
            message = f"SWA averaged nothing: the training ended before epoch {self.start + 1}."
            warnings.warn(message, stacklevel=2)
            return
        statistics = None
        if self._objective is not None:  # while the model is still as it was trained
            statistics = self._objective.estimate_statistics(self._mean)
            self._objective = None
        FlatVariables(self.model.trainable_variables).write(self._mean)
        if statistics is not None:
            FlatVariables(moving_statistics(self.model)).write(statistics)

    def get_state(self) -> dict[str, Any]:
        """Returns the mean, for a checkpoint."""
        return {"count": self.count, "mean": self._mean}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `get_state` returned."""
        self.count, self._mean = state["count"], np.asarray(state["mean"])
