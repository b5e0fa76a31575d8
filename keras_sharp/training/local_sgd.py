"""Replicas that step on their own, and average now and then."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_sharp.arguments import integer
from keras_sharp.training.forward import Forward
from keras_sharp.training.mixing import Mixing
from keras_sharp.training.own_weights import OwnWeights, flatten, unflatten


class LocalSGD(OwnWeights):
    """Every replica takes steps of its own; their weights are averaged after every `every` steps.

    With `after` this is post-local SGD: replicas step together at first, as with `AllReduce`, and
    on their own in the second phase, usually from the first drop of the learning rate on. A local
    step has the batch of one replica, so its noise is that of a small batch, and nothing is sent.

    The optimizer may be any that `Trainer` takes but `LossScaleOptimizer`. Each replica keeps its
    own momentum, which is never averaged before the end of `fit`.

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
        optimizer: keras.optimizers.Optimizer,
        forward: Forward,
    ) -> None:
        """Prepares the exchange; see `OwnWeights`."""
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            raise ValueError(
                "`optimizer` can't be a LossScaleOptimizer for LocalSGD: replicas would scale "
                "their losses differently. Use `mixed_bfloat16`, or `loss_scale_factor`."
            )
        super().build(strategy, optimizer, forward)
        self._mixing = Mixing(None, strategy)

    def __call__(self, gradients: list[tf.Tensor], share: tf.Tensor) -> list[tf.Tensor]:
        """Returns the replica's own gradient, and that of the batch in the first phase."""
        own = flatten(super().__call__(gradients, share))
        # The strategy's own all-reduce can't be under a condition.
        together = self._steps() < self.after
        agreed = tf.cond(together, lambda: self._mixing.mean(own), lambda: own)
        return unflatten(agreed, gradients)

    def apply(self, gradients: list, optimizer_step: Callable) -> None:
        """Takes the optimizer's step on every replica, and averages if it is time."""
        optimizer_step(gradients)
        self.move(self._forward.trainable, self._strategy.run(self._averaged))

    def bytes_per_step(self, step: int) -> float:
        """Returns how many bytes a replica sends in a step; see `OwnWeights`."""
        local = step + 1 - self.after
        sends = local <= 0 or local % self.every == 0
        return sends * self.bytes_of_weights * float(self._mixing.exchanges[0])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the communication was made with."""
        return {"every": self.every, "after": self.after}

    def _steps(self) -> tf.Tensor:
        return tf.convert_to_tensor(self._optimizer.iterations.value)

    def _averaged(self) -> list[tf.Tensor]:
        weights = [tf.convert_to_tensor(v.value) for v in self._forward.trainable]
        local = self._steps() - self.after
        due = (local > 0) & (local % self.every == 0)
        own = flatten(weights)
        return unflatten(tf.cond(due, lambda: self._mixing.mean(own), lambda: own), weights)
