"""The loss at the weights, around which a measure looks."""

import numpy as np

from keras_sharp.objective import Objective


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
