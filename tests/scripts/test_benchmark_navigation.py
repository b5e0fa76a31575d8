import re

import benchmark
import pytest

pytest.importorskip("gymnasium", reason="Gymnasium is not installed")


def test_navigation_on_tiny_sizes(tmp_path):
    output = tmp_path / "table.txt"
    benchmark.main(["--smoke", "--only", "navigation", "--output", str(output)])
    text = output.read_text()
    (batch,) = re.findall(r"│ +2 │ +([\d,]+) │ +([\d.]+) │", text)
    (alone,) = re.findall(r"│ +one by one │ +([\d,]+) │ +([\d.]+) │", text)
    assert float(batch[0].replace(",", "")) > 0 and float(batch[1]) > 0
    assert float(alone[1]) == 1
