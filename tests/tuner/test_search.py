"""The search itself, over trainings that take no time (see planted.py)."""

import csv
import json
import math
import sys

import keras_tuner
import pytest
from keras_tuner.engine import trial as trial_module
from keras_tuner.src import protos
from keras_tuner.src.distribute.oracle_chief import OracleServicer, exit_chief
from planted import RATES, Planted, accuracy, best_rate
from tiny_search import two_cpus

from keras_sharp.tuner import coordinator, search
from keras_sharp.tuner.__main__ import main, parser
from keras_sharp.tuner.recommendation import best_by_batch, points_of
from keras_sharp.tuner.records import Records
from keras_sharp.tuner.search_tuner import OBJECTIVES, make_oracle
from keras_sharp.tuner.space import Space


@pytest.fixture
def planted(monkeypatch):
    def use(**arguments):
        fake = Planted(**arguments)
        monkeypatch.setattr(coordinator, "run", fake)
        # They take most of the time, and are tested elsewhere.
        drawn = dict.fromkeys(("heat-map.png", "accuracy.png"), b"")
        module = sys.modules["keras_sharp.tuner.report"]
        monkeypatch.setattr(module, "png_files", lambda *_: drawn)
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


DRAWN = {"learning_rates": None, "learning_rate_range": (0.01, 0.32), "batch_sizes": [64, 128]}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_hyperband_promotes_the_best_by_every_objective(planted, tmp_path, objective):
    """Of planted trainings the gap is smallest, and least is lost, where accuracy is highest."""
    planted()
    go(tmp_path, oracle="hyperband", epochs=9, objective=objective, **DRAWN)
    assert not list(tmp_path.rglob("*.checkpoint.npz"))  # nothing will go on with them
    trained = {epochs: [] for epochs in (1, 3, 9)}
    for each in Records(tmp_path).trainings():
        if each["seed"] == 0:
            trained[each["epochs"]].append(each["values"])
    # Of nine points three go on, and of these one.
    first = sorted(trained[1], key=lambda values: -accuracy(values, 0))
    assert len(first) == 9
    assert [values in trained[3] for values in first] == [True] * 3 + [False] * 6
    assert [values in trained[9] for values in first] == [True] + [False] * 8
    best = max(trained[9], key=lambda values: accuracy(values, 0))
    assert abs(math.log2(best["learning_rate"] / best_rate(best["batch_size"]))) < 0.5


def test_a_length_in_steps(planted, tmp_path):
    planted()
    go(tmp_path, epochs=None, steps=100, batch_sizes=None, largest_batch=512)
    took = {}
    for each in Records(tmp_path).trainings():
        took[each["batch_size"]] = each["epochs"], each["steps"]
        assert each["epochs"] == each["whole_epochs"]
    # Epochs of 32, 16, 8, 4 and 2 steps.
    assert took == {32: (4, 128), 64: (7, 112), 128: (13, 104), 256: (25, 100), 512: (50, 100)}


def test_more_seeds_go_on_with_the_same_search(planted, tmp_path):
    planted()
    go(tmp_path)
    more = planted()
    found = go(tmp_path, seeds=3)
    assert {name for _, name in more.trained} == {"epochs-20.seed-2.json"}
    assert found.points == 6 and found.reference["seeds"] == 3
    fewer = planted()
    found = go(tmp_path)
    assert not fewer.trained and found.points == 6 and found.reference["seeds"] == 2
    assert {row["seed"] for row in rows(tmp_path)} == {"0", "1", "2"}


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


def test_who_is_killed_is_started_again_before_it_is_taken_for_memory(planted, tmp_path):
    one = {"batch_sizes": [512], "learning_rates": [0.02], "seeds": 1, "max_gap": 0.05}
    fake = planted(kills=1)
    go(tmp_path / "once", **one)
    assert fake.parts == [32, 32, 512]
    fake = planted(kills=2)
    go(tmp_path / "twice", **one)
    assert fake.parts == [32, 32, 16, 512]


def test_a_sharpness_for_which_there_is_no_memory_is_all_that_is_lost(planted, tmp_path):
    fake = planted(sharpens=False)
    found = go(tmp_path, batch_sizes=[512], learning_rates=[0.02], max_gap=0.05)
    assert found.batch_size == 512 and found.sharpness is None and found.micro_batch is None
    # Tried again once, with as many examples as were trained at once; then each seed is done with.
    last = [(plan.evaluation, plan.sharpness_batch) for plan in fake.plans[-4:]]
    assert last == [(1000, None), (1000, 512), (1000, 512), (1000, 512)]
    trainings = Records(tmp_path).trainings()
    assert len(trainings) == 4 and all(each["validation_accuracy"] for each in trainings)
    assert {each["sharpness_status"] for each in trainings} == {"killed by somebody"}
    assert not list(tmp_path.rglob("*.checkpoint.npz")) + list(tmp_path.rglob("measuring.json"))


def test_a_chief_ignores_trials_of_the_one_before_it():
    """keras-tuner's keeps its lock over an id it does not know, and waits for ever."""
    space = Space(32, [64], [0.1]).for_examples(1000).hyperparameters()
    chiefs = []
    for _ in range(2):
        oracle = make_oracle(
            "grid", "validation_accuracy", space, seed=0, max_trials=None, epochs=1
        )
        oracle._save_trial = oracle.save = lambda *_: None
        oracle.verbose = 0
        chiefs.append(OracleServicer(oracle))

    def ask(chief):
        request = protos.get_service().CreateTrialRequest(tuner_id="tuner0")
        return chief.CreateTrial(request, None).trial

    def report(chief, trial, value):
        chief.GetTrial(protos.get_service().GetTrialRequest(trial_id=trial.trial_id), None)
        metrics = {"validation_accuracy": value}
        update = protos.get_service().UpdateTrialRequest(trial_id=trial.trial_id, metrics=metrics)
        chief.UpdateTrial(update, None)
        done = trial_module.Trial.from_proto(trial)
        done.status = "COMPLETED"
        chief.EndTrial(protos.get_service().EndTrialRequest(trial=done.to_proto()), None)

    before, chief = chiefs
    old = ask(before)
    report(chief, old, 0.1)  # unknown
    new = ask(chief)
    report(chief, old, 0.2)  # known, but for the mark: the first trial of both
    report(chief, new, 0.9)
    report(chief, ask(chief), 0.8)
    assert trial_module.Trial.from_proto(ask(chief)).status == "STOPPED"
    assert exit_chief(chief.oracle)
    assert [trial.score for trial in chief.oracle.get_best_trials(3)] == pytest.approx([0.9, 0.8])


def test_the_grid_gives_each_worker_a_point():
    space = Space(32, [64, 128], [0.1]).for_examples(1000).hyperparameters()
    arguments = {"seed": 0, "max_trials": None, "epochs": 1}
    oracle = make_oracle("grid", "validation_accuracy", space, **arguments)
    oracle._save_trial = oracle.save = lambda *_: None
    trials = [oracle.create_trial(f"tuner{n}") for n in range(4)]
    sizes = [trial.hyperparameters.values.get("batch_size") for trial in trials]
    assert sizes == [32, 64, 128, None] and trials[-1].status == "IDLE"


class Hyper(keras_tuner.HyperModel):
    def build(self, hp):
        raise AssertionError("The parent builds no model.")


def test_a_hyper_model_goes_by_its_own_name(planted, tmp_path):
    planted()
    go(tmp_path, build=Hyper())
    assert Records(tmp_path).config["settings"]["build"] == f"{__name__}.Hyper"


def test_other_settings_need_another_folder(planted, tmp_path):
    planted()
    go(tmp_path)
    with pytest.raises(ValueError, match="holds another search: epochs was 20 and is now 3"):
        go(tmp_path, epochs=3)
    planted(weights=7)  # the same function by name, with another body
    with pytest.raises(ValueError, match="weights was 1 and is now 7"):
        go(tmp_path)
    planted(layers={"0 Dropout": {"rate": 0.2}})
    with pytest.raises(ValueError, match="layer 0 Dropout was None and is now {'rate': 0.2}"):
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
    assert (
        parser().parse_args(["search", "--strategy", "tiny_search:two_cpus"]).strategy is two_cpus
    )


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
        ({"strategy": "mirrored"}, "`strategy` must be an importable function"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_of_no_use(planted, tmp_path, arguments, message):
    fake = planted()
    with pytest.raises(ValueError, match=message):
        go(tmp_path, **arguments)
    assert not fake.trained and not (tmp_path / "points").exists()


def test_bayesian_learns_from_what_it_has_tried(planted, tmp_path, monkeypatch):
    fake, random = planted(), []
    kind = keras_tuner.oracles.BayesianOptimizationOracle
    draw = kind._random_populate_space
    monkeypatch.setattr(
        kind, "_random_populate_space", lambda self: random.append(None) or draw(self)
    )
    go(tmp_path, oracle="bayesian", max_trials=8, seeds=1, **DRAWN)
    # Half of them are drawn, as two entries of the space have several values.
    assert len(random) == 4 and len(fake.trained) == 1 + 8
    points = points_of(Records(tmp_path).trainings(), seeds=1)
    best = max(points, key=lambda point: point.accuracy)
    assert abs(math.log2(best.learning_rate / best_rate(best.batch_size))) < 0.5
