"""Methods that bring an optimizer of their own."""

from keras_sharp.arguments import positive
from keras_sharp.callbacks import AutoWU
from keras_sharp.large_batch.rates import Rate, square_root_rate, steps_per_epoch
from keras_sharp.large_batch.recipe import Recipe
from keras_sharp.optimizers import LAMB, LARS, SNGM, AdamP
from keras_sharp.schedules import LEGW, AutoWURate
from keras_sharp.schedules.scaling import batch_ratio

# The rule of the authors' group for ImageNet, 10 epochs at batch 32768; at 512:
_WARMUP_EPOCHS = 0.15625


def lars_legw(
    batch_size: int,
    *,
    base_batch_size: int,
    learning_rate: Rate,
    examples: int,
    epochs: int,
    momentum: float = 0.9,
    weight_decay: float | None = None,
    warmup_epochs: float | None = None,
) -> Recipe:
    """Gives each layer a rate of its own, and warms up for the same number of steps at any batch.

    LARS, its rate scaled by the square root of the batch. A rate for it is 1 to 10.

    Args: Those of `rates.plain`, without `optimizer`, and `warmup_epochs`, the length of the
        warm-up *at the base batch size*; at the larger batch it takes more epochs in proportion. By
        default 0.15625, or less if that would be more than a quarter of the training at the larger
        batch.

    Note:
        The rule of LARS is `"classic"`, and not the `"legw"` that its authors' group used: there
        the trust of a layer depends on the last gradient alone, up to 50, and where the gradient
        almost vanishes, as on data that are learned by heart, it throws the weights far off. Theirs
        is `optimizers.LARS(rate, rule="legw", epsilon=1e-5)` with `schedules.LEGW`.

    References:
        - [You et al., 2017](https://arxiv.org/abs/1708.03888)
        - [You et al., 2019](https://arxiv.org/abs/1901.08256)
    """
    rate = _legw(learning_rate, warmup_epochs, batch_size, base_batch_size, examples, epochs)
    optimizer = LARS(rate, momentum, weight_decay=weight_decay)
    return Recipe("lars_legw", optimizer, batch_size, epochs, examples=examples)


def lamb_legw(
    batch_size: int,
    *,
    base_batch_size: int,
    learning_rate: Rate,
    examples: int,
    epochs: int,
    momentum: float = 0.9,
    weight_decay: float | None = None,
    warmup_epochs: float | None = None,
) -> Recipe:
    """Gives each layer a rate of its own on top of ADAM, with the warm-up of `lars_legw`.

    Args: Those of `lars_legw`; `momentum` is `beta_1`. A rate for it is 1e-3 to 1e-2.

    References:
        - [You et al., 2020](https://arxiv.org/abs/1904.00962)
        - [You et al., 2019](https://arxiv.org/abs/1901.08256)
    """
    rate = _legw(learning_rate, warmup_epochs, batch_size, base_batch_size, examples, epochs)
    optimizer = LAMB(rate, beta_1=momentum, weight_decay=weight_decay)
    return Recipe("lamb_legw", optimizer, batch_size, epochs, examples=examples)


def sngm(
    batch_size: int,
    *,
    base_batch_size: int,
    learning_rate: Rate,
    examples: int,
    epochs: int,
    momentum: float = 0.9,
    weight_decay: float | None = None,
) -> Recipe:
    """Takes steps whose length is the rate, however steep the loss is.

    SNGM, its rate scaled by the square root of the batch. That there is no warm-up is our choice.

    Args: Those of `rates.plain`, without `optimizer`. The rate is a length in the space of all
        weights, no longer than a step: 0.1 to 1, as those of other optimizers don't carry over.

    Note:
        The square root is what the bound on its convergence suggests; the paper's own choices, and
        whether it warms up, could not be confirmed.

    References:
        - [Zhao et al., 2020](https://arxiv.org/abs/2007.13985)
    """
    rate = square_root_rate(learning_rate, batch_size, base_batch_size, examples, epochs)
    optimizer = SNGM(rate, momentum, weight_decay=weight_decay)
    return Recipe("sngm", optimizer, batch_size, epochs, examples=examples)


def adamp(
    batch_size: int,
    *,
    base_batch_size: int,
    learning_rate: Rate,
    examples: int,
    epochs: int,
    momentum: float = 0.9,
    weight_decay: float | None = None,
) -> Recipe:
    """Takes ADAM's steps without what would only lengthen weights in front of a normalisation.

    AdamP, its rate scaled by the square root of the batch.

    Args: Those of `rates.plain`, without `optimizer`; `momentum` is `beta_1`. Its rates are
        those of ADAM, about 1e-3.

    References:
        - [Heo et al., 2021](https://arxiv.org/abs/2006.08217)
    """
    rate = square_root_rate(learning_rate, batch_size, base_batch_size, examples, epochs)
    optimizer = AdamP(rate, beta_1=momentum, weight_decay=weight_decay)
    return Recipe("adamp", optimizer, batch_size, epochs, examples=examples)


def auto_wu(
    batch_size: int,
    *,
    base_batch_size: int,
    learning_rate: float,
    examples: int,
    epochs: int,
    momentum: float = 0.9,
    weight_decay: float | None = None,
) -> Recipe:
    """Raises the rate until the loss has passed its minimum, goes back there, and decays.

    AdamP with `AutoWURate`, which finds the peak itself at any batch size. `learning_rate` says
    where to look: from a hundredth of it on, up to a thousand times it. So 1e-3 is the paper's
    range, 1e-5 to 1.

    Args: Those of `rates.plain`, without `optimizer`; `momentum` is `beta_1`, and `learning_rate` a
        number.

    References:
        - [Kim et al., 2021](https://arxiv.org/abs/2107.05855)
    """
    batch_ratio(batch_size, base_batch_size)  # neither counts, but both are checked
    middle = positive("learning_rate", learning_rate)
    steps = steps_per_epoch(examples, batch_size)
    rate = AutoWURate(epochs, steps, middle / 100, middle * 1000)
    optimizer = AdamP(rate, beta_1=momentum, weight_decay=weight_decay)
    return Recipe(
        "auto_wu", optimizer, batch_size, epochs, callbacks=[AutoWU(rate)], examples=examples
    )


def _legw(
    learning_rate: Rate,
    warmup_epochs: float | None,
    batch_size: int,
    base_batch_size: int,
    examples: int,
    epochs: int,
) -> LEGW:
    if warmup_epochs is None:
        warmup_epochs = min(_WARMUP_EPOCHS, epochs / 4 / batch_ratio(batch_size, base_batch_size))
    steps = steps_per_epoch(examples, batch_size)
    return LEGW(learning_rate, warmup_epochs, batch_size, base_batch_size, epochs, steps)
