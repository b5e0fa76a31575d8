"""AutoWU: the warm-up ends when the loss has passed its minimum."""

import json
import os
import pathlib
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_sharp.arguments import integer
from keras_sharp.callbacks.passed_minimum import passed_minimum
from keras_sharp.schedules.autowu_rate import AutoWURate


class AutoWU(keras.callbacks.Callback):
    """Ends the warm-up of an `AutoWURate` once the training loss has passed its minimum.

    While the rate rises, the losses of all steps so far are a noisy curve. After each epoch a
    Gaussian process is fitted to it, see `passed_minimum`, and conditioned on `draws` random
    subsets of the losses. In each of them it yields the place `x_j` in [0, 1] of the minimum, and
    the greatest probability that the curve was lower at some earlier place than it is now. An epoch
    votes for the end if that is above `confidence` for more than half of the subsets. After
    `patience` such epochs in a row the rate goes back to what it was at the minimum, the mean over
    `j` of the rate at `x_j`, and decays from there.

    Works in `Trainer.fit`, whose steps stay in the graph, and in `keras.Model.fit`. On several
    replicas a loss is that of the global batch, and all agree. A checkpoint of `Trainer.fit` keeps
    everything, and `keras.Model.fit` with `BackupAndRestore` needs a `state_file`. A model that is
    saved keeps the rate, but in the middle of its warm-up not the losses, so it can't be trained
    further with `AutoWU` then.

    Args:
        rate: The schedule that the model's optimizer holds, the object itself.
        patience: Number of epochs in a row that must vote for the end.
        draws: Number of random subsets of the losses in each test.
        confidence: A probability counts if it is above it.
        seed: Decides the subsets.
        state_file: Written after each epoch, and read by a training that goes on where another one
            was stopped, for `keras.Model.fit` with `BackupAndRestore`: its weights hold neither the
            losses nor what was decided. `AutoWU` must come before it in `callbacks`.

    Attributes:
        losses: `(steps,)` float64, the losses of the batches since the first step of the warm-up.
        votes: Of each epoch tested, whether it was for the end.

    Raises:
        ValueError: If an argument is out of range; and by `fit`, if its steps, epochs or optimizer
            don't agree with the schedule, losses of the warm-up are missing, or the optimizer
            accumulates gradients.

    Note:
        Output scale and noise of the Gaussian process maximise the marginal likelihood, where the
        authors' code takes 100 steps of Adam towards that maximum; its mean stays at the mean of
        the losses, where the code trains it too. Losses whose standard deviation is above 1 are
        divided by it. The rate rises by the step, from at least one epoch of warm-up; the paper's
        rise by the epoch, and its other shapes of decay than `AutoWURate` has, are left out. A
        warm-up that reaches its cap decays from there without going back, as in the code, and
        warns. A loss that is not finite ends `Trainer.fit` with an error, where the code leaves it
        out of the curve and trains on.

    Example:
    ```python
    rate = AutoWURate(epochs=120, steps_per_epoch=40)
    trainer = Trainer(model, AdamP(rate, weight_decay=0.1), loss)
    trainer.fit(data, batch_size=8192, epochs=120, callbacks=[AutoWU(rate)])
    rate.decay_start, rate.peak
    ```

    References:
        - [Kim et al., 2021](https://arxiv.org/abs/2107.05855)
        - [Its authors' code](https://github.com/kakaobrain/autowu)
    """

    # What `Trainer` asks a callback: it tells of all steps of a call at once instead.
    every_batch = False

    def __init__(
        self,
        rate: AutoWURate,
        *,
        patience: int = 3,
        draws: int = 5,
        confidence: float = 0.95,
        seed: int = 0,
        state_file: str | os.PathLike | None = None,
    ):
        super().__init__()
        if not isinstance(rate, AutoWURate):
            raise ValueError(f"`rate` must be an `AutoWURate`. Received: rate={rate!r}")
        if not 0 < confidence < 1:
            raise ValueError(f"`confidence` must be in (0, 1). Received: confidence={confidence}")
        self.rate = rate
        self.patience = integer("patience", patience)
        self.draws = integer("draws", draws)
        self.confidence = float(confidence)
        self.seed = integer("seed", seed, least=0)
        self.state_file = None if state_file is None else pathlib.Path(state_file)
        self._written: dict[str, Any] = {}
        self._reset()

    def _reset(self) -> None:
        self.votes: list[bool] = []
        self._losses: list[float] = []

    @property
    def losses(self) -> np.ndarray:
        """`(steps,)` float64, the losses of the batches since the first step of the warm-up."""
        return np.array(self._losses)

    @property
    def _steps(self) -> int:
        # Not the number of losses: mixed precision may skip a step, and the rate doesn't count it.
        return int(_number(self.model.optimizer.iterations))

    @property
    def _warms_up(self) -> bool:
        return self.rate.decay_start is None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks that schedule and training fit, and forgets a training before a new one.

        Raises:
            ValueError: If they don't.
        """
        if self._steps == 0:
            self._reset()
            self.rate.set_state({"decay_start": None, "peak": None})
        held = [getattr(each, "_learning_rate", None) for each in _chain(self.model.optimizer)]
        if not any(each is self.rate for each in held):  # an equal one would never hear of the end
            raise ValueError(
                "The optimizer must use the schedule given to `AutoWU` as its `learning_rate`, the "
                "same object. Received: an optimizer at rate "
                f"{float(self.model.optimizer.learning_rate):g}, and a schedule at "
                f"{float(self.rate(self._steps)):g}"
            )
        for each in _chain(self.model.optimizer):
            if each.gradient_accumulation_steps:
                raise ValueError(
                    "`gradient_accumulation_steps` does not work with `AutoWU`: schedule and "
                    "optimizer would count different steps. Use the `micro_batch` of "
                    "`keras_sharp.training.Trainer` instead. Received: "
                    f"gradient_accumulation_steps={each.gradient_accumulation_steps}"
                )
        self._check_length()
        self._told = self._begun = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Begins to count, where `Model.fit` does.

        Raises:
            ValueError: If the schedule has come to its end, the epoch has another number of steps,
                or losses of the warm-up are missing.
        """
        self._check_length()  # `Trainer` tells of the steps of each epoch, which a batch may change
        if self._steps >= self.rate.total_steps:
            raise ValueError(
                f"The schedule ended after {self.rate.total_steps} steps, at rate 0. Received: "
                "another epoch"
            )
        if not self._begun:  # not earlier: `BackupAndRestore` may come after this callback
            self._begun = True
            self._read()
        if self._warms_up:
            self._check_losses()
        self._batches, self._total, self._count = 0, 0.0, 0.0

    def on_train_steps_end(self, figures: dict[str, np.ndarray]) -> None:
        """Takes the losses of some steps, `(steps,)`, from `Trainer`."""
        self._told = True
        if self._warms_up:
            self._losses.extend(figures["loss"].tolist())

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Takes the loss of a batch from `Model.fit`.

        Raises:
            ValueError: If the loop doesn't tell of each batch, or doesn't count its loss.
        """
        if self._told or not self._warms_up:
            return
        if batch != self._batches:
            raise ValueError(
                "`AutoWU` needs the loss of each batch. Train with `keras_sharp.training.Trainer`, "
                "or compile with `steps_per_execution=1`. Received: batch "
                f"{batch} after {self._batches} batches"
            )
        # The logs have the mean over the epoch so far; these are its two parts.
        mean = next((metric for metric in self.model.metrics if metric.name == "loss"), None)
        parts = (mean.total, mean.count) if isinstance(mean, keras.metrics.Mean) else (0.0, 0.0)
        total, count = (_number(part) for part in parts)
        if count <= self._count:
            raise ValueError(
                "`AutoWU` needs a model whose `train_step` updates the mean of the loss in "
                f"`model.metrics`. Received: {type(self.model).__name__}"
            )
        self._losses.append((total - self._total) / (count - self._count))
        self._batches, self._total, self._count = batch + 1, total, count

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Tests whether the loss has passed its minimum.

        Raises:
            ValueError: If losses of the warm-up are missing.
        """
        if self._warms_up:
            self._test()
        self._write()

    def _test(self) -> None:
        steps = self._steps
        if steps >= self.rate.warmup_steps:
            peak = float(self.rate.rising(self.rate.warmup_steps - 1))
            self.rate.decay_from(self.rate.warmup_steps, peak)
            warnings.warn(
                f"The warm-up of AutoWU reached its cap of {self.rate.warmup_steps} steps before "
                "the loss was found to have passed its minimum. The rate decays from "
                f"{peak:g}, which may be too high.",
                stacklevel=3,
            )
            return
        self._check_losses()
        found = passed_minimum(self.losses, draws=self.draws, seed=self.seed)
        if found is None:
            self.votes.append(False)
            return
        probabilities, places = found
        self.votes.append(bool(np.sum(probabilities > self.confidence) > self.draws / 2))
        last = self.votes[-self.patience :]
        if len(last) == self.patience and all(last):
            peak = np.mean([float(self.rate.rising((steps - 1) * place)) for place in places])
            self.rate.decay_from(steps, float(peak))

    def get_state(self) -> dict[str, Any]:
        """Returns the losses and votes, for a checkpoint; the schedule has a state of its own."""
        return {"losses": self.losses, "votes": self.votes}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `get_state` returned."""
        self._losses = np.asarray(state["losses"]).tolist()
        self.votes = list(state["votes"])

    def _write(self) -> None:
        """Writes the states after this epoch and the one before, the last one backed up or not."""
        if self.state_file is None:
            return
        state = {"losses": [*self._losses], "votes": [*self.votes], "rate": self.rate.get_state()}
        self._written = dict([*self._written.items(), (str(self._steps), state)][-2:])
        temporary = self.state_file.with_name(f"{self.state_file.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(self._written))
        os.replace(temporary, self.state_file)

    def _read(self) -> None:
        """Goes on from the state after the steps the optimizer has taken, if it was written."""
        self._written, steps = {}, self._steps
        if self.state_file is None or steps == 0 or not self.state_file.exists():
            return
        states = json.loads(self.state_file.read_text())
        if str(steps) in states:
            self._written = {str(steps): states[str(steps)]}
            self.set_state(states[str(steps)])
            self.rate.set_state(states[str(steps)]["rate"])

    def _check_length(self) -> None:
        epochs, steps = self.params.get("epochs"), self.params.get("steps")
        if steps not in (None, self.rate.steps_per_epoch) or (epochs or 0) > self.rate.epochs:
            raise ValueError(
                f"The training must be that of the schedule, {self.rate.epochs} epochs of "
                f"{self.rate.steps_per_epoch} steps. Received: {epochs} epochs of {steps} steps"
            )

    def _check_losses(self) -> None:
        if len(self._losses) < self._steps:
            raise ValueError(
                "`AutoWU` needs the losses of all steps of the warm-up, and what came of them. "
                "Begin anew, with `AutoWU(rate, state_file=...)` before `BackupAndRestore` in "
                "`callbacks`, or with `keras_sharp.training.Trainer` and its `checkpoint`. "
                f"Received: {len(self._losses)} losses of {self._steps} steps"
            )


def _chain(optimizer: keras.optimizers.Optimizer) -> list[keras.optimizers.Optimizer]:
    """Returns an optimizer and those inside it, of a `LossScaleOptimizer`."""
    inner = getattr(optimizer, "inner_optimizer", None)
    return [optimizer] if inner is None else [optimizer, *_chain(inner)]


def _number(value: Any) -> float:
    # Under a strategy what a variable holds is several, which only TensorFlow makes one of.
    return float(tf.convert_to_tensor(value))
