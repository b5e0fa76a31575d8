"""The README and the docs say what is so: examples run, files and links are there."""

import os
import pathlib
import re
import subprocess
import sys

import keras
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import keras_sharp

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_example_runs(tmp_path):
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path, "XLA_FLAGS": ""},  # as users have it
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    number, printed = done.stdout.splitlines()[-2:]
    assert float(number.split()[0]) > 0
    assert "random subspace of 100" in printed and "batch_norm='batch'" in printed
    losses = [
        [
            float(loss)
            for loss in re.search(
                r"^SharpnessResult\(\S+ loss (\S+) -> (\S+) ", text, re.M
            ).groups()
        ]
        for text in (printed, README)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_commands_name_files_that_are_there():
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
    assert "pip install -c constraints.txt -e . && python scripts/reproduce_table.py" in commands
    assert "pip install -c constraints.txt -e '.[test]' && pytest" in commands
    named = re.findall(r"(?:scripts/\w+\.py|constraints\.txt)", README)
    assert {"scripts/benchmark.py", "scripts/compare_solvers.py"} <= set(named)
    assert all((ROOT / name).is_file() for name in named)


@pytest.mark.parametrize("page", ["measures", "landscape", "methods", "navigation", "scheduling"])
def test_the_examples_of_the_docs_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(60, 4)).astype("f4"), random.integers(0, 3, 60)
    layers = keras.layers
    models = [
        keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(5),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Dense(3),
            ]
        )
        for _ in range(2)
    ]
    for each in models:
        each.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    known = {"keras_sharp": keras_sharp, "model": models[0], "x": x, "y": y}
    known |= {"small_batch": models[0], "large_batch": models[1], "x_test": x, "y_test": y}
    for example in re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL
    ):
        exec(example, known)
    plt.close("all")


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page}: {link}"
