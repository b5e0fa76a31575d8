"""Whole methods for large batches, each a sentence: a user need not know the parts.

A method is a function of `batch_size`, `base_batch_size`, `learning_rate`, `examples`, `epochs` and
`momentum`, as `rates.plain` describes them: `learning_rate` is that of a training at
`base_batch_size`. What else it takes is its own, and has a default. It returns a `Recipe`, which
trains:

```python
from keras_sharp import large_batch

recipe = large_batch.lars_legw(
    8192, base_batch_size=256, learning_rate=2.0, examples=len(x), epochs=90
)
history = recipe.fit(model, loss, (x, y), metrics=["accuracy"])
```
"""

from collections.abc import Callable

from keras_sharp.large_batch.additions import (
    adversarial,
    asam,
    augmentation,
    con_adv,
    conservative,
    dis_adv,
    ghost_batch_norm,
    sam,
    swa,
)
from keras_sharp.large_batch.optimizers import adamp, auto_wu, lamb_legw, lars_legw, sngm
from keras_sharp.large_batch.phases import growing_batch, post_local_sgd, warm_start
from keras_sharp.large_batch.rates import linear_warm_up, plain, square_root
from keras_sharp.large_batch.recipe import Recipe

# Those that mean something on a single device too, so without `post_local_sgd`.
METHODS: dict[str, Callable[..., Recipe]] = {
    method.__name__: method
    for method in (
        plain,
        square_root,
        linear_warm_up,
        lars_legw,
        lamb_legw,
        sngm,
        adamp,
        auto_wu,
        sam,
        asam,
        adversarial,
        dis_adv,
        con_adv,
        conservative,
        augmentation,
        ghost_batch_norm,
        growing_batch,
        warm_start,
        swa,
    )
}

__all__ = ["METHODS", "Recipe", "post_local_sgd", *METHODS]
