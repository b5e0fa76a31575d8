"""Replicas that step on their own, and average now and then."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_sharp.arguments import integer
from keras_sharp.training.forward import Forward
from keras_sharp.training.mixing import Mixing, all_reduced
from keras_sharp.training.own_weights import OwnWeights, flatten, unflatten


class LocalSGD(OwnWeights):
    """Every replica takes steps of its own; their weights are averaged after every `every` steps.

    With `after` this is post-local SGD: replicas step together at first, as with `AllReduce`, and
    on their own in the second phase, usually from the first drop of the learning rate on. A local
    step has the batch of one replica, so its noise is that of a small batch, and nothing is sent.

    The optimizer may be any that `Trainer` takes but `LossScaleOptimizer` and those with `use_ema`.
    In a local step it clips the gradient of the replica. Each replica keeps its own momentum, which
    is never averaged before the end of `fit`.

    Args:
        every: Number of local steps between averages, the paper's `H`.
        after: Number of steps that replicas take together first.

    Raises:
        ValueError: If an argument is out of range; by `fit`, if the optimizer does not fit.

    Example:
    ```python
    epoch = -(-len(x) // 8192)
    trainer = Trainer(model, "sgd", "mse", communication=LocalSGD(16, after=150 * epoch))
    ```

    References:
        - [Lin et al., 2020](https://arxiv.org/abs/1808.07217)
    """

    def __init__(self, every: int, *, after: int = 0):
        super().__init__()
        self.every = integer("every", every)
        self.after = integer("after", after, least=0)

    def build(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        forward: Forward,
    ) -> None:
        """Prepares the exchange; see `OwnWeights`."""
        super().build(strategy, model, forward)
        self._mixing = Mixing(None, strategy)

    def __call__(self, gradients: list[tf.Tensor], share: tf.Tensor) -> list[tf.Tensor]:
        """Returns the replica's own gradient, and that of the batch in the first phase."""
        own = super().__call__(gradients, share)
        if not self.after:
            return own
        # The strategy's own all-reduce can't be under a condition.
        return tf.cond(self._steps() < self.after, lambda: self._mean(own), lambda: own)

    def apply(self, gradients: list, optimizer_step: Callable) -> None:
        """Takes the optimizer's step on every replica, and averages if it is time."""
        optimizer_step(gradients)
        local = self._steps() - self.after
        due = (local > 0) & (local % self.every == 0)

        def average():
            weights = self._forward.trainable
            self.move(weights, self._strategy.run(self._mean, args=([v.value for v in weights],)))

        tf.cond(due, average, lambda: None)

    def vectors_per_step(self, step: int) -> float:
        """Returns how many vectors a replica sends in a step; see `OwnWeights`."""
        local = step + 1 - self.after
        sends = local <= 0 or local % self.every == 0
        return sends * all_reduced(self._strategy.num_replicas_in_sync)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the communication was made with."""
        return {"every": self.every, "after": self.after}

    def _steps(self) -> tf.Tensor:
        return tf.convert_to_tensor(self._optimizer.iterations.value)

    def _mean(self, tensors: list) -> list[tf.Tensor]:
        """Returns the mean over the replicas. Called on every replica."""
        tensors = [tf.convert_to_tensor(t) for t in tensors]
        return unflatten(self._mixing.mean(flatten(tensors)), tensors)
