import re

import benchmark
import benchmark_scheduling
import numpy as np

from keras_sharp.rl.scheduling import lublin_feitelson


def test_every_job_is_a_decision_without_backfilling():
    jobs = lublin_feitelson(80, seed=1).sequences([0, 40], 40)
    assert benchmark_scheduling.stepped(jobs, backfill=False) == 80
    assert benchmark_scheduling.stepped(jobs, backfill=True) < 80


def test_rates_by_hand():
    assert benchmark_scheduling.cells(np.array([3000, 1000]), np.array([500, 500])) == (
        "2,000",
        "4",
    )


def test_scheduling_on_tiny_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_scheduling, "LENGTH", 20)
    output = tmp_path / "table.txt"
    benchmark.main(["--smoke", "--only", "scheduling", "--output", str(output)])
    text = output.read_text()
    for mode in ("without", "with"):
        assert re.search(rf"│ {mode} +│ plain Python +│ +[\d,]+ │ +1 │", text)
        (cells,) = re.findall(rf"│ {mode} +│ 2 +│(.*)", text)
        assert all(float(each.replace(",", "")) > 0 for each in cells.strip("│").split("│"))
