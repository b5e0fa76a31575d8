"""A search whose trainings take no time: accuracies by a formula, with a known best rate."""

import math

from keras_sharp.tuner.processes import Outcome
from keras_sharp.tuner.records import Records, write_json
from keras_sharp.tuner.space import point_of

EXAMPLES = 1000
RATES = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32]


def best_rate(batch_size):
    """The best rate at the base batch falls with the batch: no scaling rule is perfect."""
    return {32: 0.16, 64: 0.08, 128: 0.08, 256: 0.04, 512: 0.02}[batch_size]


def accuracy(values, seed, epochs=20):
    cost = {32: 0.0, 64: 0.0, 128: 0.002, 256: 0.008, 512: 0.03}[values["batch_size"]]
    octaves = math.log2(values["learning_rate"] / best_rate(values["batch_size"]))
    return 0.98 - cost - 0.01 * abs(octaves) - 0.05 / epochs + (0.001 if seed % 2 else -0.001)


def a_record(values, seed, epochs, whole, **other):
    found = accuracy(values, seed, epochs)
    return {
        "values": values,
        "seed": seed,
        "epochs": epochs,
        "whole_epochs": whole,
        "batch_size": values["batch_size"],
        "micro_batch": None,
        "replicas": 1,
        "peak_learning_rate": values["learning_rate"] * math.sqrt(values["batch_size"] / 32),
        "steps": epochs * math.ceil(EXAMPLES / values["batch_size"]),
        "seconds": epochs * (0.1 + 10 / values["batch_size"]),
        "train_loss": 0.1,
        "train_accuracy": 1.0,
        "validation_loss": 0.2,
        "validation_accuracy": found,
        "test_loss": 0.2,
        "test_accuracy": found - 0.01,
        "generalization_gap": 1 - found,
        "sharpness": float(values["batch_size"]),
        "sharpness_status": None,
        "noise_scale": 150.0 + seed if values["batch_size"] == 32 else None,
        "noise_scale_error": 10.0 if values["batch_size"] == 32 else None,
        "noise_scale_status": "It is clear." if values["batch_size"] == 32 else None,
        **other,
    }


class Planted:
    """Stands in for `processes.run`; counts what it is asked.

    Args:
        stop_at: Number of the training, from 1, in whose middle the search is stopped.
        fails: Takes the values of a point; says why it fails, or None.
        fits: Largest batch or part of one for which there is memory, in the training of a seed.
        measures: Number of examples that can be measured at once.
        kills: So many processes are killed before one trains.
        sharpens: Whether a process lives through the sharpness.
        model: More to know of the model.
    """

    def __init__(
        self,
        stop_at=None,
        fails=lambda values: None,
        fits=lambda seed: 10**9,
        measures=10**9,
        kills=0,
        sharpens=True,
        **model,
    ):
        self.stop_at, self.fails, self.fits = stop_at, fails, fits
        self.measures, self.kills, self.sharpens = measures, kills, sharpens
        self.model = {"weights": 1, "layers": {}, "loss": "mse"} | model
        self.trained, self.parts, self.measured, self.plans = [], [], [], []

    def __call__(self, function, task, *arguments, log):
        if function.__name__ == "prepare":
            space = task.space.for_examples(EXAMPLES)
            return Outcome(
                "finished",
                {
                    "data": {"name": "planted", "examples": [EXAMPLES], "digest": "0"},
                    "examples": EXAMPLES,
                    "space": space,
                    "hyperparameters": space.hyperparameters().get_config(),
                    "model": "planted",
                    **self.model,
                    "replicas": 1,
                    "devices": ["CPU"],
                },
            )
        config, plan = arguments
        epochs, micro_batch = plan.epochs, plan.micro_batch
        values = point_of(config["values"])
        if reason := self.fails(values):
            return Outcome("failed", reason=reason)
        part = micro_batch or values["batch_size"]
        self.parts.append(part)
        self.plans.append(plan)
        if self.kills:
            self.kills -= 1
            return Outcome("killed", reason="killed by somebody")
        records = Records(task.root)
        for seed in task.seeds:
            file = records.file(values, epochs, seed)
            if file.exists():
                continue
            if part > self.fits(seed):
                return Outcome("out of memory", reason="no memory")
            self.measured.append(plan.evaluation)
            file.parent.mkdir(parents=True, exist_ok=True)
            if self.measured[-1] > self.measures:
                at_once = {"evaluation_batch": self.measured[-1], "record": None}
                write_json(records.measuring_file(values), at_once)
                return Outcome("out of memory", reason="no memory")
            self.trained.append((file.parent.name, file.name))
            if len(self.trained) == self.stop_at:
                raise KeyboardInterrupt
            whole = task.whole(values["batch_size"], EXAMPLES)
            records.checkpoint_file(values, seed, part).touch()
            record = a_record(values, seed, epochs, whole, micro_batch=micro_batch)
            if not plan.is_reference:
                record |= dict.fromkeys(name for name in record if name.startswith("noise"))
            if not self.sharpens:
                record |= {"sharpness": None}
                known = {"evaluation_batch": plan.evaluation, "record": record}
                write_json(records.measuring_file(values), known)
                return Outcome("killed", reason="killed by somebody")
            write_json(file, record)
        return Outcome("finished")
