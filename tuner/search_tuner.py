"""keras-tuner's search, with trials that run elsewhere."""

import copy
import time
import uuid
from collections.abc import Callable
from typing import Any

import keras_tuner
from keras_tuner.engine import base_tuner
from keras_tuner.engine import trial as trial_module
from keras_tuner.errors import FailedTrialError, FatalRuntimeError

# What a search can want, with its direction.
OBJECTIVES = {"validation_accuracy": "max", "generalization_gap": "min", "accuracy_lost": "min"}
ORACLES = ("grid", "random", "bayesian", "hyperband")

# keras-tuner ends a search after three failures in a row otherwise.
_NEVER = 10**9

_SECONDS_BETWEEN_QUESTIONS = 0.5


class OneLife:
    """What an oracle is, but deaf to workers that report a trial of one before it.

    A chief that was killed and started again begins anew, while its workers are in mid-trial. Their
    records count, but the same id would be another trial, or none: keras-tuner's chief then waits
    for ever, as it keeps its lock when it does not know an id. So ids bear the mark of their chief.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._mark = f"{uuid.uuid4().hex}."

    def create_trial(self, tuner_id: str) -> Any:
        """Returns the next trial, under a marked id."""
        return self._renamed(super().create_trial(tuner_id), self._mark.__add__)

    def get_trial(self, trial_id: str) -> Any:
        """Returns a trial; an empty one for the id of another chief."""
        if not trial_id.startswith(self._mark):
            return trial_module.Trial(self.get_space(), trial_id, "RUNNING")
        return super().get_trial(trial_id.removeprefix(self._mark))

    def update_trial(self, trial_id: str, metrics: dict[str, float], step: int = 0) -> Any:
        """Notes metrics, but for the id of another chief."""
        if not trial_id.startswith(self._mark):
            return self.get_trial(trial_id)
        return super().update_trial(trial_id.removeprefix(self._mark), metrics, step)

    def end_trial(self, trial: Any) -> None:
        """Ends a trial, but for that of another chief."""
        if trial.trial_id.startswith(self._mark):
            super().end_trial(self._renamed(trial, lambda name: name.removeprefix(self._mark)))

    @staticmethod
    def _renamed(trial: Any, rename: Callable[[str], str]) -> Any:
        renamed = copy.copy(trial)
        renamed.trial_id = rename(trial.trial_id)
        return renamed


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
    if name == "hyperband":
        common["max_epochs"] = epochs
    else:
        common["max_trials"] = max_trials
    if name == "bayesian":
        # keras-tuner's three for each entry of the space would count those with one value alone,
        # and leave nothing to the Gaussian process in a short search.
        varied = [each for each in hyperparameters.space if not _is_single(each)]
        common["num_initial_points"] = max(1, min(max(3, 3 * len(varied)), max_trials // 2))
    base = {
        "grid": GridOracle,
        "random": keras_tuner.oracles.RandomSearchOracle,
        "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
        "hyperband": keras_tuner.oracles.HyperbandOracle,
    }[name]
    return type(base.__name__, (OneLife, base), {})(**common)


def _is_single(entry: Any) -> bool:
    """Returns whether an entry of a space has one value alone."""
    return entry.prob_to_value(0.0) == entry.prob_to_value(1.0)


class SearchTuner(base_tuner.BaseTuner):
    """Hands each trial of an oracle to a function.

    Nothing of keras-tuner's own files is needed to go on: points that are finished are only looked
    up, and an oracle that starts anew proposes the same ones. That is so of the grid and the random
    oracle, and of the others with one process that searches; with several workers what those
    propose also depends on who was done first, and a search that goes on may try other points.

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
