import functools
import re

import benchmark
import benchmark_cases
import benchmark_navigation
import pointnav_settings
import pytest

from keras_sharp.rl.navigation import PointGoalEnvironment

pytest.importorskip("gymnasium", reason="Gymnasium is not installed")


def test_the_sizes_that_are_asked_for():
    assert benchmark_cases.FULL.environments == (1, 64, 1024) and benchmark_cases.FULL.image == 64


@pytest.mark.slow
def test_navigation_on_tiny_sizes(tmp_path, monkeypatch):
    plain = functools.partial(PointGoalEnvironment, jit_compile=False)
    for module in (benchmark_navigation, pointnav_settings):  # XLA would take seconds
        monkeypatch.setattr(module, "PointGoalEnvironment", plain)
    output = tmp_path / "table.txt"
    benchmark.main(["--smoke", "--only", "navigation", "--output", str(output)])
    text = output.read_text()
    (batch,) = re.findall(r"│ +2 │ +([\d,]+) │ +([\d.]+) │", text)
    (alone,) = re.findall(r"│ +one by one │ +([\d,]+) │ +([\d.]+) │", text)
    assert float(batch[0].replace(",", "")) > 0 and float(batch[1]) > 0
    assert float(alone[1]) == 1
    parts = re.findall(r"│ +(?:simulate|learn) │ +([\d,.]+) │ +(\d+)% │", text)
    assert len(parts) == 2 and all(float(each[0].replace(",", "")) > 0 for each in parts)
    assert re.search(r"│ +infer │.*│ +all │ +[\d,.]+ │ +[\d,]+ frames a second │", text, re.DOTALL)
