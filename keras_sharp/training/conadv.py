"""Concurrent adversarial training, and its sequential reference."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_sharp.arguments import integer
from keras_sharp.training.adversarial import Adversarial
from keras_sharp.training.pgd import PGD
from keras_sharp.training.step import Step


class DisAdv(Adversarial):
    """Adversarial training with separate normalisation of clean and attacked inputs.

    The gradient is that of `L(w; x, y) + L(w; x', y)`, where `x'` are the inputs attacked at the
    weights `w`. Layers with an attribute `branch` are told which of the two they see: it is
    `"adversarial"` while the attack and the pass over `x'` are traced, and `"main"` everywhere
    else. Each branch keeps moving statistics of its own, and evaluation uses the main one.

    Args:
        attack: The attack.
        clean_weight: As in `Adversarial`; the paper's is 1.
        adversarial_weight: As in `Adversarial`; the paper's is 1.

    Raises:
        ValueError: If a weight is negative, or both are 0.

    Note:
        A model without such layers normalises both with the same layers, each by its own batch.

    References:
        Liu et al., Concurrent Adversarial Learning for Large-Batch Training, ICLR 2022,
        arXiv 2106.00221.
    """

    branch = "adversarial"

    def __init__(self, attack: PGD, *, clean_weight: float = 1.0, adversarial_weight: float = 1.0):
        super().__init__(attack, clean_weight=clean_weight, adversarial_weight=adversarial_weight)


class ConAdv(DisAdv):
    """`DisAdv` with an attack that does not wait for the weights: it uses those `tau` steps old.

    The gradient of step `t` is that of `L(w_t; x, y) + L(w_t; x', y)`, where `x'` are the inputs
    attacked at `w_{t - tau}`, and at the moving statistics of that time. Since nothing in the
    attack depends on the steps in between, it may run beside them. With `tau=0` this is `DisAdv`.

    Args:
        attack: The attack.
        tau: Staleness, in steps.
        clean_weight: As in `DisAdv`.
        adversarial_weight: As in `DisAdv`.

    Raises:
        ValueError: If an argument is of no use; and by `fit`, if replicas have weights of their own
            and `tau` is not 0.

    Example:
    ```python
    attack = PGD(1 / 255, random_start=True, clip=(0, 1))
    trainer = Trainer(model, "sgd", "mse", gradient=ConAdv(attack, tau=1))
    ```

    Note:
        In the paper the batch `t + tau` is attacked during step `t`, on hardware that is idle.
        Here the batch `t` is attacked in step `t`, at weights that were kept: the same numbers, but
        no time is saved. A step takes as long as one of `DisAdv`, and memory for `tau` copies of
        the weights. The first `tau` steps attack at the weights the training began with, which the
        paper leaves open.

    References:
        Liu et al., Concurrent Adversarial Learning for Large-Batch Training, ICLR 2022,
        arXiv 2106.00221, algorithm 1.
    """

    def __init__(
        self,
        attack: PGD,
        tau: int = 1,
        *,
        clean_weight: float = 1.0,
        adversarial_weight: float = 1.0,
    ):
        super().__init__(attack, clean_weight=clean_weight, adversarial_weight=adversarial_weight)
        self.tau = integer("tau", tau, least=0)
        self._kept_of: list[int] = []
        self._kept: list[tf.Variable] = []  # `(tau, *shape)`, the oldest values first
        self._begun: tf.Variable | None = None

    @property
    def keeps_weights(self) -> bool:
        """Whether it keeps values of the weights, which must be the same on all replicas."""
        return self.tau > 0

    def build(self, weights: list, statistics: list) -> None:
        """Makes room for old values, inside the strategy's scope, before steps are traced."""
        variables = [*weights, *statistics]
        if self.tau == 0 or self._kept_of == [id(v) for v in variables]:
            return
        self._kept_of = [id(v) for v in variables]
        self._kept = [
            tf.Variable(tf.zeros([self.tau, *v.shape], v.value.dtype), trainable=False)
            for v in variables
        ]
        self._begun = tf.Variable(False, trainable=False)

    def __call__(self, step: Step) -> tuple[tf.Tensor, list]:
        """Returns the loss of the clean inputs, and the gradient of both."""
        if self.tau == 0:
            return super().__call__(step)

        def shift(now, kept, begun):
            """Returns the oldest values, and those to keep now."""
            now = [tf.convert_to_tensor(value) for value in now]
            kept = [
                tf.where(begun, queue, tf.broadcast_to(value, queue.shape))
                for value, queue in zip(now, kept, strict=True)
            ]
            queues = [
                tf.concat([queue[1:], value[None]], 0)
                for value, queue in zip(now, kept, strict=True)
            ]
            return [queue[0] for queue in kept], queues

        oldest, queues = step.map(shift, [*step.weights, *step.statistics], self._kept, self._begun)
        step.assign([*self._kept, self._begun], [*queues, True])
        count = len(step.weights)
        return self._mixture(step, attack_at=(oldest[:count], oldest[count:]))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the rule was made with."""
        return {**super().get_config(), "tau": self.tau}

    def get_state(self) -> dict[str, Any]:
        """Returns the old values, for a checkpoint."""
        begun = self._begun is not None and bool(self._begun.numpy())
        return {"begun": begun, "kept": [queue.numpy() for queue in self._kept]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on with values that `get_state` returned."""
        for queue, value in zip(self._kept, state["kept"], strict=True):
            queue.assign(np.asarray(value))
        if self._begun is not None:
            self._begun.assign(state["begun"])
