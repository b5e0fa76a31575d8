"""Which gradient a step uses: the plain one."""

import tensorflow as tf

from keras_sharp.training.step import Step


class Plain:
    """The gradient of the loss of the batch at the current weights.

    A gradient rule is any callable that takes a `Step` and returns `(loss, gradient)`. It may call
    `step.gradient(at=...)` several times, at weights it makes with `step.map`. The real weights
    don't move meanwhile, and metrics and moving statistics come from the first pass alone.

    A rule with a method `build(weights, statistics)` is told of the Keras variables before steps
    are traced, inside the strategy's scope: there it makes variables of its own. One with
    `get_state()` and `set_state(state)` has a state in the checkpoint. A rule that evaluates the
    adversarial branch has an attribute `branch = "adversarial"`.

    Example:
    ```python
    class ExtraGradient:
        def __call__(self, step):
            loss, gradient = step.gradient()
            ahead = step.map(
                lambda weights, g: [w - 0.1 * d for w, d in zip(weights, g)], step.weights, gradient
            )
            return loss, step.gradient(at=ahead)[1]
    ```
    """

    def __call__(self, step: Step) -> tuple[tf.Tensor, list]:
        """Returns the loss of the batch and its gradient, one entry per trainable weight."""
        return step.gradient()
