import csv
import json

import compare_decentralized
import decentralized_bias
import decentralized_report
import numpy as np
import pytest
import rich.console
from decentralized_plan import WAYS, Cluster, communication, plan, strays
from decentralized_study import DecentralizedStudy, Restarted
from methods_settings import GRID
from methods_study import Case
from run_progress import Display, Plan

from keras_sharp.training import DSGD, DecentLaM, Simulation, topology
from keras_sharp.training.simulation import descend


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the script; returns its exit status and what it printed."""
    console = lambda: rich.console.Console(width=2000)  # noqa: E731
    monkeypatch.setattr(compare_decentralized, "make_console", console)

    def call(command, *arguments):
        status = compare_decentralized.main([command, "--output", str(tmp_path), *arguments])
        return status, capsys.readouterr().out

    return call


# -- bias ----------------------------------------------------------------------------------------


def test_biases_are_those_of_formulas_and_of_fixed_points(run, monkeypatch, tmp_path):
    for module in (decentralized_bias, decentralized_report):
        monkeypatch.setattr(module, "MOMENTA", (0.0, 0.9))
    status, printed = run("bias", "--steps", "5000")
    assert status == 0
    with open(tmp_path / "bias.csv") as file:
        rows = {(row["method"], row["momentum"]): row for row in csv.DictReader(file)}
    ratios = {key: float(row["ratio_to_DSGD"]) for key, row in rows.items()}
    assert ratios["DmSGD", "0.9"] == pytest.approx(100, rel=0.15)
    assert ratios["DecentLaM", "0.9"] == pytest.approx(1, rel=0.01)
    assert ratios["PmSGD", "0.9"] < 1e-12
    for (method, _), row in rows.items():
        if method != "PmSGD":
            assert float(row["measured"]) == pytest.approx(float(row["fixed_point"]), rel=1e-2)
    assert float(rows["DmSGD", "0.9"]["formula_ratio"]) == pytest.approx(100)
    assert "DecentLaM" in printed and "formula" in (tmp_path / "bias.md").read_text()


# -- plan ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "way"), [("one_peer_exponential", 1), ("ring", 2)])
def test_how_far_nodes_stray(kind, way):
    # Gradients that stay the same, in as many directions as there are nodes, none in the mean.
    nodes, rate = 8, 0.5
    graph = getattr(topology, kind)(nodes)
    h = np.eye(nodes) - 1 / nodes
    ends = [
        descend(DSGD(graph), lambda x: h, np.zeros_like(h), np.full(600 + phase, rate))
        for phase in range(graph.period)
    ]
    ratio = np.mean([(x**2).sum() for x in ends]) / (rate**2 * (h**2).sum())
    assert strays(nodes)[way] == pytest.approx(ratio, rel=1e-6)


def test_strays_grow_as_the_docs_say():
    assert strays(1024)[2] == pytest.approx(1024**3 / 80, rel=0.01)
    assert strays(4096)[1] < 6 and strays(64)[0] == 0
    assert strays(2) == pytest.approx([0, 0, 0])


def test_seconds_in_which_vectors_travel_by_hand():
    cluster = Cluster(step_seconds=1.0, size=100.0, bandwidth=10.0, latency=1.0, rack=4)
    # Flat, 4 nodes: 10 s a vector. Halving sends 1/2 and 1/4, and gathers the same.
    assert communication(cluster, 4) == pytest.approx([2 * (1 + 5 + 1 + 2.5), 11, 21])
    # A rack's uplink takes half of what its nodes send. Hops 1, 2 and 4 of 8 nodes: 1, 2 and all
    # four messages leave a rack of four, the last at half the speed.
    crowded = cluster._replace(oversubscription=2.0)
    halving = 2 * (1 + 5 + 1 + 2.5 + 1 + 2 * 1.25)
    assert communication(crowded, 8) == pytest.approx([halving, 1 + (10 + 10 + 20) / 3, 21])
    # Without latency and with many nodes, parts that go round are twice the vector.
    fast = cluster._replace(latency=0.0)
    assert communication(fast, 4096)[0] == pytest.approx(20, rel=1e-3)


def test_who_wins(run, tmp_path):
    slow = Cluster(step_seconds=0.1, size=1e8, bandwidth=1e9, latency=1e-5, ring_limit=16)
    numbers = [2, 8, 1024]
    assert [row.best for row in plan(slow, numbers)] == [WAYS[0], WAYS[1], WAYS[1]]
    # Nothing to gain where computing takes all the time.
    assert {row.best for row in plan(slow._replace(step_seconds=60.0), numbers)} == {WAYS[0]}
    ring = plan(slow, numbers)[2]
    assert ring.factors[:2] == [1, 1]
    assert ring.factors[2] == pytest.approx((strays(1024)[2] / strays(16)[2]) ** 0.5)
    assert ring.seconds[2] == pytest.approx((0.1 + 0.2 + 1e-5) * ring.factors[2])

    arguments = ["--gigabits", "8", "--latency", "1e-5", "--most-nodes", "8"]
    status, printed = run("plan", *arguments)
    assert status == 0 and "one-peer exponential" in printed
    made = json.loads((tmp_path / "plan.json").read_text())["records"]
    assert [each["nodes"] for each in made] == [2, 4, 8]
    assert made[2]["seconds, ring"] == pytest.approx(0.1 + 0.2 + 1e-5)
    assert (tmp_path / "plan.png").stat().st_size > 1000
    assert run("plan", "--ring-limit", "3")[0] == 2


# -- train ---------------------------------------------------------------------------------------


TINY = ["--limit", "60", "--epochs", "1", "--trials", "1", "--nodes", "4", "--batch-sizes", "4"]


@pytest.fixture
def study():
    def make(*arguments):
        settings = compare_decentralized.parse(["train", *TINY, *arguments])
        display = Display(Plan(), rich.console.Console())
        return DecentralizedStudy("digits", "even", settings, None, display)

    return make


def test_trainings_are_measured(study):
    made = study()
    assert made.steps(Case("DecentLaM", 4)) == 3
    apart = made._trained(Case("DecentLaM", 4), 0.1, 1)
    together = made._trained(Case("PmSGD+LARS", 4), 1.0, 1)
    # The mean of the nodes is in the simulation's model.
    model, (x, y) = made._simulation[1].model, made.parts["test"]
    assert apart["test"] == pytest.approx(100 * (model(x).numpy().argmax(1) == y).mean())
    assert together["test"] == together["mean_of_nodes"]
    assert together["consensus"] == 0 < apart["consensus"]
    assert "not finite" in made._trained(Case("DecentLaM", 4), 1e30, 1)["failed"]


def test_what_is_kept_is_compared_and_not_done_again(run, monkeypatch, tmp_path):
    trained = []

    def pretend(self, case, rate, trial):
        trained.append((self.split, case.method, rate, trial))
        record = {"seconds": 1.0, "consensus": 0.5, "warnings": []}
        if not trial:
            return record | {"validation": 90.0, "validation_loss": 1.0 / rate}
        return record | {"train": 99.0, "test": 95.0 + (self.split == "even"), "mean_of_nodes": 94}

    monkeypatch.setattr(DecentralizedStudy, "_trained", pretend)
    arguments = [*TINY, "--methods", "PmSGD+LARS", "DecentLaM"]
    status, printed = run("train", *arguments)
    assert status == 0, printed
    rates = [0.05 * (4 / 8) ** 0.5 * factor for factor in GRID]
    of_one = [("dirichlet", "DecentLaM", rate, 0) for rate in rates]
    of_one.append(("dirichlet", "DecentLaM", rates[-1], 1))
    assert [each for each in trained if each[0] == "dirichlet"] == of_one
    records = json.loads((tmp_path / "decentralized.json").read_text())["records"]
    # Pooled data know of no split: LARS has one row.
    assert {(each["data"], each["method"]): each["test"] for each in records} == {
        ("digits-even", "PmSGD+LARS"): 96,
        ("digits-even", "DecentLaM"): 96,
        ("digits-dirichlet", "DecentLaM"): 95,
    }
    assert "| DecentLaM | 0.141* | 95.00 |" in (tmp_path / "decentralized.md").read_text()
    assert (tmp_path / "accuracy.png").stat().st_size > 1000
    (tmp_path / "digits-dirichlet" / "trial-1" / "DecentLaM-4.json").unlink()
    trained.clear()
    assert run("train", *arguments)[0] == 0
    assert trained == of_one[-1:]
    with pytest.raises(SystemExit, match="topology was 'ring' and is now 'full'"):
        run("train", *arguments, "--topology", "full")


def test_a_training_that_begins_anew_is_as_the_first(study):
    made = study("--methods", "DecentLaM")
    simulation = Restarted(made.network(), 4, DecentLaM(topology.ring(4)))
    start, ends = simulation.weights.numpy()[0], []
    for rate in (0.1, 0.3, 0.1):
        simulation.restart(start, rate)
        split = np.arange(48).reshape(4, 12)
        Simulation.fit(simulation, made.parts["train"], split, batch_size=4, steps=4)
        ends.append(simulation.weights.numpy())
    np.testing.assert_array_equal(ends[0], ends[2])
    assert np.abs(ends[0] - ends[1]).max() > 1e-3


def test_bytes_that_a_node_sends(study):
    # Of 4 nodes: a ring sends two vectors, a star 3 + 1 + 1 + 1, one-peer hops two and then one.
    for name, sent in (("ring", 2), ("star", 6 / 4), ("one-peer-exponential", 3 / 2)):
        made = study("--topology", name)
        vector = 4 * sum(w.size for w in made.network().get_weights())
        assert made.bytes_per_step(Case("DecentLaM", 4)) == pytest.approx(sent * vector)
        assert made.bytes_per_step(Case("DA-DmSGD", 4)) == pytest.approx(2 * sent * vector)
        assert made.bytes_per_step(Case("PmSGD", 4)) == pytest.approx(1.5 * vector)


def test_batches_and_nodes_that_do_not_fit(run):
    status, printed = run("train", *TINY[:-1], "13")
    assert status == 1 and "4 nodes must have their batches from the 48 examples" in printed
    status, printed = run("train", *TINY, "--nodes", "6", "--topology", "hypercube")
    assert status == 1 and "`nodes` must be a power of two" in printed
