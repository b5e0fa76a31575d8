"""Methods that add something to a training with a scaled rate: a gradient rule, layers, a mean."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_sharp.arguments import integer
from keras_sharp.large_batch.rates import linear_warm_up, square_root
from keras_sharp.large_batch.recipe import Recipe
from keras_sharp.layers import (
    ImageAugmentation,
    with_ghost_batch_normalization,
    with_split_batch_normalization,
)
from keras_sharp.training import ASAM, FGSM, PGD, SAM, Adversarial, ConAdv, Conservative, DisAdv


def sam(
    batch_size: int, *, rho: float = 0.05, per: str = "batch", every: int = 1, **training: Any
) -> Recipe:
    """Adds to `linear_warm_up` that a step follows the gradient at the worst weights nearby.

    Args:
        batch_size: Examples of a step.
        rho: Radius of the neighbourhood, in the units of the weights.
        per: `"batch"`: one perturbation for the whole batch, which does less the larger it is.
            `"part"`: one for each part, with `fit(..., micro_batch=m)` of `m` examples.
        every: Looks ahead in one step of so many, and takes plain steps between.
        **training: The other arguments of `linear_warm_up`.

    References:
        - [Foret et al., 2021](https://arxiv.org/abs/2010.01412)
    """
    rule = SAM(rho, per=per, every=every)
    return _added("sam", linear_warm_up(batch_size, **training), gradient=rule)


def asam(
    batch_size: int,
    *,
    rho: float = 0.5,
    eta: float = 0.01,
    per: str = "batch",
    every: int = 1,
    **training: Any,
) -> Recipe:
    """Is `sam` in units of the size of each weight, so that rescaled layers change nothing.

    Args:
        batch_size: Examples of a step.
        rho: Radius of the neighbourhood, relative to the weights.
        eta: Keeps weights near 0 from standing still.
        per: As in `sam`.
        every: As in `sam`.
        **training: The other arguments of `linear_warm_up`.

    References:
        - [Kwon et al., 2021](https://arxiv.org/abs/2102.11600)
    """
    rule = ASAM(rho, eta, per=per, every=every)
    return _added("asam", linear_warm_up(batch_size, **training), gradient=rule)


def adversarial(
    batch_size: int,
    *,
    epsilon: float | Sequence[float] = 1 / 255,
    clip: tuple[float, float] | None = None,
    **training: Any,
) -> Recipe:
    """Adds to `linear_warm_up` that half of the loss is that of inputs changed to raise it.

    Args:
        batch_size: Examples of a step.
        epsilon: How far inputs move, in their own units. The default is a grey level of images
            between 0 and 1.
        clip: `(low, high)`, the range inputs stay in: `(0, 1)` for such images. None: any.
        **training: The other arguments of `linear_warm_up`.

    References:
        - [Goodfellow et al., 2015](https://arxiv.org/abs/1412.6572), tried against large batches by
          [Keskar et al., 2017](https://arxiv.org/abs/1609.04836), appendix E.3
    """
    rule = Adversarial(FGSM(epsilon, clip=clip))
    return _added("adversarial", linear_warm_up(batch_size, **training), gradient=rule)


def dis_adv(
    batch_size: int,
    *,
    epsilon: float | Sequence[float] = 1 / 255,
    clip: tuple[float, float] | None = None,
    **training: Any,
) -> Recipe:
    """Adds to `linear_warm_up` the loss of attacked inputs, normalised apart from the clean ones.

    BatchNormalization becomes `SplitBatchNormalization`, so the model that is trained is a copy.

    Args:
        batch_size: Examples of a step.
        epsilon: How far inputs move, in their own units. The default is a grey level of images
            between 0 and 1.
        clip: `(low, high)`, the range inputs stay in: `(0, 1)` for such images. None: any.
        **training: The other arguments of `linear_warm_up`.

    References:
        - [Liu et al., 2022](https://arxiv.org/abs/2106.00221), the sequential method
    """
    rule = DisAdv(PGD(epsilon, random_start=True, clip=clip))
    return _split("dis_adv", linear_warm_up(batch_size, **training), rule)


def con_adv(
    batch_size: int,
    *,
    epsilon: float | Sequence[float] = 1 / 255,
    clip: tuple[float, float] | None = None,
    tau: int = 1,
    **training: Any,
) -> Recipe:
    """Is `dis_adv` with inputs that were attacked at weights a few steps old.

    Args:
        batch_size: Examples of a step.
        epsilon: How far inputs move, in their own units. The default is a grey level of images
            between 0 and 1.
        clip: `(low, high)`, the range inputs stay in: `(0, 1)` for such images. None: any.
        tau: How many steps old. 0 is `dis_adv`.
        **training: The other arguments of `linear_warm_up`.

    References:
        - [Liu et al., 2022](https://arxiv.org/abs/2106.00221)
    """
    rule = ConAdv(PGD(epsilon, random_start=True, clip=clip), tau)
    return _split("con_adv", linear_warm_up(batch_size, **training), rule)


def conservative(
    batch_size: int,
    *,
    base_batch_size: int,
    learning_rate: float,
    examples: int,
    epochs: int,
    momentum: float = 0.0,
    lam: float = 1e-3,
    steps: int = 3,
) -> Recipe:
    """Takes a few small steps of ADAM on each batch, and pays for moving far.

    `learning_rate` is that of these inner steps, a number, and is not scaled. The optimizer outside
    is SGD at rate 1, which sets the weights to where the inner steps end.

    Args: Those of `rates.plain`, without `optimizer` and `weight_decay`; `momentum` is that of the
        optimizer outside, none in the paper. Then `lam`, how much it costs to move, and `steps`,
        the number of inner steps.

    References:
        - [Keskar et al., 2017](https://arxiv.org/abs/1609.04836), appendix E.2
    """
    del base_batch_size  # nothing is scaled
    rule = Conservative(lam, steps=steps, learning_rate=learning_rate)
    optimizer = keras.optimizers.SGD(1.0, momentum=momentum)
    epochs = integer("epochs", epochs)
    return Recipe("conservative", optimizer, batch_size, epochs, rule, examples=examples)


def augmentation(
    batch_size: int,
    *,
    flip: bool = True,
    degrees: float = 10.0,
    shift: float = 0.2,
    **training: Any,
) -> Recipe:
    """Adds to `linear_warm_up` that images are flipped, turned and shifted at random.

    The model that is trained is a new one around the one given, whose weights it shares.

    Args:
        batch_size: Examples of a step.
        flip: Whether images are flipped. Digits and letters should not be.
        degrees: Largest rotation either way.
        shift: Largest translation either way, as a share of height and width.
        **training: The other arguments of `linear_warm_up`.

    Raises:
        ValueError: When it trains, if the inputs are no images.

    References:
        - [Keskar et al., 2017](https://arxiv.org/abs/1609.04836), appendix E.1
    """

    def convert(model: keras.Model) -> keras.Model:
        shape = model.input_shape
        if not isinstance(shape, tuple) or len(shape) != 4:
            raise ValueError(
                "`augmentation` needs a model of images, (height, width, channels). Received: "
                f"model {model.name!r} with inputs of shape {shape}"
            )
        layer = ImageAugmentation(flip, degrees, shift)
        return keras.Sequential([keras.Input(shape[1:]), layer, model])

    return _added("augmentation", linear_warm_up(batch_size, **training), convert=convert)


def ghost_batch_norm(
    batch_size: int,
    *,
    base_batch_size: int,
    virtual_batch_size: int | None = None,
    **training: Any,
) -> Recipe:
    """Adds to `square_root` that BatchNormalization sees small batches within the large one.

    The model that is trained is a copy with other layers.

    Args:
        batch_size: Examples of a step.
        base_batch_size: Of the training that `learning_rate` was tuned for.
        virtual_batch_size: Examples of a ghost batch. Defaults to the base batch size.
        **training: The other arguments of `square_root`.

    References:
        - [Hoffer et al., 2017](https://arxiv.org/abs/1705.08741)
    """

    def convert(model: keras.Model) -> keras.Model:
        return with_ghost_batch_normalization(model, virtual_batch_size or base_batch_size)

    scaled = square_root(batch_size, base_batch_size=base_batch_size, **training)
    return _added("ghost_batch_norm", scaled, convert=convert)


def swa(batch_size: int, *, start: float = 0.75, **training: Any) -> Recipe:
    """Adds to `linear_warm_up` that the mean of the weights of the last epochs is what is kept.

    Args:
        batch_size: Examples of a step.
        start: The share of the training before the first epoch that counts.
        **training: The other arguments of `linear_warm_up`.

    Raises:
        ValueError: If `start` is not in [0, 1).

    References:
        - [Izmailov et al., 2018](https://arxiv.org/abs/1803.05407)
    """
    if not 0 <= start < 1:
        raise ValueError(f"`start` must be in [0, 1). Received: start={start}")
    recipe = linear_warm_up(batch_size, **training)
    return _added("swa", recipe, averages_from=int(start * recipe.epochs))


def _split(name: str, recipe: Recipe, rule: DisAdv) -> Recipe:
    return _added(name, recipe, gradient=rule, convert=with_split_batch_normalization)


def _added(name: str, recipe: Recipe, **parts: Callable | int) -> Recipe:
    return dataclasses.replace(recipe, name=name, **parts)
