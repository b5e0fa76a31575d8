"""Any measure every few epochs of a training."""

import warnings
from collections.abc import Sequence
from typing import Any, Unpack

import keras

from keras_sharp.arguments import integer
from keras_sharp.function_arguments import FunctionArguments
from keras_sharp.measures.report import Choice, check_options, choose, measure
from keras_sharp.objective import Objective
from keras_sharp.results.report import Report, value_of
from keras_sharp.workers import WorkersError


class MeasureDuringTraining(keras.callbacks.Callback):
    """Measures the model every few epochs, and writes the values into the logs.

    Works in `Trainer.fit` and in `keras.Model.fit`. Each value is in the logs under the measure's
    label in a report: its name, with its options if there are any. Callbacks that shall see them
    (TensorBoard, CSVLogger, EarlyStopping...) come after this one in the list; the History does so
    by itself. Epochs that are not measured have no such entry, as epochs without validation have no
    `val_loss`: `reports` says which are which. What is not one number, as `hessian_density`, is in
    `reports` alone.

    A measure that fails does not end the training: it warns, its reason is in the report, and the
    epoch has no entry for it. What can be known to fail beforehand is refused beforehand: options
    out of range at once, data, labels or a loss of no use before the first epoch, or after it if
    the model is built by its first batch. The model is not changed, so it trains as it would
    without.

    Args:
        ds: Labelled data: a tuple of arrays, a `tf.data.Dataset` of batches, or a
            `keras.utils.PyDataset`. They must be the same every time.
        measures: Names of measures, or pairs of a name and a dict of the measure's own arguments.
        every: Measures after every so many epochs, and after none else.
        seed: Seed of the measures.
        **function: `loss`, `batch_norm`, `batch_size`, `penalties` and `check_data` of `Objective`.

    Attributes:
        reports: The `Report` of each measured epoch, by its number as Keras counts, from 0. An
            epoch in which all measures failed has none. A checkpoint of `Trainer.fit` keeps them,
            but for the arrays that JSON leaves out.

    Raises:
        ValueError: For measures or arguments that don't exist or are out of range.

    Example:
    ```python
    watch = MeasureDuringTraining((x_train, y_train), [("sharpness", {"epsilon": 5e-4})], every=5)
    history = model.fit(x_train, y_train, epochs=20, callbacks=[watch])
    epochs = list(watch.reports)  # 4, 9, 14, 19
    values = history.history["sharpness(epsilon=0.0005)"]
    ```
    """

    def __init__(
        self,
        ds: Any,
        measures: str | Sequence[Choice] = "sharpness",
        *,
        every: int = 1,
        seed: int = 0,
        **function: Unpack[FunctionArguments],
    ):
        super().__init__()
        check_options(choose(measures))
        unknown = set(function) - set(FunctionArguments.__annotations__)
        if unknown:
            raise ValueError(
                "`MeasureDuringTraining` takes its own arguments and "
                f"{sorted(FunctionArguments.__annotations__)}. Received: {sorted(unknown)}"
            )
        self.every = integer("every", every)
        self.seed = integer("seed", seed, least=0)
        self.reports: dict[int, Report] = {}
        self._ds = ds
        self._measures = measures
        self._function = function
        self._objective: Objective | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets a training before this one, whose model may have been compiled otherwise.

        Raises:
            ValueError: If nothing could ever be measured, as `Objective` and its value say.
        """
        self.reports, self._objective = {}, None
        if self.model.built:
            self._prepare()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures, and writes the logs."""
        if self._objective is None:
            self._prepare()
        if (epoch + 1) % self.every:
            return
        try:
            report = measure(self._objective, measures=self._measures, seed=self.seed, verbose=0)
        except WorkersError:  # nor can the training go on
            raise
        except RuntimeError as error:
            warnings.warn(f"Nothing was measured after epoch {epoch + 1}. {error}", stacklevel=2)
            return
        self.reports[epoch] = report
        for label, reason in report.failures.items():
            message = f"{label} could not be measured after epoch {epoch + 1}. {reason}"
            warnings.warn(message, stacklevel=2)
        if logs is not None:
            values = {label: value_of(result) for label, result in report.results.items()}
            logs.update({label: value for label, value in values.items() if value is not None})

    def _prepare(self) -> None:
        """Reads data and labels once, so that what is wrong with them is an error early."""
        self._objective = Objective(self.model, self._ds, **self._function)
        self._objective.value()

    def get_state(self) -> dict[str, Any]:
        """Returns the reports, for a checkpoint."""
        return {"reports": {str(epoch): report.to_json() for epoch, report in self.reports.items()}}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on after reports that `get_state` returned."""
        reports = state["reports"].items()
        self.reports = {int(epoch): Report.from_json(text) for epoch, text in reports}
