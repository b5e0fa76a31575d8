"""Reads job traces in the Standard Workload Format."""

import gzip
import math
import os
import pathlib
import re
import zlib

import numpy as np

from keras_sharp.arguments import optional_integer
from keras_sharp.rl.scheduling.jobs import Jobs

_COLUMNS = 18
_SIZE = re.compile(r";\s*(MaxProcs|MaxNodes)\s*:\s*(\d+)")


def read_swf(path: str | os.PathLike[str], *, processors: int | None = None) -> Jobs:
    """Reads the jobs of a trace of the Parallel Workloads Archive.

    A line is one job: 18 numbers, -1 where one is unknown. Lines that begin with `;` are comments,
    and `; MaxProcs: 256` among them says how large the machine is (`MaxNodes` where that is
    missing). Jobs come out in the order of their submit times.

    A job holds the larger of its allocated and its requested processors. Where no time was
    requested, a scheduler is told the run time. A job whose run time is unknown takes 10 s, and one
    that took no time or no processor is left out, as in the RLScheduler environment.

    Args:
        path: The file, compressed if its name ends in `.gz`.
        processors: Size of the machine. Defaults to what the header says.

    Returns:
        The trace.

    Raises:
        ValueError: If a line is not 18 numbers, a job larger than the machine, its submit time
            negative or its processors no whole number (the message has the line's number),
            nothing says how large the machine is, or the file cannot be decompressed.

    Example:
    ```python
    from keras_sharp.rl import scheduling

    jobs = scheduling.read_swf("lublin_256.swf")
    ```

    References:
        Feitelson, "The Standard Workload Format",
        https://www.cs.huji.ac.il/labs/parallel/workload/swf.html
    """
    path = pathlib.Path(path)
    processors = optional_integer("processors", processors)
    sizes, rows = {}, []
    opened = gzip.open if path.suffix == ".gz" else open
    # Names in comments come in many encodings; in a job no replaced character passes.
    try:
        with opened(path, "rt", encoding="utf-8", errors="replace") as stream:
            lines = stream.readlines()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path.name} must be a whole file compressed by gzip. Received: {error}"
        ) from error
    for number, line in enumerate(lines, start=1):
        if line.lstrip().startswith(";"):
            if size := _SIZE.match(line.lstrip()):
                sizes[size[1]] = int(size[2])
        elif line.strip():
            rows.append([*_numbers(line, f"Line {number} of {path.name}"), number])
    machine = processors or sizes.get("MaxProcs") or sizes.get("MaxNodes")
    if not machine:
        raise ValueError(
            f"{path.name} must say `; MaxProcs:` or `; MaxNodes:`, or `processors` be given. "
            f"Received: processors={processors}"
        )
    if not rows:
        raise ValueError(f"{path.name} must hold jobs. Received: none")
    table = np.array(rows)
    table = table[np.argsort(table[:, 1], kind="stable")]
    run = np.where(table[:, 3] < 0, 10, table[:, 3])
    size = table[:, [4, 7]].max(axis=1)
    kept = (run > 0) & (size > 0)
    table, run, size = table[kept], run[kept], size[kept]
    submit = table[:, 1]
    for wrong, demand, column in (
        (submit < 0, "have a submit time of at least 0", submit),
        (size % 1 > 0, "ask for whole processors", size),
        (
            size > machine,
            f"ask for no more than the machine's {machine} processors, or `processors` be more",
            size,
        ),
    ):
        if wrong.any():
            raise ValueError(
                f"Line {table[wrong.argmax(), -1]:.0f} of {path.name} must {demand}. "
                f"Received: {column[wrong.argmax()]:g}"
            )
    return Jobs.of(machine, submit, run, size, table[:, 8], table[:, [9, 11, 12, 13]])


def _numbers(line: str, where: str) -> list[float]:
    words = line.split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    # Python reads 7_0 as 70.
    if len(numbers) != _COLUMNS or "_" in line or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{where} must be {_COLUMNS} numbers. Received: {line.strip()!r}")
    return numbers
