"""Training curves."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_sharp.plots.axes import axes, legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def training_curves(
    histories: Mapping[str, Any], ax: Any = None, *, quantity: str = "accuracy", log: bool = False
) -> "Axes":
    """Draws a quantity against the epochs of trainings, train solid, validation dashed.

    Args:
        histories: For each training its name in the legend and a Keras `History`, or a dict
            `{"loss": [...], "val_loss": [...]}`.
        ax: Axes.
        quantity: A name in the logs; the validation's has `val_` before it. Either may be missing.
        log: Whether the quantity has a logarithmic axis.

    Returns:
        The axes.

    Raises:
        ValueError: If a training has neither.

    References:
        - [Keskar et al., 2017](https://arxiv.org/abs/1609.04836), figure 2.
    """
    ax = axes(ax)
    # What is drawn over an earlier call takes the next colours.
    taken = len({line.get_color() for line in ax.lines})
    for index, (name, history) in enumerate(histories.items()):
        logs = getattr(history, "history", history)
        found = {
            part: logs[key]
            for part, key in (("train", quantity), ("validation", f"val_{quantity}"))
            if key in logs
        }
        if not found:
            raise ValueError(
                f"`quantity` must be in the logs of {name!r}: {sorted(logs)}. Received: "
                f"quantity={quantity!r}"
            )
        for part, values in found.items():
            ax.plot(
                np.arange(1, len(values) + 1),
                values,
                "-" if part == "train" else "--",
                color=f"C{taken + index}",
                label=f"{name}, {part}",
            )
    ax.set(xlabel="epoch", ylabel=quantity.replace("_", " "), yscale="log" if log else "linear")
    ax.xaxis.get_major_locator().set_params(integer=True)
    legend_above(ax)
    return ax
