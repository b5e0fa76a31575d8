"""What a method for large batches comes to: everything a training needs, ready to start."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_sharp.callbacks import SWA
from keras_sharp.training import Trainer
from keras_sharp.training.strategy import choose_strategy


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One training by one method.

    A recipe is for one training, since its optimizer has a state; making another is cheap. Under a
    strategy make it inside `strategy.scope()`, as the model.

    Attributes:
        name: Name of the method.
        optimizer: The optimizer, its learning rate scaled and scheduled.
        batch_size: Examples of a step, or sizes by their first epoch.
        epochs: Length of the training.
        gradient: The gradient rule. None: the plain gradient.
        communication: How replicas agree. None: they add up their gradients.
        callbacks: What the method needs while it trains.
        convert: Makes the model the method trains of the one given, with its weights. None: the
            model itself.
        averages_from: Number of epochs after which the weights are averaged, by `SWA`. None: never.
        examples: Number of training examples it is made for. None: any.

    Example:
    ```python
    recipe = large_batch.sam(8192, base_batch_size=256, learning_rate=0.1, examples=60000, epochs=9)
    recipe.fit(model, loss, (x, y), validation_data=(x_test, y_test), checkpoint="training.npz")
    ```
    """

    name: str
    optimizer: keras.optimizers.Optimizer
    batch_size: int | dict[int, int]
    epochs: int
    gradient: Callable | None = None
    communication: Callable | None = None
    callbacks: list[keras.callbacks.Callback] = dataclasses.field(default_factory=list)
    convert: Callable[[keras.Model], keras.Model] | None = None
    averages_from: int | None = None
    examples: int | None = None

    def trainer(self, model: keras.Model, loss: Any, **arguments: Any) -> Trainer:
        """Returns what takes the method's steps.

        What `fit` does beyond it is to pass on `batch_size`, `epochs` and `callbacks`, and to
        average the weights.

        Args:
            model: A Keras model. Where the method converts its layers, `trainer.model` is another
                one, and this one stays as it is.
            loss: Any form `compile(loss=...)` takes.
            **arguments: More arguments of `Trainer`: `metrics`, `micro_batch`... Those the method
                decides, `gradient` and `communication`, are not among them.

        Raises:
            ValueError: If the recipe was used before, the method does not fit the model, or decides
                an argument.
        """
        self._refuse(arguments, "gradient", "communication")
        if self.optimizer.built:
            raise ValueError(
                f"A recipe is for one training: make another by calling `{self.name}` again. "
                "Received: a recipe whose optimizer was used before"
            )
        if self.convert is not None:
            with choose_strategy(arguments.get("strategy"), model).scope():
                model = self.convert(model)
        parts = {"gradient": self.gradient, "communication": self.communication}
        return Trainer(model, self.optimizer, loss, **parts, **arguments)

    def fit(
        self, model: keras.Model, loss: Any, data: Any, **arguments: Any
    ) -> keras.callbacks.History:
        """Trains, or goes on from a checkpoint.

        Args:
            model: A Keras model. `history.model` is the one that was trained: another one, where
                the method converts layers.
            loss: Any form `compile(loss=...)` takes.
            data: Arrays, `(x, y)` or `(x, y, sample_weight)`.
            **arguments: More arguments of `Trainer` and of `Trainer.fit`: `metrics`, `micro_batch`,
                `validation_data`, `callbacks`, `checkpoint`... Of those the method decides, only
                `epochs` may be another: a training that ends early or late.

        Returns:
            The History, of all epochs.

        Raises:
            ValueError: If the recipe was used before, the method does not fit model or data, or
                decides an argument.
        """
        self._refuse(arguments, "batch_size")
        self._check_data(data)
        of_fit = inspect.signature(Trainer.fit).parameters
        own = {name: arguments.pop(name) for name in list(arguments) if name in of_fit}
        callbacks = [*self.callbacks, *keras.tree.flatten(own.pop("callbacks", None) or [])]
        if self.averages_from is not None:
            # Batches of the pass over the data at the end; None: the default of `Objective`.
            size = arguments.get("micro_batch")
            own_size = {} if size is None else {"batch_size": size}
            callbacks.append(SWA(self.averages_from, data, **own_size))
        settings = {"batch_size": self.batch_size, "epochs": self.epochs, "callbacks": callbacks}
        return self.trainer(model, loss, **arguments).fit(data, **settings | own)

    def _refuse(self, arguments: dict[str, Any], *decided: str) -> None:
        for name in decided:
            if name in arguments:
                raise ValueError(
                    f"`{name}` is decided by the method. Make another recipe, or combine parts of "
                    f"your own with `keras_sharp.training.Trainer`. Received: {name}="
                    f"{arguments[name]!r} for {self.name!r}"
                )

    def _check_data(self, data: Any) -> None:
        if isinstance(data, tf.data.Dataset | keras.utils.PyDataset):
            raise ValueError(
                "`data` must be arrays: the method makes the batches. Received: "
                f"{type(data).__name__}"
            )
        shape = np.shape(keras.tree.flatten(data)[0])
        if self.examples is not None and shape[:1] != (self.examples,):
            raise ValueError(
                "`data` must have as many examples as the recipe was made for, on which its rate "
                f"depends, {self.examples}. Received: an array of shape {shape}"
            )
