"""LEGW: the warm-up takes the same number of steps at every batch size."""

from typing import Any

import keras

from keras_sharp.schedules.scaling import Rate, batch_ratio, square_root_scaling
from keras_sharp.schedules.warm_up import Clock, WarmUp, serialized


@keras.saving.register_keras_serializable("keras_sharp")
class LEGW(WarmUp):
    """Linear-epoch gradual warm-up, for a batch `k` times as large as the one tuned for.

    The rate is multiplied by `sqrt(k)`, the warm-up takes `k` times as many epochs, and so the same
    number of steps. All else stays as it was tuned, the length of the training and the shape of the
    decay too. `k` need not be whole, and may be less than 1.

    Args:
        schedule: Tuned at the base batch size: a number, or a Keras schedule whose steps are
            epochs, as `WarmUp` describes it.
        warmup_epochs: Tuned at the base batch size. Start from the smallest well-tuned batch.
        batch_size: Examples of a step, over all replicas.
        base_batch_size: `batch_size / k`.
        epochs: Length of the training, the same for all batch sizes.
        steps_per_epoch: Steps of an epoch at `batch_size`, a short last batch included.
        clock: See `WarmUp`. The default starts polynomial and cosine decay after the warm-up, and
            leaves milestones where they are.

    Attributes:
        peak: The rate at the end of the warm-up.
        warmup_epochs: Length of the warm-up at `batch_size`.
        warmup_steps: The same in steps.

    Raises:
        ValueError: If an argument is out of range, or the scaled warm-up takes all epochs.

    Note:
        From where polynomial decay counts is not confirmed for the paper; the default is that of
        its group's code. The first step has rate 0, as there. For multi-step decay a new rate holds
        from the step after the milestone on, as in Keras's `PiecewiseConstantDecay`. Exponential
        decay may hold its first rate for some epochs, which Keras's `ExponentialDecay` can't: give
        a `PiecewiseConstantDecay` with a boundary for each epoch.

    Example:
    ```python
    decay = keras.optimizers.schedules.PolynomialDecay(4.0, 90, 0.0, power=2.0)
    rate = LEGW(decay, 0.15625, 32768, 512, epochs=90, steps_per_epoch=40)
    rate.peak, rate.warmup_epochs  # 32, 10
    ```

    References:
        - [You et al., 2019](https://arxiv.org/abs/1901.08256)
        - [Its group's code](https://github.com/NUS-HPC-AI-Lab/LARS-ImageNet-PyTorch)
    """

    def __init__(
        self,
        schedule: Rate,
        warmup_epochs: float,
        batch_size: int,
        base_batch_size: int,
        epochs: float,
        steps_per_epoch: float,
        clock: Clock | None = None,
    ):
        scaled = square_root_scaling(schedule, batch_size, base_batch_size)
        longer = warmup_epochs * batch_ratio(batch_size, base_batch_size)
        super().__init__(scaled, longer, epochs, steps_per_epoch, clock=clock)
        self._tuned = {"schedule": schedule, "warmup_epochs": warmup_epochs}
        self.batch_size = batch_size
        self.base_batch_size = base_batch_size

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the schedule was made with."""
        return {
            "schedule": serialized(self._tuned["schedule"]),
            "warmup_epochs": self._tuned["warmup_epochs"],
            "batch_size": self.batch_size,
            "base_batch_size": self.base_batch_size,
            "epochs": self.epochs,
            "steps_per_epoch": self.steps_per_epoch,
            "clock": self.clock,
        }
