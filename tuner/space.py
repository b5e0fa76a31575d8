"""What a search looks through, and the training at each of its points."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import keras
import keras_tuner

from keras_sharp.arguments import integer, one_of, positive
from keras_sharp.large_batch import METHODS, Recipe
from keras_sharp.optimizers import LAMB, LARS, SNGM
from keras_sharp.schedules import LEGW, WarmUp, linear_scaling, square_root_scaling
from keras_sharp.training import ASAM, SAM, Plain

# Optimizers by name, each with the rates at the base batch that are tried where none are given.
OPTIMIZERS: dict[str, tuple[Callable[..., keras.optimizers.Optimizer], tuple[float, ...]]] = {
    "sgd": (lambda rate: keras.optimizers.SGD(rate, momentum=0.9), (0.03, 0.1, 0.3)),
    "adam": (keras.optimizers.Adam, (3e-4, 1e-3, 3e-3)),
    "lars": (lambda rate: LARS(rate, momentum=0.9), (1.0, 3.0, 10.0)),
    "lamb": (LAMB, (1e-3, 3e-3, 1e-2)),
    "sngm": (lambda rate: SNGM(rate, momentum=0.9), (0.03, 0.1, 0.3)),
}
GRADIENTS = {"plain": Plain, "sam": SAM, "asam": ASAM}
SCALINGS = ("none", "linear", "sqrt", "legw")

# By default an epoch has at least so many steps, but at least so many doubles are tried.
_STEPS = 10
_DOUBLES = 3

# Hyperband's own entries among the values of a trial.
_OWN = "tuner/"


class SpaceArguments(TypedDict, total=False):
    """Arguments of `Space`."""

    base_batch_size: int
    batch_sizes: Sequence[int] | None
    learning_rates: Sequence[float] | None
    learning_rate_range: tuple[float, float] | None
    scaling: str | Sequence[str] | None
    optimizer: str | Sequence[str] | None
    gradient: str | Sequence[str] | None
    method: str | Sequence[str] | None
    largest_batch: int | None


@dataclasses.dataclass(frozen=True)
class Space:
    """Batch sizes times learning rates times what else has several choices.

    The learning rate that is searched is that at the base batch; a scaling rule carries it to the
    others, so that one number means the same at every batch size. From there it falls linearly to
    0 over the training, unless a `method` decides that, too.

    Args:
        base_batch_size: The small batch, to which the others are compared.
        batch_sizes: Larger ones; the base batch is always among them. Defaults to its doubles up to
            `largest_batch`.
        learning_rates: Rates at the base batch to choose from. Defaults to three that suit the
            optimizer.
        learning_rate_range: Instead of these the lowest and the highest; all between are searched,
            on a logarithmic scale.
        scaling: How the rate grows with the batch, one or several of `"none"`, `"linear"`, `"sqrt"`
            and `"legw"`: the square root with a warm-up of the same number of steps at every batch
            size, half the training at the largest.
        optimizer: One or several of `"sgd"` (momentum 0.9), `"adam"`, `"lars"`, `"lamb"`, `"sngm"`.
        gradient: The gradient rule, one or several of `"plain"`, `"sam"` and `"asam"`.
        method: Instead of these three: presets of `keras_sharp.large_batch` by name, which decide
            all of them.
        largest_batch: Where the doubles of the base batch end. Defaults to a tenth of the examples,
            so that an epoch has ten steps, but to three doubles at least, if there are as many
            examples.

    Raises:
        ValueError: For a choice that is unknown, empty or of no use.
    """

    base_batch_size: int = 32
    batch_sizes: Sequence[int] | None = None
    learning_rates: Sequence[float] | None = None
    learning_rate_range: tuple[float, float] | None = None
    scaling: str | Sequence[str] | None = None
    optimizer: str | Sequence[str] | None = None
    gradient: str | Sequence[str] | None = None
    method: str | Sequence[str] | None = None
    largest_batch: int | None = None

    def __post_init__(self):
        base = integer("base_batch_size", self.base_batch_size)
        self._set("base_batch_size", base)
        if self.batch_sizes is not None:
            sizes = {integer("batch_sizes", each) for each in _several(self.batch_sizes)}
            if not sizes or min(sizes) < base:
                raise ValueError(
                    "`batch_sizes` must be some, none smaller than `base_batch_size`. Received: "
                    f"batch_sizes={list(self.batch_sizes)}, base_batch_size={base}"
                )
            self._set("batch_sizes", tuple(sorted(sizes | {base})))
        if self.largest_batch is not None:
            self._set("largest_batch", integer("largest_batch", self.largest_batch, least=base))
            if self.batch_sizes is not None:
                raise ValueError(
                    "`batch_sizes` and `largest_batch` must not both be given. Received: "
                    f"{list(self.batch_sizes)} and {self.largest_batch}"
                )
        self._choose()
        self._rates()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _choose(self) -> None:
        parts = ("scaling", "optimizer", "gradient")
        if self.method is not None:
            given = [name for name in parts if getattr(self, name) is not None]
            if given:
                raise ValueError(
                    f"`method` decides {', '.join(parts)} as well, which must be left out. "
                    f"Received: method={self.method!r} and {', '.join(given)}"
                )
            self._choices("method", self.method, tuple(METHODS))
            return
        for name, default, allowed in (
            ("scaling", "sqrt", SCALINGS),
            ("optimizer", "sgd", tuple(OPTIMIZERS)),
            ("gradient", "plain", tuple(GRADIENTS)),
        ):
            given = getattr(self, name)
            self._choices(name, default if given is None else given, allowed)

    def _choices(self, name: str, given: Any, allowed: tuple[str, ...]) -> None:
        chosen = tuple(dict.fromkeys(one_of(name, each, allowed) for each in _several(given)))
        if not chosen:
            raise ValueError(f"`{name}` must not be empty. Received: {name}={given!r}")
        self._set(name, chosen)

    def _rates(self) -> None:
        if self.learning_rate_range is not None:
            if self.learning_rates is not None:
                raise ValueError(
                    "`learning_rates` and `learning_rate_range` must not both be given. Received: "
                    f"{list(self.learning_rates)} and {list(self.learning_rate_range)}"
                )
            ends = tuple(positive("learning_rate_range", r) for r in self.learning_rate_range)
            if len(ends) != 2 or ends[0] >= ends[1]:
                raise ValueError(
                    "`learning_rate_range` must be the lowest and the highest rate. "
                    f"Received: learning_rate_range={list(self.learning_rate_range)}"
                )
            self._set("learning_rate_range", ends)
            return
        rates = self.learning_rates
        if rates is None:
            if self.method is not None or len(self.optimizer) > 1:
                raise ValueError(
                    "`learning_rates` or `learning_rate_range` must be given for methods and for "
                    "several optimizers, which need not want the same"
                )
            rates = OPTIMIZERS[self.optimizer[0]][1]
        rates = tuple(sorted({positive("learning_rates", each) for each in _several(rates)}))
        if not rates:
            raise ValueError("`learning_rates` must not be empty. Received: learning_rates=[]")
        self._set("learning_rates", rates)

    def for_examples(self, examples: int) -> "Space":
        """Returns the same space with its batch sizes known.

        Raises:
            ValueError: If a batch is larger than the data.
        """
        sizes, base, top = self.batch_sizes, self.base_batch_size, self.largest_batch
        largest = max(sizes or (top or base,))
        if largest > examples:
            raise ValueError(
                "A batch must be at most the number of training examples. "
                f"Received: a batch of {largest} of {examples} examples"
            )
        if sizes is None:
            if top is None:
                top = min(examples, max(examples // _STEPS, base * 2**_DOUBLES))
            sizes = tuple(base * 2**n for n in range((top // base).bit_length()))
        return dataclasses.replace(self, batch_sizes=sizes, largest_batch=None)

    def hyperparameters(self) -> keras_tuner.HyperParameters:
        """Returns the space as keras-tuner has it; each default is that of the reference."""
        hp = keras_tuner.HyperParameters()
        hp.Choice("batch_size", list(self.batch_sizes), default=self.base_batch_size)
        if self.learning_rate_range is not None:
            low, high = self.learning_rate_range
            hp.Float("learning_rate", low, high, sampling="log", default=math.sqrt(low * high))
        else:
            middle = self.learning_rates[(len(self.learning_rates) - 1) // 2]
            hp.Choice("learning_rate", list(self.learning_rates), default=middle)
        for name in ("method", "optimizer", "gradient", "scaling"):
            if getattr(self, name) is not None:
                hp.Choice(name, list(getattr(self, name)))
        return hp

    def schedule(
        self,
        values: dict[str, Any],
        examples: int,
        epochs: int,
        epochs_at_largest: int | None = None,
    ) -> WarmUp:
        """Returns the learning rate of a training at one point, in steps.

        Args:
            values: The point.
            examples: Number of training examples.
            epochs: Length of the whole training.
            epochs_at_largest: The same at the largest batch, by which LEGW's warm-up goes. Defaults
                to `epochs`.
        """
        batch, base = values["batch_size"], self.base_batch_size
        rate, steps = float(values["learning_rate"]), math.ceil(examples / batch)
        falling = lambda peak: keras.optimizers.schedules.PolynomialDecay(peak, epochs, 0.0)  # noqa: E731
        if values["scaling"] == "legw":
            warm_up = (epochs_at_largest or epochs) / 2 * base / max(self.batch_sizes)
            return LEGW(falling(rate), warm_up, batch, base, epochs, steps)
        scaled = {"none": lambda r, *_: r, "linear": linear_scaling, "sqrt": square_root_scaling}
        return WarmUp(falling(scaled[values["scaling"]](rate, batch, base)), 0, epochs, steps)

    def recipe(
        self,
        values: dict[str, Any],
        examples: int,
        epochs: int,
        epochs_at_largest: int | None = None,
    ) -> Recipe:
        """Returns the training at one point; a strategy must be open, if there is one.

        Args:
            values: The point.
            examples: Number of training examples.
            epochs: Length of the whole training.
            epochs_at_largest: See `schedule`.
        """
        if self.method is not None:
            return METHODS[values["method"]](
                values["batch_size"],
                base_batch_size=self.base_batch_size,
                learning_rate=float(values["learning_rate"]),
                examples=examples,
                epochs=epochs,
            )
        make, _ = OPTIMIZERS[values["optimizer"]]
        return Recipe(
            name=values["optimizer"],
            optimizer=make(self.schedule(values, examples, epochs, epochs_at_largest)),
            batch_size=values["batch_size"],
            epochs=epochs,
            gradient=GRADIENTS[values["gradient"]](),
        )


def point_of(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the values of a trial without what is Hyperband's own."""
    return {name: value for name, value in values.items() if not name.startswith(_OWN)}


def _several(given: Any) -> Sequence[Any]:
    if isinstance(given, str | int | float):
        return (given,)
    return tuple(given)
