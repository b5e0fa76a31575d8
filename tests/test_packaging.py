import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages_in_the_tree():
    names = set()
    for top, name in (("keras_sharp", "keras_sharp"), ("tuner", "keras_sharp.tuner")):
        for file in (ROOT / top).rglob("__init__.py"):
            names.add(".".join([name, *file.parent.relative_to(ROOT / top).parts]))
    return names


def modules_of(package):
    folder = ROOT / (
        package.replace("keras_sharp.tuner", "tuner").replace(".", "/")
        if package.startswith("keras_sharp.tuner")
        else package.replace(".", "/")
    )
    return {f"{package.replace('.', '/')}/{file.name}" for file in folder.glob("*.py")}


def test_every_package_is_listed():
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages_in_the_tree()


def test_no_folder_of_modules_lacks_an_init():
    for top in ("keras_sharp", "tuner"):
        for file in (ROOT / top).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), file


def test_the_tuner_is_importable_where_it_was_installed():
    spec = importlib.util.find_spec("keras_sharp.tuner")
    assert spec is not None and spec.origin is not None
    assert pathlib.Path(spec.origin).name == "__init__.py"


def test_constraints_pin_every_dependency_and_name_no_address():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(line.count("==") == 1 and "/" not in line and "@" not in line for line in lines)
    pinned = {line.split("==")[0].lower() for line in lines}
    asked = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["test"]
    assert {each.split(">=")[0].lower() for each in asked} <= pinned


@pytest.mark.slow
def test_the_wheel_holds_every_module(tmp_path):
    # A copy: a build leaves its folder behind, and what lies in there gets into the next wheel.
    copy = tmp_path / "copy"
    for top in ("keras_sharp", "tuner"):
        shutil.copytree(ROOT / top, copy / top, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / file).exists():
            shutil.copy(ROOT / file, copy)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--wheel-dir", str(tmp_path), str(copy)),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
        held = {name for name in archive.namelist() if name.endswith(".py")}
    packages = PROJECT["tool"]["setuptools"]["packages"]
    assert held == set().union(*(modules_of(package) for package in packages))

    # From another folder: in the project's root its own keras_sharp/ would come first.
    find = "import importlib.util as u; print(u.find_spec('keras_sharp.tuner').origin)"
    found = subprocess.run(
        [sys.executable, "-c", find],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
    ).stdout.strip()
    assert pathlib.Path(found) == tmp_path / "installed/keras_sharp/tuner/__init__.py"
