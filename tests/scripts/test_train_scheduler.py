import dataclasses
import json
import statistics

import keras
import numpy as np
import pytest
import tensorflow as tf
import train_scheduler
from scheduler_training import make_agent

from keras_sharp.rl import play_episodes
from keras_sharp.rl.scheduling import (
    Jobs,
    SchedulingEnvironment,
    heuristics,
    lublin_feitelson,
    read_swf,
    schedule,
    scores,
)

TINY = ["--jobs", "150", "--length", "12", "--trajectories", "4", "--pool", "20"]
TINY += ["--sequences", "3", "--filter-epochs", "1", "--backfilling", "with"]


@pytest.fixture
def run(tmp_path, capsys):
    def call(folder, *arguments):
        output = tmp_path / folder
        bounds = [] if "--filter" in arguments else ["--filter", "0", "1e9"]
        status = train_scheduler.main([*TINY, *bounds, *arguments, "--output", str(output)])
        return status, capsys.readouterr().out, output

    return call


def test_a_stopped_training_goes_on_as_if_it_had_not_been(run):
    for epochs in ("1", "2"):
        status, printed, output = run("stopped", "--epochs", epochs)
        assert status == 0
    for name in ("FCFS", "SJF", "WFP3", "UNICEP", "F1", "F2", "F3", "F4", "learned"):
        assert name in printed
    assert "not trained" in printed and "lower is better" in printed
    _, _, straight = run("straight", "--epochs", "2")
    found = [
        json.loads((each / "table-bounded_slowdown.json").read_text())
        for each in (output, straight)
    ]
    for one, other in zip(*(each["training"]["with"] for each in found), strict=True):
        timed = {"seconds", "decisions_per_second"}
        assert {name: one[name] for name in one if name not in timed} == {
            name: other[name] for name in other if name not in timed
        }
    assert found[0]["scores"] == found[1]["scores"]
    assert set(found[0]["scores"]["SJF"]) == {"with", "without"}
    learned, sjf = (np.array(found[0]["scores"][name]["with"]) for name in ("learned", "SJF"))
    text = (output / "table-bounded_slowdown.md").read_text()
    paired = text.partition("Learned less each rule")[2].partition("| SJF | ")[2].splitlines()[0]
    cells = dict(zip(("without", "with"), paired.split(" | "), strict=True))
    error = statistics.stdev(learned - sjf) / 3**0.5
    assert cells["with"].strip(" |") == f"{np.mean(learned - sjf):+.2f} ± {error:.2f}"
    assert len(found[0]["scores"]["learned"]["with"]) == 3
    keras.saving.load_model(output / "scheduler" / "trial-1" / "with.keras")
    files = sorted((output / "tensorboard" / "with").glob("events*"))
    events = [event for file in files for event in tf.compat.v1.train.summary_iterator(str(file))]
    shown = {
        event.step: tf.make_ndarray(value.tensor).item()
        for event in events
        for value in event.summary.value
        if value.tag == "score"
    }
    history = [each["score"] for each in found[0]["training"]["with"]]
    assert shown == {1: np.float32(history[0]), 2: np.float32(history[1])}
    with pytest.raises(SystemExit, match="with.npz is of 2 epochs, and --epochs asks for 1"):
        run("stopped", "--epochs", "1")


def test_any_swf_file(run, tmp_path):
    jobs, file = lublin_feitelson(150, seed=4), tmp_path / "x.swf"
    columns = zip(jobs.submit, jobs.run, jobs.processors, strict=True)
    lines = [
        f"{number} {submit:.0f} -1 {run:.0f} {size} -1 -1 -1 {run + 60:.0f} -1 1 1 1 1 1 1 -1 -1"
        for number, (submit, run, size) in enumerate(columns, start=1)
    ]
    file.write_text("\n".join(["; MaxProcs: 256", *lines]))
    command = ["swf", "--trace", str(file), "--epochs", "1"]
    status, _, output = run(*command)
    assert status == 0
    made = json.loads((output / "table-bounded_slowdown.json").read_text())
    sequences = read_swf(file).sequences(made["sequences"], 12)
    for mode, backfill in (("without", False), ("with", True)):
        starts = schedule(sequences, heuristics.sjf, backfill=backfill)
        expected = scores.bounded_slowdown(sequences, starts)
        np.testing.assert_array_equal(made["scores"]["SJF"][mode], expected)
    assert len(made["scores"]["learned"]["with"]) == 3
    # Another trace of the same name, length and machine.
    file.write_text(file.read_text().replace(" 1 1 1 1 1 1 ", " 1 1 2 1 1 1 ", 1))
    with pytest.raises(SystemExit, match="contents was"):
        run(*command)


def test_it_learns_that_the_shortest_job_goes_first():
    # Each takes the whole machine, and all come at once: no order is better.
    run = 10 ** np.random.default_rng(0).uniform(1, 4, 64 * 12)
    trace = Jobs.of(4, np.zeros(len(run)), run, np.full(len(run), 4))
    jobs = trace.sequences(np.arange(0, len(run), 12), 12)
    best = scores.bounded_slowdown(jobs, schedule(jobs, heuristics.sjf))
    agent, environment = make_agent(0), SchedulingEnvironment(jobs)

    def over_the_best():
        play_episodes(agent, environment, 12)
        found = scores.bounded_slowdown(jobs, environment.simulator.starts)
        return found.mean() / best.mean()

    assert over_the_best() > 3
    for update in range(8):
        rollout = play_episodes(agent, environment, 12, seed=update)
        rewards = rollout.rewards / best.astype("float32")[:, None]
        agent.update(dataclasses.replace(rollout, rewards=rewards))
    assert over_the_best() < 1.1


def test_what_is_of_no_use(run, tmp_path):
    with pytest.raises(SystemExit, match="A fifth of the trace's 150 jobs must hold"):
        run("a", "--length", "40")
    with pytest.raises(SystemExit, match="--filter lets no sequence pass"):
        run("b", "--filter", "1e8", "1e9")
    with pytest.raises(SystemExit, match="There is no trace"):
        run("c", "--trace", str(tmp_path / "none.swf"))
