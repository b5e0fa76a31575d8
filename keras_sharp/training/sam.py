"""Sharpness-aware minimization."""

from typing import Any

import tensorflow as tf

from keras_sharp.arguments import integer, not_negative, one_of
from keras_sharp.training.step import Step

# Keeps a direction finite where the gradient is zero; the value of the authors' own code.
TINY = 1e-12


class SAM:
    """The gradient at the worst weights nearby: `grad L(w + e)`, with `e = rho g / |g|`.

    `g = grad L(w)` is the gradient at the weights, and `|g|` its norm over all trainable weights.
    Metrics, loss and moving statistics are those at `w`, and the weights don't move. A step costs
    two.

    A large batch has one perturbation for many examples, and SAM then does less than with a small
    one. With `per="part"` every part of the batch has its own, from its own gradient: a part is
    what one replica sees at once, so `Trainer(micro_batch=m)` makes it an m-SAM of `m` examples at
    most. That is what the authors' code does on several devices; results then depend on how the
    batch is split.

    Args:
        rho: Radius of the neighbourhood, in the units of the weights. 0 makes it plain training.
        per: `"batch"` or `"part"`: what shares a perturbation.
        every: Looks ahead in every so manieth step only, from the first on, and is plain otherwise.

    Raises:
        ValueError: If an argument is of no use.

    Example:
    ```python
    trainer = Trainer(model, "sgd", "mse", gradient=SAM(rho=0.05, per="part"), micro_batch=128)
    ```

    Note:
        A penalty in the loss (`kernel_regularizer`) is part of both gradients; the `weight_decay`
        of a Keras optimizer is part of neither.

    References:
        Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization,
        ICLR 2021, arXiv 2010.01412.
    """

    def __init__(self, rho: float = 0.05, *, per: str = "batch", every: int = 1):
        self.rho = not_negative("rho", rho)
        self.per = one_of("per", per, ("batch", "part"))
        self.every = integer("every", every)

    def __call__(self, step: Step) -> tuple[tf.Tensor, list]:
        """Returns the loss at the weights, and the gradient at the perturbed ones."""
        if self.every == 1:
            return self._look_ahead(step)
        looks = tf.equal(step.number % self.every, 0)
        return step.choose(looks, lambda: self._look_ahead(step), step.gradient)

    def _look_ahead(self, step: Step) -> tuple[tf.Tensor, list]:
        def ahead(weights, gradient):
            units = self.units(weights, step.names)
            scaled = [t * _wide(g) for t, g in zip(units, gradient, strict=True)]
            factor = self.rho / (_norm(scaled) + TINY)
            return [
                w + tf.cast(tf.cast(factor, s.dtype) * t * s, w.dtype)
                for w, t, s in zip(weights, units, scaled, strict=True)
            ]

        if self.per == "part":
            return step.gradient(ahead=ahead)
        loss, gradient = step.gradient()
        return loss, step.gradient(at=step.map(ahead, step.weights, gradient))[1]

    def units(self, weights: list[tf.Tensor], names: list[str]) -> list[Any]:
        """Returns what a perturbation of each weight is measured in."""
        return [tf.ones((), _wide(w).dtype) for w in weights]


class ASAM(SAM):
    """SAM that measures how far a weight moves in units of its size: `e = rho T^2 g / |T g|`.

    `T = |w| + eta`, weight by weight, and 1 for biases and shifts (weights named `"bias"` and
    `"beta"`), as in the authors' code. With `eta = 0` the same network with its layers rescaled
    takes the same steps, as far as it has no biases.

    Args:
        rho: Radius of the neighbourhood, relative to the weights.
        eta: Keeps weights near 0 from standing still.
        per: As in `SAM`.
        every: As in `SAM`.

    Raises:
        ValueError: If an argument is of no use.

    References:
        Kwon et al., ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of
        Deep Neural Networks, ICML 2021, arXiv 2102.11600.
    """

    def __init__(self, rho: float = 0.5, eta: float = 0.01, *, per: str = "batch", every: int = 1):
        super().__init__(rho, per=per, every=every)
        self.eta = not_negative("eta", eta)

    def units(self, weights: list[tf.Tensor], names: list[str]) -> list[Any]:
        """Returns `T` for each trainable weight."""
        ones = super().units(weights, names)
        return [
            one if name in ("bias", "beta") else tf.abs(_wide(w)) + self.eta
            for one, w, name in zip(ones, weights, names, strict=True)
        ]


def _wide(tensor: Any) -> tf.Tensor:
    """Returns a tensor in a type in which squares of small numbers are not 0."""
    tensor = tf.convert_to_tensor(tensor)
    return tf.cast(tensor, tf.float32) if tensor.dtype.size < 4 else tensor


def _norm(tensors: list[tf.Tensor]) -> tf.Tensor:
    """Returns the norm of all tensors together, float64 so that no type loses any of it."""
    squares = [tf.cast(tf.reduce_sum(tensor**2), tf.float64) for tensor in tensors]
    return tf.sqrt(tf.add_n(squares))
