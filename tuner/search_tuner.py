"""keras-tuner's search, with trials that run elsewhere."""

import time
from collections.abc import Callable
from typing import Any

import keras_tuner
from keras_tuner.engine import base_tuner
from keras_tuner.errors import FailedTrialError, FatalRuntimeError

# What a search can want, with its direction.
OBJECTIVES = {"validation_accuracy": "max", "generalization_gap": "min", "accuracy_lost": "min"}
ORACLES = ("grid", "random", "bayesian", "hyperband")

# keras-tuner ends a search after three failures in a row otherwise.
_NEVER = 10**9

_SECONDS_BETWEEN_QUESTIONS = 0.5


class GridOracle(keras_tuner.oracles.GridSearchOracle):
    """keras-tuner's grid, of which several workers get a point each.

    The original hands out the point after another one when that has ended, in case it has shown
    new hyperparameters; here all of them are known beforehand.
    """

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Returns the values of a trial, and has the one after it follow at once."""
        proposed = super().populate_space(trial_id)
        if proposed["values"] is not None:
            self._populate_next.append(trial_id)
        return proposed


def make_oracle(
    name: str,
    objective: str,
    hyperparameters: keras_tuner.HyperParameters,
    *,
    seed: int,
    max_trials: int | None,
    epochs: int,
) -> keras_tuner.Oracle:
    """Returns one of keras-tuner's oracles.

    Args:
        name: One of `ORACLES`.
        objective: One of `OBJECTIVES`.
        hyperparameters: The space.
        seed: Of the oracle.
        max_trials: Largest number of points. Hyperband decides by itself.
        epochs: Length of a whole training, for Hyperband.
    """
    common: dict[str, Any] = {
        "objective": keras_tuner.Objective(objective, OBJECTIVES[objective]),
        "hyperparameters": hyperparameters,
        "seed": seed + 1,  # it takes 0 for none, and would draw its own
        "max_consecutive_failed_trials": _NEVER,
    }
    oracles = keras_tuner.oracles
    if name == "hyperband":
        return oracles.HyperbandOracle(max_epochs=epochs, **common)
    if name == "grid":
        return GridOracle(max_trials=max_trials, **common)
    kind = {
        "random": oracles.RandomSearchOracle,
        "bayesian": oracles.BayesianOptimizationOracle,
    }[name]
    return kind(max_trials=max_trials, **common)


class SearchTuner(base_tuner.BaseTuner):
    """Hands each trial of an oracle to a function.

    Nothing of keras-tuner's own files is needed to go on: an oracle that starts anew proposes the
    same points, and those that are finished are only looked up.

    Args:
        oracle: The oracle.
        run: Takes the trial's hyperparameters; returns the value of the objective, or None if the
            trial failed.
        directory: For files of keras-tuner that nobody reads.
    """

    def __init__(
        self,
        oracle: keras_tuner.Oracle,
        run: Callable[[keras_tuner.HyperParameters], float | None],
        directory: str,
    ):
        super().__init__(oracle, directory=directory, project_name="search", overwrite=True)
        self._run = run
        self._idle = False

    def pre_create_trial(self) -> None:
        """Waits a little where there was nothing to do, which keras-tuner does not."""
        if self._idle:
            time.sleep(_SECONDS_BETWEEN_QUESTIONS)
        self._idle = True

    def on_trial_begin(self, trial: Any) -> None:
        """Notes that there is something to do."""
        super().on_trial_begin(trial)
        self._idle = False

    def run_trial(self, trial: Any, *_: Any, **__: Any) -> dict[str, float]:
        """Runs a trial.

        Raises:
            FailedTrialError: If it failed; the search goes on.
            FatalRuntimeError: If it is the search itself that failed.
        """
        try:
            value = self._run(trial.hyperparameters)
        except Exception as error:  # which keras-tuner would take for a failed trial
            raise FatalRuntimeError(f"{type(error).__name__}: {error}") from error
        if value is None:
            raise FailedTrialError("The trial failed; the records say why.")
        return {self.oracle.objective.name: value}
