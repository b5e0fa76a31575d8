import json

import keras
import keskar_experiment
import keskar_training
import numpy as np
import pytest
import tensorflow as tf
from tiny_network import tiny


def test_the_weights_kept_are_those_that_were_measured(finished, tmp_path):
    trial = tmp_path / "out" / "F1" / "trial-1"
    measured = json.loads((trial / "large.batch-5000.accuracy.json").read_text())
    model = tiny((64,), 10)
    model.load_weights(trial / "large.weights.h5")
    data = keskar_training.load("digits", limit=60)
    for part, x, y in (
        ("train", data.x_train, data.y_train),
        ("test", data.x_test, data.y_test),
    ):
        # Batch statistics of the whole part: it fits into one evaluation batch. No dropout.
        x = model.layers[1](x)
        norm = model.layers[2]
        x = (x - np.mean(x, 0)) / np.sqrt(np.var(x, 0) + norm.epsilon) * norm.gamma.numpy()
        x = x + norm.beta.numpy()
        logits = model.layers[-1](np.maximum(x, 0))
        accuracy = 100 * np.mean(np.argmax(logits, -1) == y)
        assert measured[part] == pytest.approx(accuracy, abs=1e-6)


def test_weights_that_are_gone_are_trained_again(finished, run, tmp_path):
    trial = tmp_path / "out" / "F1" / "trial-1"
    weights = trial / "small.weights.h5"
    model = tiny((64,), 10)
    model.load_weights(weights)
    before = model.get_weights()
    weights.unlink()
    (trial / "small.batch-5000.full-0.001.json").unlink()
    status, printed = run()
    assert status == 0
    assert "1 of 2 trainings and 5 of 10 measurements" in printed
    assert "SB (batch 4): its weights are gone, so it is trained and measured again" in printed
    assert printed[printed.index("Table 2") :] == finished[finished.index("Table 2") :]
    model.load_weights(weights)
    assert all(map(np.array_equal, before, model.get_weights()))


def test_both_regimes_start_from_the_same_weights_and_trials_from_others(run, monkeypatch):
    starts = []

    class Spy(keskar_training.Trainer):
        def __init__(self, model, *args, **kwargs):
            starts.append(np.concatenate([np.ravel(w) for w in model.get_weights()]))
            super().__init__(model, *args, **kwargs)

        def fit(self, *args, **kwargs):
            raise FloatingPointError("not needed here")

    monkeypatch.setattr(keskar_training, "Trainer", Spy)
    run("--trials", "2")
    assert len(starts) == 4
    assert np.array_equal(starts[0], starts[1])
    assert np.array_equal(starts[2], starts[3])
    assert not np.array_equal(starts[0], starts[2])


def test_a_loss_that_is_not_finite_is_a_reason(run, monkeypatch):
    monkeypatch.setattr(keskar_training, "make_optimizer", lambda: keras.optimizers.SGD(1e30))
    status, printed = run("--epochs", "5")
    assert status == 1
    assert "- Not done: F1 trial 1/1 SB (batch 4): " in printed and "learning rate" in printed


def test_a_trial_that_fails_does_not_stop_the_next(run, monkeypatch, tmp_path):
    first = keskar_training.trial_seed(0, 1)

    class Failing(keskar_training.Trainer):
        def fit(self, *args, seed, **kwargs):
            if seed == first:
                raise FloatingPointError("loss is nan in step 7")
            return super().fit(*args, seed=seed, **kwargs)

    monkeypatch.setattr(keskar_training, "Trainer", Failing)
    status, printed = run("--trials", "2")
    assert status == 0
    assert "measured, 1 trial" in printed
    for title in ("SB (batch 4)", "LB (batch 6)"):
        assert f"- Not done: F1 trial 1/2 {title}: loss is nan in step 7" in printed
    assert (tmp_path / "out" / "F1" / "trial-2" / "large.batch-5000.full-0.001.json").exists()


def test_a_measurement_that_fails_does_not_stop_the_rest(finished, run, monkeypatch, tmp_path):
    trial = tmp_path / "out" / "F1" / "trial-1"
    for file in trial.glob("*.batch-5000.*.json"):
        file.unlink()
    measure = keskar_experiment.sharpness
    text = "cannot be computed"
    errors = [ValueError(text), FloatingPointError(text), MemoryError(text)]
    errors += [tf.errors.ResourceExhaustedError(None, None, text)]
    left = iter(errors)

    def failing(objective, *, subspace_dim, **kwargs):
        if subspace_dim is None:
            raise next(left)
        return measure(objective, subspace_dim=subspace_dim, **kwargs)

    monkeypatch.setattr(keskar_experiment, "sharpness", failing)
    status, printed = run()
    assert status == 0 and "2 of 2 trainings and 0 of 10 measurements" in printed
    table = (tmp_path / "out" / "tables-batch.md").read_text()
    for regime, title in (("small", "SB (batch 4)"), ("large", "LB (batch 6)")):
        for epsilon in ("0.001", "0.0005"):
            reason = f"- Not done: F1 trial 1/1 {title}, full-{epsilon}: {text}"
            assert reason in printed and reason in table
            assert not (trial / f"{regime}.batch-5000.full-{epsilon}.json").exists()
            assert (trial / f"{regime}.batch-5000.subspace100-{epsilon}.json").exists()

    monkeypatch.setattr(keskar_experiment, "sharpness", measure)
    again = run()[1]
    assert "2 of 2 trainings and 6 of 10 measurements" in again
    assert "Not done" not in again


def test_batches_that_do_not_fit_the_data_are_a_reason(run):
    # What only the data can tell: digits have 1437 training examples.
    status, printed = run("--limit", "2000", "--small-batch", "150")
    assert status == 1
    assert "- Not done: F1: The large batch must be larger than the small one. " in printed
    assert "Received: 144 (10 % of 1437 training examples) and 150 (--small-batch)" in printed
