"""The process that hands out the work of a search."""

import contextlib
import dataclasses
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any, Literal

import keras_tuner
import rich.console

from keras_sharp.tuner.processes import run
from keras_sharp.tuner.records import Records, write_json
from keras_sharp.tuner.search_tuner import SearchTuner, make_oracle
from keras_sharp.tuner.space import point_of
from keras_sharp.tuner.supervise import chief_address, ending_with_chief
from keras_sharp.tuner.trial import Plan, Task, prepare, train_point


class Coordinator:
    """Hands the points of a search to processes, one at a time, and uses no device itself.

    Args:
        task: The search.
        objective: What the oracle goes by.
        retry_failed: Whether to forget the points that have failed.
        verbose: 0 is silent.

    Raises:
        ValueError: If data, model or space are of no use, or the folder is of another search.
    """

    def __init__(self, task: Task, objective: str, *, retry_failed: bool, verbose: int):
        self.objective = objective
        self.console = rich.console.Console(highlight=False, quiet=not verbose)
        self.records = Records(task.root)
        self.records.root.mkdir(parents=True, exist_ok=True)
        if role() == "chief":
            self.records.ended_file.unlink(missing_ok=True)
        outcome = run(prepare, task, log=self.records.root / "prepare.log")
        if outcome.kind != "finished":
            raise ValueError(f"The search cannot begin. {outcome.reason}")
        self.known = outcome.value
        self.task = dataclasses.replace(task, space=self.known.pop("space"))
        self.hyperparameters = keras_tuner.HyperParameters.from_config(
            self.known["hyperparameters"]
        )
        self.records.begin(
            {
                "build": _name(task.build),
                "data": self.known["data"],
                "space": dataclasses.asdict(self.task.space),
                "hyperparameters": self.known["hyperparameters"]["space"],
                "weights": self.known["weights"],
                "loss": self.known["loss"],
                "epochs": task.epochs,
                "steps": task.steps,
                "sharpness": task.sharpness,
                # Each by itself, for a message that names the one that differs.
                **{f"layer {name}": layer for name, layer in self.known["layers"].items()},
            },
            # More seeds go on with the same search.
            {"seeds": list(task.seeds)}
            | {name: self.known[name] for name in ("model", "replicas", "devices")},
        )
        if retry_failed and role() != "worker":  # one that was started again would forget news
            self.records.forget_failures()
        self.reference: float | None = None
        self.done, self.total = 0, None
        self.took: list[float] = []  # seconds of each point that was not finished before

    def search(self, oracle: str, max_trials: int | None, seed: int) -> None:
        """Trains the reference, then what the oracle proposes."""
        ended = self.records.ended_file
        with contextlib.ExitStack() as stack:
            if role() == "worker":
                stack.enter_context(ending_with_chief(ended))
            elif role() == "chief":
                stack.callback(lambda: write_json(ended, chief_address()))
            self._search(oracle, max_trials, seed)

    def _search(self, oracle: str, max_trials: int | None, seed: int) -> None:
        if role() != "chief":
            self._train_reference()
        # Hyperband's epochs are shares of a whole training at the base batch.
        whole = self.task.whole(self.task.space.base_batch_size, self.known["examples"])
        self.total = self._points(oracle, max_trials)
        files = tempfile.mkdtemp()
        try:
            tuner = SearchTuner(
                make_oracle(
                    oracle,
                    self.objective,
                    self.hyperparameters,
                    seed=seed,
                    max_trials=max_trials,
                    epochs=whole,
                ),
                lambda hp: self._value(hp, whole),
                files,
            )
            tuner.search(verbose=0)
        finally:
            shutil.rmtree(files, ignore_errors=True)
        if role() != "worker":
            self.records.drop_checkpoints()  # of points that failed, or that Hyperband gave up

    def _train_reference(self) -> None:
        hp = self.hyperparameters.copy()
        trained = self._train(hp, self._whole(hp), is_reference=True)
        if trained:
            self.reference = _mean(trained, "validation_accuracy")
        elif self.objective == "accuracy_lost":
            raise RuntimeError(
                "The small-batch reference, against which accuracy is lost, has failed: "
                f"{self._failure(hp, self._whole(hp))}. Choose another objective, or other rates"
            )

    def _whole(self, hp: keras_tuner.HyperParameters) -> int:
        return self.task.whole(hp.values["batch_size"], self.known["examples"])

    def _value(self, hp: keras_tuner.HyperParameters, hyperband_whole: int) -> float | None:
        epochs = self._whole(hp)
        if "tuner/epochs" in hp.values:
            epochs = max(1, round(epochs * hp.values["tuner/epochs"] / hyperband_whole))
        trained = self._train(hp, epochs)
        if not trained:
            return None
        if self.objective == "accuracy_lost":
            return self.reference - _mean(trained, "validation_accuracy")
        return _mean(trained, self.objective)

    def _train(
        self, hp: keras_tuner.HyperParameters, epochs: int, is_reference: bool = False
    ) -> list[dict[str, Any]]:
        """Trains a point, unless it is finished. Returns its records; none: it has failed."""
        began, seeds = time.perf_counter(), list(self.task.seeds)
        failed = self.records.failure_file(hp.values, epochs)
        with self.records.locked(self.records.folder(hp.values)):
            trained = self.records.of_point(hp.values, epochs, seeds)
            new = len(trained) < len(seeds) and not failed.exists()
            if new:
                reason = self._run(hp, epochs, is_reference)
                if reason is not None:
                    values = point_of(hp.values)
                    write_json(failed, {"values": values, "epochs": epochs, "reason": reason})
                trained = self.records.of_point(hp.values, epochs, seeds)
        trained = trained if len(trained) == len(seeds) else []
        self.done += not is_reference
        seconds = time.perf_counter() - began
        self.took += [seconds] if new else []
        self._say(hp, epochs, trained, seconds, is_reference)
        return trained

    def _run(self, hp: keras_tuner.HyperParameters, epochs: int, is_reference: bool) -> str | None:
        """Trains a point in a process, again with ever smaller parts while memory is short.

        All seeds are trained in the same parts, for in others they are other trainings. Where it
        was the measuring that was short of memory, the trained model is measured again in parts. A
        sharpness is tried once more, with no more examples at once than were trained; beyond that
        its memory goes with the weights.

        Who killed a process is not known: it is started again as it was, and goes on. Killed again
        it counts as out of memory.

        Returns the reason if it failed.
        """
        folder, measuring = self.records.folder(hp.values), self.records.measuring_file(hp.values)
        before = self.records.of_point(hp.values, epochs, list(self.task.seeds))
        micro_batch = before[0]["micro_batch"] if before else None
        plan = Plan(epochs, micro_batch, is_reference=is_reference)
        # A share of the batch that leaves each replica no work at all would be no training.
        part = micro_batch or -(-hp.values["batch_size"] // self.known["replicas"])
        killed = False
        while True:
            measuring.unlink(missing_ok=True)
            outcome = run(train_point, self.task, hp.get_config(), plan, log=folder / "log.txt")
            if outcome.kind == "finished":
                return None
            measured = self.records.measuring(hp.values)
            at_once, record = measured.get("evaluation_batch", part), measured.get("record")
            if record is not None:  # all is known of this training but its sharpness
                no_smaller = outcome.kind == "out of memory" and part >= plan.evaluation
                tried = outcome.kind == "failed" or plan.sharpness_batch is not None
                if tried or no_smaller:
                    self.records.finish(record | {"sharpness_status": outcome.reason})
                    what = f"seed {record['seed']} has no sharpness"
                else:
                    plan = dataclasses.replace(plan, sharpness_batch=min(part, plan.evaluation))
                    what = f"sharpness measured with {plan.sharpness_batch} examples at once"
            elif outcome.kind == "killed" and not killed:
                killed, what = True, "started again"
            elif outcome.kind == "failed" or at_once <= 1:
                return outcome.reason
            elif measured:
                plan = dataclasses.replace(plan, evaluation_batch=at_once // 2)
                what = f"measured again with {at_once // 2} examples at once"
            else:
                part = at_once // 2
                plan = dataclasses.replace(plan, micro_batch=part)
                self.records.drop_trainings(hp.values, epochs)
                what = f"trained again with micro_batch {part}"
            self.console.print(f"  {outcome.reason}: {what}", markup=False, soft_wrap=True)

    def _failure(self, hp: keras_tuner.HyperParameters, epochs: int) -> str:
        file = self.records.failure_file(hp.values, epochs)
        return json.loads(file.read_text(encoding="utf-8"))["reason"]

    def _points(self, oracle: str, max_trials: int | None) -> int | None:
        if oracle == "hyperband":
            return None
        points = 1
        for each in self.hyperparameters.space:
            values = getattr(each, "values", None)
            if values is None or each.conditions:
                return max_trials
            points *= len(list(values))
        return min(points, max_trials or points)

    def _say(
        self,
        hp: keras_tuner.HyperParameters,
        epochs: int,
        trained: list[dict[str, Any]],
        seconds: float,
        is_reference: bool,
    ) -> None:
        values = point_of(hp.values)
        title = "reference" if is_reference else f"{self.done}/{self.total or '?'}"
        what = ", ".join(
            f"{name.replace('_', ' ')} {value:.3g}"
            if isinstance(value, float)
            else f"{name.replace('_', ' ')} {value}"
            for name, value in values.items()
        )
        if trained:
            accuracy = 100 * _mean(trained, "validation_accuracy")
            how = f"validation accuracy {accuracy:.2f} %"
        else:
            how = f"failed: {self._failure(hp, epochs)}"
        left = ""
        if self.total and self.took:
            remaining = max(0, self.total - self.done) * statistics.fmean(self.took)
            left = f", about {remaining:.0f} s left"
        self.console.print(
            f"{title}: {what}, {epochs} epochs: {how} ({seconds:.0f} s{left})",
            markup=False,
            soft_wrap=True,
        )


def _name(build: str | Callable) -> str:
    """Returns a name of a model's function that is the same in every process."""
    if isinstance(build, str):
        return build
    inner = getattr(build, "func", build)  # functools.partial
    owner = getattr(inner, "__self__", None)
    inner = type(owner) if isinstance(owner, keras_tuner.HyperModel) else inner
    return f"{getattr(inner, '__module__', '')}.{getattr(inner, '__qualname__', repr(build))}"


def role() -> Literal["alone", "chief", "worker"]:
    """Returns what this process is, in keras-tuner's own terms."""
    if "KERASTUNER_ORACLE_IP" not in os.environ:
        return "alone"
    return "chief" if "chief" in os.environ["KERASTUNER_TUNER_ID"] else "worker"


def _mean(trained: list[dict[str, Any]], name: str) -> float:
    return statistics.fmean(each[name] for each in trained)
