"""Adversarial training."""

from typing import Any

import tensorflow as tf

from keras_sharp.arguments import not_negative
from keras_sharp.training.pgd import PGD
from keras_sharp.training.step import Step


class Adversarial:
    """The gradient of `clean_weight L(w; x, y) + adversarial_weight L(w; x', y)`.

    `x'` are the inputs that an attack at `w` makes of those of the batch. Two weights of 1/2 are
    the mixture of Goodfellow et al.; `clean_weight=0` and `adversarial_weight=1` train on attacked
    inputs alone, as Madry et al. do.

    Metrics and moving statistics are those of the clean inputs, and so is the loss that is
    reported; without a clean part, of the attacked ones. A step costs two (one without a clean
    part), and one for each iteration of the attack.

    Args:
        attack: The attack.
        clean_weight: Factor of the loss of the inputs as they are.
        adversarial_weight: Factor of the loss of the attacked ones.

    Raises:
        ValueError: If a weight is negative, or both are 0.

    Example:
    ```python
    attack = PGD(8 / 255, iterations=5, clip=(0, 1))
    trainer = Trainer(model, "sgd", "mse", gradient=Adversarial(attack))
    ```

    Note:
        A penalty in the loss (`kernel_regularizer`) is part of both losses.

    References:
        Goodfellow, Shlens and Szegedy, Explaining and Harnessing Adversarial Examples, ICLR 2015,
        arXiv 1412.6572, section 6. Madry et al., Towards Deep Learning Models Resistant to
        Adversarial Attacks, ICLR 2018, arXiv 1706.06083.
    """

    # The branch that layers with several take for attacked inputs.
    branch = "main"

    def __init__(self, attack: PGD, *, clean_weight: float = 0.5, adversarial_weight: float = 0.5):
        if not callable(attack):
            raise ValueError(f"`attack` must be an attack like `PGD(0.1)`. Received: {attack!r}")
        self.attack = attack
        self.clean_weight = not_negative("clean_weight", clean_weight)
        self.adversarial_weight = not_negative("adversarial_weight", adversarial_weight)
        if self.clean_weight == self.adversarial_weight == 0:
            raise ValueError("`clean_weight` and `adversarial_weight` must not both be 0")

    def __call__(self, step: Step) -> tuple[tf.Tensor, list]:
        """Returns the loss of the clean inputs, if there are any, and the gradient of both."""
        return self._mixture(step, attack_at=None)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the rule was made with."""
        return {
            "attack": self.attack,
            "clean_weight": self.clean_weight,
            "adversarial_weight": self.adversarial_weight,
        }

    def _mixture(self, step: Step, attack_at: tuple[list, list] | None) -> tuple[tf.Tensor, list]:
        """Returns loss and gradient for an attack at given weights and moving statistics."""

        def attacked():
            options = {"attack": self.attack, "attack_at": attack_at, "branch": self.branch}
            return step.gradient(**options)

        def mixed(clean, adversarial):
            return [
                self.clean_weight * c + self.adversarial_weight * a
                for c, a in zip(clean, adversarial, strict=True)
            ]

        if self.clean_weight == 0:
            loss, gradient = attacked()
            return loss, step.map(lambda g: [self.adversarial_weight * a for a in g], gradient)
        loss, clean = step.gradient()
        return loss, step.map(mixed, clean, attacked()[1])
