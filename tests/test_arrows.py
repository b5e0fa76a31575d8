"""Who may import whom, read off the import statements."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# A room is a module at the top of keras_sharp, or a package, with the rooms it may import from.
ARROWS = {
    "version": set(),
    "progress": set(),
    "results": set(),
    "networks": set(),
    "datasets": set(),
    "weights": set(),
    "arguments": set(),
    "hashing": set(),
    "labelled": set(),
    "tracing": set(),
    "batches": {"arguments", "hashing", "labelled"},
    "losses": set(),
    "normalization": set(),
    "accuracy": set(),
    "workers": set(),
    "fingerprint": {"hashing"},
    "batch_pass": {"accuracy", "batches", "losses", "normalization", "tracing", "weights"},
    "rounds": {"batch_pass", "batches", "hashing", "workers"},
    "objective": {
        "batch_pass",
        "batches",
        "labelled",
        "losses",
        "normalization",
        "rounds",
        "tracing",
        "weights",
        "workers",
    },
    "function_arguments": {"objective"},
    "measures": {
        "arguments",
        "function_arguments",
        "objective",
        "progress",
        "results",
        "version",
        "workers",
    },
    "training": {
        "arguments",
        "fingerprint",
        "hashing",
        "labelled",
        "losses",
        "tracing",
        "workers",
    },
    "landscape": {
        "arguments",
        "fingerprint",
        "function_arguments",
        "hashing",
        "normalization",
        "objective",
        "progress",
        "results",
        "version",
        "weights",
    },
    "plots": {"results"},
    "callbacks": {
        "arguments",
        "function_arguments",
        "measures",
        "normalization",
        "objective",
        "results",
        "schedules",
        "weights",
        "workers",
    },
    "layers": set(),
    "optimizers": set(),
    "schedules": set(),
    "rl": {"arguments", "tracing"},
    "large_batch": {
        "arguments",
        "callbacks",
        "layers",
        "optimizers",
        "schedules",
        "training",
    },
    "tuner": {
        "arguments",
        "callbacks",
        "datasets",
        "fingerprint",
        "hashing",
        "large_batch",
        "measures",
        "networks",
        "normalization",
        "objective",
        "optimizers",
        "plots",
        "results",
        "schedules",
        "training",
        "version",
        "weights",
    },
    "__init__": {
        "callbacks",
        "datasets",
        "landscape",
        "large_batch",
        "layers",
        "measures",
        "networks",
        "objective",
        "optimizers",
        "plots",
        "results",
        "schedules",
        "training",
        "version",
    },
}


def files():
    for file in sorted((ROOT / "keras_sharp").rglob("*.py")):
        parts = file.relative_to(ROOT / "keras_sharp").with_suffix("").parts
        yield parts[0], file
    for file in sorted((ROOT / "tuner").rglob("*.py")):
        yield "tuner", file


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            if node.module == "keras_sharp":
                yield from (f"keras_sharp.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize(
    ("room", "file"), list(files()), ids=lambda value: str(getattr(value, "name", value))
)
def test_imports_follow_the_arrows(room, file):
    names = list(imported(file))
    # Without the package in front it would be a second copy of every class.
    assert not any(name.split(".")[0] == "tuner" for name in names)
    rooms = {name.split(".")[1] for name in names if name.startswith("keras_sharp.")}
    assert rooms - {room} <= ARROWS[room]


def test_tensorflow_s_keras_is_not_used():
    for folder in ("keras_sharp", "tuner", "scripts"):
        for file in (ROOT / folder).rglob("*.py"):
            assert "tf.keras" not in file.read_text(), file


def test_every_room_exists():
    rooms = {room for room, _ in files()}
    assert rooms == set(ARROWS)
