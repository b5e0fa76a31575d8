"""What a search has found, printed and written."""

import csv
import io
import json
import os
import pathlib
from typing import Any

import rich.console

from keras_sharp.tuner.figures import png_files
from keras_sharp.tuner.hparams import write_hparams
from keras_sharp.tuner.page import make_page
from keras_sharp.tuner.recommendation import (
    Point,
    Recommendation,
    checked_gap,
    points_of,
    recommend,
)
from keras_sharp.tuner.records import COLUMNS, Records, write_text


def report(
    folder: str | os.PathLike = "runs/search", *, max_gap: float = 0.005, verbose: int = 1
) -> Recommendation:
    """Prints and writes what a search has found, also one that is still at work.

    Writes into `folder/report`: `trials.csv` and `trials.json` with every training of every seed,
    `recommendation.json`, `heat-map.png`, `accuracy.png`, the folder `hparams` for
    `tensorboard --logdir`, and `index.html`, which needs none of the others.

    Args:
        folder: Of the search.
        max_gap: Accuracy that the recommended batch may lose, 0 to 1.
        verbose: 0 prints nothing.

    Returns:
        The recommendation.

    Raises:
        ValueError: If `max_gap` is out of range.
        FileNotFoundError: If there is no search in the folder.
        RuntimeError: If no point was finished; the table is written all the same.
    """
    max_gap = checked_gap(max_gap)
    records = Records(folder)
    config = records.config
    settings = config["settings"]
    trainings, failures = records.trainings(), records.failures()
    rows = [_row(each, "finished") for each in trainings]
    rows += [_row(each, f"failed: {each['reason']}") for each in failures]
    # A search may have gone on with fewer seeds; the tables have all of them.
    counted = [each for each in trainings if each["seed"] in config["seeds"]]
    target = pathlib.Path(folder) / "report"
    target.mkdir(exist_ok=True)
    write_text(target / "trials.csv", _csv(rows))
    write_text(target / "trials.json", json.dumps(rows, indent=2))
    seeds = len(config["seeds"])
    try:
        found = recommend(
            counted,
            failures,
            seeds=seeds,
            base_batch_size=settings["space"]["base_batch_size"],
            max_gap=max_gap,
        )
    except RuntimeError as error:
        reasons = "; ".join(sorted({each["reason"] for each in failures}))
        raise RuntimeError(f"{error}. Failed: {reasons or 'none so far'}") from None
    write_text(target / "recommendation.json", found.to_json(indent=2))
    points = points_of(counted, seeds)
    pictures = png_files(points, found)
    for name, png in pictures.items():
        (target / name).write_bytes(png)
    write_hparams(
        target / "hparams",
        {_run(records, each): each for each in trainings},
    )
    facts = _facts(found, len(failures))
    best_first = sorted(points, key=lambda point: (point.batch_size, -point.accuracy))
    table = [_line(point) for point in best_first]
    page = make_page(
        f"{config['model']} on {settings['data']['name']}: which batch size?",
        facts,
        {
            "Validation accuracy over batch size and learning rate": pictures["heat-map.png"],
            "Validation accuracy of each batch size at its best rate": pictures["accuracy.png"],
        },
        {"Points": table, "Every training": rows},
    )
    write_text(target / "index.html", page)
    if verbose:
        console = rich.console.Console(highlight=False)
        width = max(map(len, facts))
        for name, value in facts.items():
            console.print(f"{name:{width}}  {value}", markup=False, soft_wrap=True)
        console.print(f"All of it: {target / 'index.html'}", markup=False, soft_wrap=True)
    return found


def _facts(found: Recommendation, failed: int) -> dict[str, str]:
    """Returns the recommendation in words."""
    other = ", ".join(
        f"{name} {value}"
        for name, value in found.values.items()
        if name not in ("batch_size", "learning_rate")
    )
    rate = f"{found.learning_rate:.4g} at the base batch"
    if found.peak_learning_rate == found.learning_rate:
        rate = f"{found.learning_rate:.4g}"  # nothing was scaled
    elif found.peak_learning_rate is not None:
        rate = f"{found.peak_learning_rate:.4g}, which is {rate}"
    if found.micro_batch is not None:
        other += f"{', ' if other else ''}micro_batch {found.micro_batch}"
    facts = {
        "recommended batch": str(found.batch_size),
        "learning rate": rate,
        "with": other,
        "what it costs": found.status,
        "validation accuracy": f"{100 * found.accuracy:.2f} %, reference (batch "
        f"{found.reference['values']['batch_size']}) {100 * found.reference['accuracy']:.2f} %",
        "speed-up": f"{found.step_speed_up:.3g} times fewer steps"
        + (f", {found.time_speed_up:.3g} times less time" if found.time_speed_up else ""),
        "points": f"{found.points} finished, {failed} failed",
    }
    if found.test_accuracy is not None:
        facts["test accuracy"] = (
            f"{100 * found.test_accuracy:.2f} %, reference "
            f"{100 * found.reference['test_accuracy']:.2f} %; no part in the choice"
        )
    if found.sharpness is not None:
        other = found.reference["sharpness"]
        known = "unknown" if other is None else f"{other:.4g}"
        facts["sharpness"] = f"{found.sharpness:.4g}, reference {known}; no part in the choice"
    if found.noise_scale:
        facts["noise scale"] = f"{_noise(found.noise_scale)}; of the reference half-way"
    return facts


def _noise(seeds: list[dict[str, Any]]) -> str:
    """Returns the noise scales of all seeds in words."""
    known = [each["value"] for each in seeds if each["value"] is not None]
    if not known:
        return f"unknown. {seeds[0]['status']}"
    ends = dict.fromkeys(f"{end:.0f}" for end in (min(known), max(known)))
    unknown = len(seeds) - len(known)
    of = f", unknown for {unknown} of {len(seeds)} seeds" if unknown else ""
    return f"{' to '.join(ends)} examples{of}"


def _line(point: Point) -> dict[str, Any]:
    return point.values | {
        "micro_batch": point.micro_batch,
        "accuracy (%)": 100 * point.accuracy,
        "± (%)": None if point.error is None else 100 * point.error,
        "gap (%)": 100 * point.gap,
        "sharpness": point.sharpness,
        "steps": point.steps,
        "seconds": point.seconds,
    }


def _run(records: Records, record: dict[str, Any]) -> str:
    file = records.file(record["values"], record["epochs"], record["seed"])
    return f"{file.parent.name}.{file.stem}"


def _row(record: dict[str, Any], status: str) -> dict[str, Any]:
    known = record | {"status": status}
    return record["values"] | {name: known.get(name) for name in COLUMNS}


def _csv(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
