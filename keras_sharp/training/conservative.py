"""Conservative training: a few steps on each batch, on a leash."""

import tensorflow as tf

from keras_sharp.arguments import integer, not_negative, positive
from keras_sharp.training.step import Step

BETA_1, BETA_2 = 0.9, 0.999
EPSILON = 1e-7  # like the rest, that of `keras.optimizers.Adam`


class Conservative:
    """Moves towards the minimum of `f(x) + lambda / 2 |x - x_k|^2` over each batch.

    `f` is the loss of the batch and `x_k` are the weights. The minimum is sought by a few steps of
    ADAM from `x_k` on, which begins afresh with every batch; they end at some `y`, and `x_k - y` is
    what the optimizer gets for a gradient. So `keras.optimizers.SGD(1.0)` sets the weights to `y`,
    which is the method of the paper; a lower rate goes part of the way, and momentum or another
    optimizer make it something else. Metrics, loss and moving statistics are those at `x_k`.

    A step costs as many as there are inner steps.

    Args:
        lam: `lambda`, how much it costs to move. 0: nothing holds the weights back.
        steps: Number of inner steps.
        learning_rate: That of ADAM.

    Raises:
        ValueError: If an argument is of no use.

    Example:
    ```python
    trainer = Trainer(model, keras.optimizers.SGD(1.0), "mse", gradient=Conservative())
    ```

    Note:
        The paper gives `lambda` and the number of steps. That ADAM begins afresh and its rate are
        choices made here, the rate being Keras's default.

    References:
        Keskar et al., On Large-Batch Training for Deep Learning, ICLR 2017, arXiv 1609.04836,
        appendix E.2. Li, Zhang, Chen and Smola, Efficient Mini-batch Training for Stochastic
        Optimization, KDD 2014.
    """

    def __init__(self, lam: float = 1e-3, *, steps: int = 3, learning_rate: float = 1e-3):
        self.lam = not_negative("lam", lam)
        self.steps = integer("steps", steps)
        self.learning_rate = positive("learning_rate", learning_rate)

    def __call__(self, step: Step) -> tuple[tf.Tensor, list]:
        """Returns the loss at the weights, and how far ADAM moved against its sign."""

        def start(weights):
            zeros = [tf.zeros(w.shape, w.dtype) for w in weights]
            # A copy: the weights themselves would be handed on as variables.
            return [tf.convert_to_tensor(w) for w in weights], zeros, zeros

        state, first_loss = step.map(start, step.weights), None
        for number in range(1, self.steps + 1):

            def inner(weights, gradient, at, means, squares, number=number):
                return self._adam(number, weights, gradient, at, means, squares)

            loss, gradient = step.gradient(at=None if first_loss is None else state[0])
            first_loss = loss if first_loss is None else first_loss
            state = step.map(inner, step.weights, gradient, *state)
        moved = step.map(
            lambda weights, at: [w - a for w, a in zip(weights, at, strict=True)],
            step.weights,
            state[0],
        )
        return first_loss, moved

    def _adam(
        self, number: int, weights: list, gradient: list, at: list, means: list, squares: list
    ) -> tuple[list, list, list]:
        """Returns weights and moments after an inner step."""
        rate = self.learning_rate * (1 - BETA_2**number) ** 0.5 / (1 - BETA_1**number)
        slopes = [g + self.lam * (a - w) for w, g, a in zip(weights, gradient, at, strict=True)]
        means = [m + (g - m) * (1 - BETA_1) for m, g in zip(means, slopes, strict=True)]
        squares = [v + (g * g - v) * (1 - BETA_2) for v, g in zip(squares, slopes, strict=True)]
        at = [
            a - rate * m / (tf.sqrt(v) + EPSILON)
            for a, m, v in zip(at, means, squares, strict=True)
        ]
        return at, means, squares
