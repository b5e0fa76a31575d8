"""The weights around a model's, in units of their size, and the loss of single batches there."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_sharp.arguments import integer, one_of, optional_integer, positive
from keras_sharp.function_arguments import FunctionArguments, objective_of
from keras_sharp.measures.logits import NormalizedLogits
from keras_sharp.objective import Objective


class Neighbourhood:
    """`L_B(w + c u)`: the loss of batches `B` of `m` examples, where `c = |w|` or 1.

    Args:
        model: A built Keras model, or an `Objective`, without `ds`.
        ds: The data, with a model.
        arguments: What `checked` returned.
        function: Keyword arguments of `Objective`.

    Attributes:
        centre: `(n,)` float64, the weights `w`.
        scale: `(n,)` float64, `c`.
        count: Number of batches.
        sizes: Examples in each batch that `batches` has yielded.

    Raises:
        TypeError: As `objective_of`, and for an `Objective` whose logits should be normalised.
        ValueError: As `Objective`, and if all weights are 0 and the scale is theirs.
    """

    def __init__(
        self,
        model: keras.Model | Objective,
        ds: Any,
        arguments: dict[str, Any],
        function: FunctionArguments,
    ):
        if arguments["normalize_logits"]:
            function = {**function, "loss": _normalized(model, function.get("loss"))}
        self._objective = objective_of(model, ds, **function)
        self._m = arguments["m"]
        self.centre = self._objective.weights
        self.scale = np.abs(self.centre) if arguments["adaptive"] else np.ones_like(self.centre)
        if not self.scale.any():
            raise ValueError(
                "`adaptive` must be False where all weights are 0: it measures in units of the "
                "weights. Received: adaptive=True"
            )
        self.count = 1 if self._m is None else -(-self._objective.batches.examples // self._m)
        self.sizes: list[int] = []

    def batches(self) -> Iterator[Objective]:
        """Yields the loss of each batch; of the whole set, without an `m`."""
        for part in [self._objective] if self._m is None else self._objective.parts(self._m):
            self.sizes.append(part.batches.examples)
            yield part

    @property
    def shares(self) -> np.ndarray:
        """`(batches,)` float64, share of all examples in each batch."""
        return np.array(self.sizes) / np.sum(self.sizes)

    @property
    def settings(self) -> dict[str, Any]:
        """`Objective.settings`, with the batches that were used."""
        if self._m is None:
            return self._objective.settings
        used = {"batch_size": max(self.sizes), "batches": len(self.sizes)}
        return {**self._objective.settings, **used}


def checked(
    rho: float, norm: str, adaptive: bool, m: int | None, normalize_logits: bool, seed: int
) -> dict[str, Any]:
    """Returns the arguments that both measures take, as JSON can hold them."""
    return {
        "rho": positive("rho", rho),
        "norm": one_of("norm", norm, ("linf", "l2")),
        "adaptive": bool(one_of("adaptive", adaptive, (True, False))),
        "m": optional_integer("m", m),
        "normalize_logits": bool(one_of("normalize_logits", normalize_logits, (True, False))),
        "seed": integer("seed", seed, least=0),
    }


def finite(value: float, gradient: np.ndarray | None = None) -> float:
    """Returns the loss at other weights.

    Raises:
        FloatingPointError: If it or its gradient is not finite.
    """
    if not np.isfinite(value) or not (gradient is None or np.isfinite(gradient).all()):
        raise FloatingPointError(
            f"The loss near the weights is {value}, or its gradient is not finite: the sharpness "
            "cannot be computed. Try a smaller `rho`, or a model in float32 or float64."
        )
    return value


def _normalized(model: keras.Model | Objective, loss: Any) -> NormalizedLogits:
    if isinstance(model, Objective):
        raise TypeError(
            "`normalize_logits` must be False with an `Objective`, which has its loss already: "
            "pass the model and its data, or an `Objective` with `loss=NormalizedLogits(...)`. "
            "Received: normalize_logits=True"
        )
    return NormalizedLogits(getattr(model, "loss", None) if loss is None else loss)
