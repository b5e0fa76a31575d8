"""The search."""

import os
import pathlib
from collections.abc import Callable
from typing import Unpack

import keras_tuner

from keras_sharp.arguments import integer, one_of
from keras_sharp.tuner.coordinator import Coordinator, role
from keras_sharp.tuner.processes import check_importable
from keras_sharp.tuner.recommendation import Recommendation, checked_gap
from keras_sharp.tuner.report import report
from keras_sharp.tuner.search_tuner import OBJECTIVES, ORACLES
from keras_sharp.tuner.space import Space, SpaceArguments
from keras_sharp.tuner.supervise import end_with_supervisor
from keras_sharp.tuner.trial import NAMES, Task


def search(
    build: str | Callable | keras_tuner.HyperModel = "small",
    data: str | tuple | Callable = "digits",
    folder: str | os.PathLike = "runs/search",
    *,
    epochs: int | None = None,
    steps: int | None = None,
    seeds: int = 3,
    seed: int = 0,
    oracle: str = "grid",
    max_trials: int | None = None,
    objective: str = "validation_accuracy",
    max_gap: float = 0.005,
    sharpness: bool = True,
    strategy: Callable | None = None,
    data_dir: str | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    verbose: int = 1,
    **space: Unpack[SpaceArguments],
) -> Recommendation | None:
    """Searches for the largest batch that costs no accuracy.

    Trains the small-batch reference first, then the points of the space, each in a process of its
    own, and keeps a record of every training in `folder`. The same call goes on with a search that
    was stopped: what is finished is not run again; with more seeds it adds those. A point that does
    not fit into memory is tried again with `micro_batch`, all its seeds alike; one that fails is
    left out, and the search goes on.

    With keras-tuner's variables `KERASTUNER_TUNER_ID`, `KERASTUNER_ORACLE_IP` and
    `KERASTUNER_ORACLE_PORT` set the same call is one of several workers, or their chief; see
    `supervise`. They need a folder they share.

    Args:
        build: Importable function that takes keras-tuner's `hp` and returns a model compiled with
            one of Keras's cross-entropies. What it declares with `hp` is searched, too, but must
            not have the name of what the search decides, such as `"learning_rate"`;
            `hp.get("batch_size")` asks for that. Or a `HyperModel` with such a `build`; or
            `"small"`, or the name of one of `keras_sharp.networks`.
        data: Name for `keras_sharp.datasets.load`, whose training set gives up a fifth for
            validation; or two or three pairs `(x, y)` of arrays: training, validation, perhaps
            test; or an importable function that returns these. Points are compared by the
            validation data; the test data decide nothing.
        folder: Where the records are.
        epochs: Length of a training. Defaults to 20, if `steps` is not given.
        steps: Its length in steps instead, rounded up to whole epochs.
        seeds: Number of trainings of each point.
        seed: The first one; the others follow. It decides on the initial weights, the order of the
            examples and the oracle.
        oracle: `"grid"`, `"random"`, `"bayesian"` or `"hyperband"`.
        max_trials: Largest number of points; needed for `"random"` and `"bayesian"`, not for
            `"hyperband"`.
        objective: What the oracle goes by: `"validation_accuracy"`, `"generalization_gap"`
            (training minus validation accuracy, both measured in the same way) or
            `"accuracy_lost"` (against the reference).
        max_gap: Accuracy that the recommended batch may lose, 0 to 1.
        sharpness: Whether to measure the sharpness of every trained model.
        strategy: Importable function that returns the `tf.distribute` strategy of each training.
            Defaults to `MirroredStrategy` where there are several GPUs.
        data_dir: Where named data are.
        limit: Keeps only so many examples of named data.
        retry_failed: Whether to try points again that have failed before.
        verbose: 0 is silent.
        **space: Arguments of `Space`: batch sizes, learning rates, optimizers...

    Returns:
        The recommendation, which `report` writes, too. None from a worker.

    Raises:
        ValueError: For arguments of no use, or a folder of another search; before anything is
            trained.
        RuntimeError: If no training was finished.

    Note:
        Sharpness is never an objective: it can be made large or small without changing what a
        network computes, and need not go with accuracy.

    Example:
    ```python
    if __name__ == "__main__":
        best = keras_sharp.tuner.search("small", "digits", epochs=10, batch_sizes=[128, 512])
        print(best.batch_size, best.learning_rate, best.status)
    ```
    """
    if epochs is None and steps is None:
        epochs = 20
    if (epochs is None) == (steps is None):
        raise ValueError(
            f"`epochs` and `steps` must not both be given. Received: epochs={epochs}, steps={steps}"
        )
    length = integer("epochs", epochs) if steps is None else integer("steps", steps)
    seed, seeds = integer("seed", seed, least=0), integer("seeds", seeds)
    max_gap = checked_gap(max_gap)
    one_of("oracle", oracle, ORACLES)
    one_of("objective", objective, tuple(OBJECTIVES))
    if max_trials is not None:
        max_trials = integer("max_trials", max_trials)
        if oracle == "hyperband":
            raise ValueError(
                "`max_trials` must be left out for the oracle 'hyperband', which decides by itself "
                f"how many there are. Received: max_trials={max_trials}"
            )
    elif oracle in ("random", "bayesian"):
        raise ValueError(f"`max_trials` must be given for the oracle {oracle!r}")
    if isinstance(build, str):
        one_of("build", build, NAMES)
    elif isinstance(build, keras_tuner.HyperModel):
        build = build.build
    if strategy is not None and not callable(strategy):
        raise ValueError(
            "`strategy` must be an importable function that returns a strategy. "
            f"Received: strategy={strategy!r}"
        )
    for name, thing in (("build", build), ("data", data), ("strategy", strategy)):
        if callable(thing):
            check_importable(name, thing)
    if limit is not None:
        limit = integer("limit", limit)
        if not isinstance(data, str):
            raise ValueError(
                "`limit` is for named data; bring fewer examples instead. "
                f"Received: limit={limit} and data of your own"
            )
    end_with_supervisor()
    task = Task(
        root=str(pathlib.Path(folder).resolve()),
        build=build,
        data=data,
        space=Space(**space),
        epochs=None if steps else length,
        steps=steps and length,
        seeds=tuple(range(seed, seed + seeds)),
        sharpness=bool(sharpness),
        strategy=strategy,
        data_dir=data_dir,
        limit=limit,
    )
    coordinator = Coordinator(task, objective, retry_failed=retry_failed, verbose=verbose)
    coordinator.search(oracle, max_trials, seed)
    if role() == "worker":
        return None
    return report(folder, max_gap=max_gap, verbose=verbose)
