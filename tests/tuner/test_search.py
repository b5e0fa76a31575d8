"""The search itself, over trainings that take no time (see planted.py)."""

import csv
import json

import pytest
from planted import RATES, Planted, best_rate

from keras_sharp.tuner import coordinator, search
from keras_sharp.tuner.__main__ import main
from keras_sharp.tuner.recommendation import best_by_batch, points_of
from keras_sharp.tuner.records import Records
from keras_sharp.tuner.search_tuner import make_oracle
from keras_sharp.tuner.space import Space


@pytest.fixture
def planted(monkeypatch):
    def use(**arguments):
        fake = Planted(**arguments)
        monkeypatch.setattr(coordinator, "run", fake)
        return fake

    return use


def go(folder, **arguments):
    arguments = {"batch_sizes": [64], "learning_rates": RATES[2:5], "seeds": 2} | arguments
    arguments["verbose"] = 0
    return search(folder=folder, **arguments)


def rows(folder):
    with open(folder / "report" / "trials.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_best_rate_of_each_batch_and_the_largest_batch_within_the_gap(planted, tmp_path):
    fake = planted()
    found = go(tmp_path, max_gap=0.01, batch_sizes=None, largest_batch=512, learning_rates=RATES)
    best = best_by_batch(points_of(Records(tmp_path).trainings(), seeds=2))
    assert {size: point.learning_rate for size, point in best.items()} == {
        size: best_rate(size) for size in (32, 64, 128, 256, 512)
    }
    assert (found.batch_size, found.learning_rate) == (256, 0.04)
    assert found.peak_learning_rate == pytest.approx(0.04 * 8**0.5)
    assert found.accuracy_lost == pytest.approx(0.008)
    assert found.step_speed_up == 32 / 4
    assert len(fake.trained) == 2 * 5 * len(RATES) == len(set(fake.trained))
    # Both seeds of a point are in the table.
    seeds = {row["seed"] for row in rows(tmp_path) if row["batch_size"] == "256"}
    assert seeds == {"0", "1"}


RANDOM = {
    "oracle": "random",
    "max_trials": 12,
    "objective": "accuracy_lost",
    "batch_sizes": [64, 128, 256],
    "learning_rates": RATES,
}


def test_a_search_that_was_stopped_goes_on(planted, tmp_path):
    """Also in the middle of a point: a seed that is finished is not trained again."""
    whole = planted()
    go(tmp_path / "whole", **RANDOM)
    finished = []
    for stop in (1, 2, 5, 8):
        fake = planted(stop_at=stop)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "parts", **RANDOM)
        finished += fake.trained[:-1]
    fake = planted()
    go(tmp_path / "parts", **RANDOM)
    finished += fake.trained
    assert len(finished) == len(set(finished))
    assert set(finished) == set(whole.trained)


@pytest.mark.parametrize("oracle", ["bayesian", "hyperband"])
def test_the_other_oracles_of_keras_tuner(planted, tmp_path, oracle):
    fake = planted()
    arguments = {"oracle": oracle, "learning_rates": None, "learning_rate_range": (0.01, 0.32)}
    arguments |= {"epochs": 9}
    if oracle == "bayesian":
        arguments["max_trials"] = 8
    found = go(tmp_path, **arguments)
    assert found.accuracy > 0.96
    assert not list(tmp_path.rglob("*.checkpoint.npz"))  # nothing will go on with them
    lengths = {name.split(".")[0] for _, name in fake.trained}
    assert lengths == ({"epochs-9"} if oracle == "bayesian" else {f"epochs-{n}" for n in (1, 3, 9)})
    again = planted()
    go(tmp_path, **arguments)
    assert not again.trained


def test_failures_in_a_row_are_not_the_end(planted, tmp_path, capsys):
    planted(fails=lambda values: "it diverged" if values["learning_rate"] != 0.04 else None)
    found = go(tmp_path / "some", learning_rates=RATES)
    assert (found.batch_size, found.learning_rate) == (64, 0.04)
    failed = [row for row in rows(tmp_path / "some") if row["status"] == "failed: it diverged"]
    assert len(failed) == 2 * (len(RATES) - 1)
    again = planted()
    go(tmp_path / "some", learning_rates=RATES, retry_failed=True)
    assert len(again.trained) == 2 * len(failed)

    planted(fails=lambda values: "it diverged")
    with pytest.raises(RuntimeError, match="No point .* was finished.*it diverged"):
        go(tmp_path / "all")
    assert len(rows(tmp_path / "all")) == 2 * 3
    assert main(["search", "--folder", str(tmp_path / "command")]) == 1
    assert "it diverged" in capsys.readouterr().err


def test_a_batch_that_does_not_fit_is_trained_in_parts(planted, tmp_path):
    """With all its seeds, also those that did fit: in parts it is another training."""
    fake = planted(fits=lambda seed: 100 if seed else 512)
    one = {"batch_sizes": [512], "learning_rates": [0.02], "max_gap": 0.05}
    found = go(tmp_path, **one)
    assert fake.parts == [32, 512, 256, 128, 64]
    files = tmp_path.glob("points/batch-512*/*.seed-?.json")
    assert [json.loads(file.read_text())["micro_batch"] for file in files] == [64, 64]
    assert (found.batch_size, found.micro_batch) == (512, 64)
    assert "trained with micro_batch 64" in found.status
    assert "micro_batch 64" in (tmp_path / "report" / "index.html").read_text()
    # One that goes on does so in the same parts, whatever would fit now.
    next(tmp_path.glob("points/batch-512*/*.seed-1.json")).unlink()
    again = planted()
    go(tmp_path, **one)
    assert again.parts == [64]


def test_only_the_measuring_is_done_in_parts_if_the_training_fits(planted, tmp_path):
    fake = planted(measures=100)
    go(tmp_path, batch_sizes=[512], learning_rates=[0.02], seeds=1)
    assert fake.parts == [32] * 5 + [512] * 5 and fake.measured == [1000, 500, 250, 125, 62] * 2


def test_the_grid_gives_each_worker_a_point():
    space = Space(32, [64, 128], [0.1]).for_examples(1000).hyperparameters()
    arguments = {"seed": 0, "max_trials": None, "epochs": 1}
    oracle = make_oracle("grid", "validation_accuracy", space, **arguments)
    oracle._save_trial = oracle.save = lambda *_: None
    trials = [oracle.create_trial(f"tuner{n}") for n in range(4)]
    sizes = [trial.hyperparameters.values.get("batch_size") for trial in trials]
    assert sizes == [32, 64, 128, None] and trials[-1].status == "IDLE"


def test_other_settings_need_another_folder(planted, tmp_path):
    planted()
    go(tmp_path)
    with pytest.raises(ValueError, match="holds another search: epochs was 20 and is now 3"):
        go(tmp_path, epochs=3)
    planted(weights=7)  # the same function by name, with another body
    with pytest.raises(ValueError, match="weights was 1 and is now 7"):
        go(tmp_path)


def test_workers_are_started_without_what_is_done_once(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(
        "keras_sharp.tuner.__main__.supervise", lambda *given: started.append(given) or 0
    )
    failed = tmp_path / "points" / "one" / "epochs-20.failed.json"
    failed.parent.mkdir(parents=True)
    failed.touch()
    words = ["search", "--folder", str(tmp_path), "--seeds", "2"]
    assert main([*words, "--retry-failed", "--workers", "2"]) == 0
    assert not failed.exists()
    ((command, ids),) = started
    assert command[3:] == words and ids == ["chief", "tuner0", "tuner1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"build": "F7"}, "`build` must be one of"),
        ({"build": lambda hp: None}, "`build` must be importable"),
        ({"batch_sizes": []}, "`batch_sizes` must be some"),
        ({"batch_sizes": [2000]}, "a batch of 2000 of 1000 examples"),
        ({"learning_rates": []}, "`learning_rates` must not be empty"),
        ({"learning_rate_range": (0.1, 0.2)}, "must not both be given"),
        ({"optimizer": "rmsprop"}, "`optimizer` must be one of"),
        ({"method": "plain", "scaling": "sqrt"}, "must be left out"),
        ({"epochs": 3, "steps": 30}, "must not both be given"),
        ({"oracle": "random"}, "`max_trials` must be given"),
        ({"objective": "sharpness"}, "`objective` must be one of"),
        ({"max_gap": -1}, "`max_gap` must be"),
        ({"max_gap": 1.5}, "`max_gap` must be a share"),
        ({"gradient": []}, "`gradient` must not be empty"),
        ({"scaling": ()}, "`scaling` must not be empty"),
        ({"gradient": "conservative"}, "`gradient` must be one of"),
        ({"largest_batch": 64}, "must not both be given"),
        ({"limit": -5}, "`limit` must be"),
        ({"limit": 5, "data": (([0], [0]), ([0], [0]))}, "`limit` is for named data"),
        ({"oracle": "hyperband", "max_trials": 3}, "`max_trials` must be left out"),
        ({"seeds": 0}, "`seeds` must be"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_of_no_use(planted, tmp_path, arguments, message):
    fake = planted()
    with pytest.raises(ValueError, match=message):
        go(tmp_path, **arguments)
    assert not fake.trained and not (tmp_path / "points").exists()
