"""The gradient noise scale as a by-product of training."""

from typing import Any

import keras
import numpy as np

from keras_sharp.measures.noise_scale import unbiased


class NoiseScale(keras.callbacks.Callback):
    """Writes the gradient noise scale into the logs of each epoch, as `noise_scale`.

    `B_simple = tr(Sigma) / |G|^2`, see `keras_sharp.measures.noise_scale`. A step of `Trainer` on
    several replicas, or with `micro_batch`, computes the gradients of the parts of a batch anyway;
    their norms, and that of the sum, are all this takes. Both estimates are unbiased in every step,
    for parts of any sizes, and averaged over steps separately, each with weight
    `decay^(steps since)`; the averages are divided by the sum of the weights, so that the first
    steps count in full. The loop keeps its many steps in a call of the graph.

    The noise scale is in examples, and of the gradients a step takes: with dropout, and with
    BatchNormalization by the statistics of each part. An epoch in which the estimate of `|G|^2` is
    not positive has no `noise_scale` in its logs, as an epoch without validation has no `val_loss`.
    Callbacks that shall see the logs (TensorBoard, CSVLogger...) come after this one in the list;
    the History does so by itself. A checkpoint of `Trainer.fit` keeps the averages.

    Args:
        decay: Weight of a step relative to the next one, `0 <= decay < 1`: the averages are over
            about `1 / (1 - decay)` steps.

    Attributes:
        steps: Number of steps that counted.

    Raises:
        ValueError: If `decay` is out of range.

    Note:
        In the paper's words this is its estimator "with no overhead" (appendix A.1), with the mean
        over all parts for the small batch. A step on a single part does not count, nor does one
        whose gradient is not finite (as mixed precision skips it).

    Example:
    ```python
    trainer = Trainer(model, "adam", loss, micro_batch=64)
    history = trainer.fit(data, batch_size=1024, epochs=10, callbacks=[NoiseScale()])
    print(history.history["noise_scale"])
    ```

    References:
        - [McCandlish et al., 2018](https://arxiv.org/abs/1812.06162), appendix A.1.
    """

    # What `Trainer` asks a callback: whether its steps compute the figures of noise, and whether
    # each step needs a call of its own.
    needs_noise = True
    every_batch = False

    def __init__(self, decay: float = 0.99):
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be at least 0 and less than 1. Received: decay={decay}")
        self.decay = float(decay)
        self._reset()

    def _reset(self) -> None:
        self.steps = 0
        self._told = False
        # Over steps, with their weights: the sum of the squared weights, and of the products of
        # 1, tr(Sigma) and |G|^2 with each other.
        self._squares = 0.0
        self._products = np.zeros((3, 3))

    @property
    def covariance_trace(self) -> float | None:
        """Average of the estimates of `tr(Sigma)`; None before the first step."""
        return float(self._products[0, 1] / self._products[0, 0]) if self.steps else None

    @property
    def square_norm(self) -> float | None:
        """Average of the estimates of `|G|^2`, which can be negative; None before the first."""
        return float(self._products[0, 2] / self._products[0, 0]) if self.steps else None

    @property
    def value(self) -> float | None:
        """The noise scale in examples; None if the average of `|G|^2` is not positive."""
        if not self.steps or self.square_norm <= 0:
            return None
        return self.covariance_trace / self.square_norm

    @property
    def standard_error(self) -> float | None:
        """Standard error of `value`, from how steps differ; None like it, or after one step."""
        weight = self._products[0, 0]
        if self.value is None or self.steps < 2 or self._squares >= weight**2:
            return None
        # The variance of tr(Sigma) - value |G|^2, whose mean is 0 (the delta method).
        slope = np.array([0, 1, -self.value])
        share = self._squares / weight**2  # one over the number of steps that count
        variance = max(slope @ self._products @ slope, 0.0) / weight / (1 - share)
        return float(np.sqrt(variance * share) / self.square_norm)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets a training before this one."""
        self._reset()

    def on_train_steps_end(self, figures: dict[str, np.ndarray]) -> None:
        """Takes the figures of some steps, `(steps,)` each, from `Trainer`.

        Raises:
            ValueError: If no step has a batch of two parts.
        """
        parts = figures["parts"]
        if not self._told and np.max(parts) < 2:
            raise ValueError(
                "`NoiseScale` needs batches of at least two parts, whose gradients differ. Pass "
                "`micro_batch` to `Trainer`, smaller than `batch_size`, or train on several "
                "replicas. Received: a batch of "
                f"{int(figures['size'][0])} examples in one part"
            )
        self._told = True
        sizes, parts, square, part_squares = (
            np.asarray(figures[name], np.float64)
            for name in ("size", "parts", "square", "part_squares")
        )
        counts = (parts >= 2) & np.isfinite(square) & np.isfinite(part_squares)
        sizes, parts, square = sizes[counts], parts[counts], square[counts]
        spread = sizes * (part_squares[counts] - square)
        # One by one, so that not even rounding depends on the number of steps in a call.
        for trace, norm in zip(*unbiased(spread, parts, sizes, square), strict=True):
            step = np.array([1.0, trace, norm])
            self._products = self.decay * self._products + np.outer(step, step)
            self._squares = self.decay**2 * self._squares + 1
        self.steps += len(sizes)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Checks that this is a loop that tells of its steps.

        Raises:
            ValueError: If it is `Model.fit`.
        """
        if not self._told:
            raise ValueError(
                "`NoiseScale` needs the gradients of the parts of a batch, which `Model.fit` does "
                "not have. Train with `keras_sharp.training.Trainer`, or measure with "
                "`keras_sharp.noise_scale`. Received: a loop other than `Trainer.fit`"
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the logs."""
        if logs is not None and self.value is not None:
            logs["noise_scale"] = self.value

    def get_state(self) -> dict[str, Any]:
        """Returns the averages, for a checkpoint."""
        return {"steps": self.steps, "squares": self._squares, "products": self._products}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from averages that `get_state` returned."""
        self.steps, self._squares = state["steps"], state["squares"]
        self._products = np.asarray(state["products"])
