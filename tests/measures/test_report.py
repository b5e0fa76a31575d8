"""Reports of several measures against the measures by themselves."""

import io
import json

import keras
import numpy as np
import pytest
import rich.console

from keras_sharp import Objective, sharpness
from keras_sharp.batches import EvaluationBatches
from keras_sharp.measures import report as module
from keras_sharp.measures.noise_scale import noise_scale
from keras_sharp.measures.report import DEFAULT, MEASURES, check_options, choose, measure
from keras_sharp.results.report import Report, converged, error_of, value_of

L = keras.layers


@pytest.fixture
def net():
    keras.utils.set_random_seed(1)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(120, 4)).astype("f4"), random.integers(0, 3, 120)
    model = keras.Sequential([keras.Input((4,)), L.Dense(5), L.BatchNormalization(), L.Dense(3)])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model, (x, y)


@pytest.fixture
def broken(monkeypatch):
    def explode(objective, *, fuse: int = 1, seed=0, verbose=0):
        raise FloatingPointError(f"fuse {fuse} [blown]")

    monkeypatch.setitem(module.MEASURES, "broken", explode)


def same(one, other):
    """Whether two results are equal, but for the time they took."""
    one, other = ({**json.loads(r.to_json()), "seconds": 0} for r in (one, other))
    return one == other


def test_a_report_holds_what_each_measure_returns(net):
    radius = ("sharpness", {"epsilon": 5e-4, "subspace_dim": 3})
    report = measure(
        *net, ["noise_scale", radius, "sharpness"], seed=3, batch_norm="batch", batch_size=30
    )
    function = {"batch_norm": "batch", "batch_size": 30}
    assert same(report["noise_scale"], noise_scale(*net, seed=3, **function))
    small = sharpness(*net, epsilon=5e-4, subspace_dim=3, seed=3, **function)
    assert same(report["sharpness(epsilon=0.0005, subspace_dim=3)"], small)
    assert same(report["sharpness"], sharpness(*net, seed=3, **function))
    assert list(report.results) == [
        "noise_scale",
        "sharpness(epsilon=0.0005, subspace_dim=3)",
        "sharpness",
    ]
    assert report.failures == {} and report.status == "3 of 3 measures succeeded."
    assert report.objective == report["sharpness"].objective


OPTIONS = {
    "sharpness": {"max_iterations": 2},
    "noise_scale": {"small_batch": 10},
    "hessian_eigenvalues": {"k": 2},
    "hessian_trace": {"probes": 10},
    "hessian_density": {"probes": 3, "steps": 5},
    "worst_case_sharpness": {"iterations": 2, "m": 60},
    "average_case_sharpness": {"samples": 3, "m": 60},
}


def test_every_measure_fits_into_a_report(net, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert set(OPTIONS) == set(MEASURES)
    objective, so_far = Objective(*net), []
    report = measure(objective, None, list(OPTIONS.items()), after_each=so_far.append)
    assert report.failures == {} and len(report.results) == len(MEASURES)
    assert Report.from_json(report.to_json()).to_json() == report.to_json()
    assert [len(each.results) for each in so_far] == [*range(1, len(MEASURES) + 1)]
    assert so_far[1].status == f"2 of {len(MEASURES)} measures succeeded, 5 are still to come."
    rows = str(report).replace(" ", "").splitlines()
    for (name, options), together in zip(OPTIONS.items(), report.results.values(), strict=True):
        alone = MEASURES[name](objective, seed=0, verbose=0, **options)
        for number in (value_of, error_of):
            known = number(alone)
            assert number(together) == (known and pytest.approx(known, rel=1e-4))
        assert converged(together) == converged(alone)
        # An error bar or a flag on each of them, which the table shows.
        assert error_of(together) is not None or converged(together) is not None
        [row] = [row for row in rows if row.startswith(f"│{name}(")]
        error = "-" if error_of(together) is None else f"{error_of(together):.2g}"
        assert row.split("│")[3] == error
        assert row.split("│")[4] == {None: "-", False: "no", True: "yes"}[converged(together)]
    eigen = report["hessian_eigenvalues(k=2)"]
    assert error_of(eigen) == eigen.residuals[0] and converged(eigen) is True
    sharp = report["sharpness(max_iterations=2)"]
    assert converged(sharp) == ("converged after" in sharp.status)


def test_options_out_of_range_are_found_without_a_model():
    check_options(choose(list(OPTIONS.items())))
    for name, options in (
        ("sharpness", {"epsilon": -1}),
        ("hessian_trace", {"method": "guess"}),
        ("worst_case_sharpness", {"rho": 0}),
    ):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
            check_options(choose([(name, options)]))


def test_an_objective_is_read_once(net, monkeypatch):
    read = []
    survey = EvaluationBatches._survey
    monkeypatch.setattr(
        EvaluationBatches, "_survey", lambda self: read.append(self) or survey(self)
    )
    measure(*net, ["sharpness", "noise_scale"])
    assert len(read) == 1
    measure(Objective(*net), measures="noise_scale")
    assert len(read) == 2


def test_the_default_measures(net):
    report = measure(Objective(*net))
    assert set(report.results) | set(report.failures) == set(DEFAULT)


def test_a_seed_of_its_own(net):
    report = measure(*net, [("noise_scale", {"seed": 5}), "noise_scale"], seed=2)
    assert [each.seed for each in report.results.values()] == [5, 2]


def test_what_several_measures_begin_with_is_computed_once(net, monkeypatch):
    objective, passes = Objective(*net), []
    over_batches = Objective._over_batches

    def counting(self, function, vector, *arguments, batches=None):
        if batches is None and np.array_equal(vector, np.float32(self.weights)):
            passes.append(function)
        return over_batches(self, function, vector, *arguments, batches=batches)

    monkeypatch.setattr(Objective, "_over_batches", counting)
    several = [
        "noise_scale",
        ("sharpness", {"max_iterations": 1}),
        ("hessian_trace", {"probes": 10}),
    ]
    several += [("worst_case_sharpness", {"m": None, "iterations": 1})]
    report = measure(objective, None, several)
    known = objective._pass.value, objective._pass.gradient
    assert [passes.count(function) for function in known] == [1, 1]
    # The next report may be one of other weights.
    model = net[0]
    model.set_weights([0.5 * weight for weight in model.get_weights()])
    again = measure(objective, None, "noise_scale")["noise_scale"]
    assert again.loss != report["noise_scale"].loss
    assert same(again, noise_scale(objective))


def test_a_failure_is_a_reason_and_the_rest_goes_on(net, broken, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    report = measure(*net, [("broken", {"fuse": 7}), "noise_scale"])
    assert report.failures == {"broken(fuse=7)": "FloatingPointError: fuse 7 [blown]"}
    assert list(report.results) == ["noise_scale"]
    assert report.status == "1 of 2 measures succeeded."
    with pytest.raises(KeyError, match="fuse 7"):
        report["broken(fuse=7)"]
    with pytest.raises(KeyError, match="was not measured"):
        report["sharpness"]
    assert "fuse 7 [blown]" in str(report)


def test_nothing_but_failures_is_an_error(net, broken):
    with pytest.raises(RuntimeError, match=r"No measure succeeded.\nbroken: .*fuse 1") as caught:
        measure(*net, "broken")
    assert isinstance(caught.value.__cause__, FloatingPointError)


def test_json_both_ways(net, broken):
    report = measure(*net, ["broken", "sharpness", "noise_scale"])
    again = Report.from_json(report.to_json())
    assert again == report
    assert type(again["sharpness"]) is type(report["sharpness"])
    entry = json.loads(report.to_json(indent=2))["results"]["noise_scale"]
    assert entry["type"] == "NoiseScaleResult" and entry["value"] == report["noise_scale"].value


@pytest.mark.parametrize("text", ['{"results": {}}', "[]"])
def test_other_json_is_refused(text):
    with pytest.raises(ValueError, match="must be the JSON of a Report"):
        Report.from_json(text)


def test_json_of_an_unknown_type_is_refused(net):
    text = measure(*net, "noise_scale").to_json().replace("NoiseScaleResult", "LoudnessResult")
    with pytest.raises(ValueError, match="Received: 'LoudnessResult'"):
        Report.from_json(text)


def test_the_table(net, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    report = measure(*net, [("noise_scale", {"small_batch": 4}), "sharpness"])
    table = str(report)
    noise = report["noise_scale(small_batch=4)"]
    for shown in (
        "noise_scale(small_batch=4)",
        f"{noise.standard_error:.2g}" if noise.value else "drowns",
        f"{report['sharpness'].value:.4g}",
        "120 examples in batches of 120, batch_norm='inference'",
    ):
        assert shown in table
    assert "\x1b" not in table
    console = rich.console.Console(file=io.StringIO(), width=160)
    console.print(report)
    assert console.file.getvalue().rstrip("\n") == table
    assert "noise_scale" in repr(report) and "2 of 2" in repr(report)


def test_a_result_without_a_value_is_shown_without(net, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    model, (x, _) = net
    model.compile(loss="mse")
    report = measure(model, (x, model.predict(x, verbose=0)), "noise_scale")
    assert value_of(report["noise_scale"]) is None
    assert "not positive" in " ".join(str(report).split())


@pytest.mark.parametrize(
    ("measures", "message"),
    [
        ("loudness", "A measure must be one of .*'sharpness'.*Received: 'loudness'"),
        ([("sharpness", {"epsilom": 1})], r"`sharpness` takes .*'epsilon'.*\['epsilom'\]"),
        ([("sharpness", {"batch_size": 1})], "those of the function are arguments of `measure`"),
        (["sharpness", "sharpness"], "'sharpness' twice"),
        ([("sharpness", 3)], "pairs of a name and a dict"),
        ([7], "pairs of a name and a dict"),
        ([], "`measures` must name a measure"),
    ],
)
def test_bad_measures_are_refused_before_any_work(measures, message):
    with pytest.raises(ValueError, match=message):
        measure(None, None, measures)


def test_measures_may_be_a_dict():
    label, chosen = "sharpness(epsilon=0.05)", ("sharpness", {"epsilon": 0.05})
    assert choose({"sharpness": {"epsilon": 0.05}}) == {label: chosen}


def test_bad_arguments(net):
    with pytest.raises(ValueError, match="`seed`"):
        measure(*net, seed=-1)
    with pytest.raises(ValueError, match="`verbose`"):
        measure(*net, verbose=3)
    with pytest.raises(TypeError, match="Unknown arguments.*sharpness"):
        measure(*net, batch=3)
