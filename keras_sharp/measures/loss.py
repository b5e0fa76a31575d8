"""The loss at the weights, around which a measure looks, and whether it has a slope there."""

import numpy as np

from keras_sharp.objective import Objective


def is_stationary(objective: Objective, loss: float, promised: float) -> bool:
    """Returns whether a gradient promises no more than `f` is rounded by: it then tells nothing.

    Args:
        objective: `f`.
        loss: `f` at the weights.
        promised: How much a linear function of that gradient rises wherever one looks.
    """
    return promised <= objective.rounding * abs(loss)


def finite_loss(objective: Objective) -> float:
    """Returns `f` at the model's weights.

    Raises:
        ValueError: If it is not finite.
    """
    loss = objective.value()
    if not np.isfinite(loss):
        raise ValueError(
            "The loss at the model's weights must be finite: there is no minimum to measure. Look "
            f"for NaN or infinity in the data and the weights. Received: loss={loss}"
        )
    return loss
