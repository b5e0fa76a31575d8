import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_example_runs(tmp_path):
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    number, printed = done.stdout.splitlines()[-2:]
    assert float(number.split()[0]) > 0
    assert printed.startswith("SharpnessResult(") and "random subspace of 100" in printed
    assert "batch_norm='batch'" in printed


def test_commands_name_files_that_are_there():
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
    assert "pip install -c constraints.txt -e . && python scripts/reproduce_table.py" in commands
    assert "pip install -c constraints.txt -e '.[test]' && pytest" in commands
    named = re.findall(r"(?:scripts/\w+\.py|constraints\.txt)", README)
    assert {"scripts/benchmark.py", "scripts/compare_solvers.py"} <= set(named)
    assert all((ROOT / name).is_file() for name in named)
