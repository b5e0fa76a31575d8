"""What keras-sharp costs, as ratios to its floor, each measured side by side in one run.

    python scripts/benchmark.py                      everything
    python scripts/benchmark.py --only sharpness     one of the tables
    python scripts/benchmark.py --smoke              tiny sizes, to see that it runs

Machines are noisy: every figure is the median of several rounds in which the contenders take turns.
The images are random numbers in the shape of the data named; how long a step takes does not depend
on what they show. What does not fit into the memory that is free is left out, and says so.
"""

import argparse
import os
import pathlib
import platform

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import rich.console
import tensorflow as tf
from benchmark_cases import FULL, SMOKE
from benchmark_measures import curvature, sharpness
from benchmark_memory import eigenpair_memory, memory, subspace_memory
from benchmark_methods import optimizers, rules
from benchmark_navigation import learning, navigation
from benchmark_scheduling import scheduling
from benchmark_training import training

import keras_sharp

TABLES = {
    "training": [training],
    "sharpness": [sharpness],
    "curvature": [curvature],
    "methods": [rules, optimizers],
    "memory": [memory, eigenpair_memory, subspace_memory],
    "navigation": [navigation, learning],
    "scheduling": [scheduling],
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--output", type=pathlib.Path, help="also write the tables to this file")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: no figure means anything")
    settings = parser.parse_args(arguments)
    sizes = SMOKE if settings.smoke else FULL
    tables = [table(sizes) for name in settings.only for table in TABLES[name]]
    recorder = rich.console.Console(record=True, width=120)
    for table in tables:
        recorder.print(table)
    recorder.print(
        f"Medians of rounds; {os.cpu_count()} cores, {platform.machine()}; TensorFlow "
        f"{tf.__version__}, Keras {keras.__version__}, keras-sharp {keras_sharp.__version__}"
    )
    if settings.output:
        settings.output.write_text(recorder.export_text())


if __name__ == "__main__":
    main()
