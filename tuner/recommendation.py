"""What the records of a search come to."""

import collections
import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

from keras_sharp.arguments import not_negative
from keras_sharp.results import Result


@dataclasses.dataclass(frozen=True)
class Point:
    """All trainings of one point of the space, for the whole length.

    Attributes:
        values: What was searched: the batch size, the rate at the base batch and so on.
        seeds: Number of trainings.
        micro_batch: Examples a replica processed at once, all seeds alike. None: no limit.
        accuracy: Mean validation accuracy, 0 to 1.
        error: Its standard error over seeds; None for one seed.
        test_accuracy: Mean, or None without test data.
        gap: Mean of training minus validation accuracy, both measured in the same way.
        sharpness: Mean, or None where it was not measured.
        peak_learning_rate: The highest rate of a training, scaled to its batch; None where it was
            decided meanwhile, or not alike for all seeds.
        steps: Of one training.
        seconds: Mean, without tracing and measuring.
    """

    values: dict[str, Any]
    seeds: int
    micro_batch: int | None
    accuracy: float
    error: float | None
    test_accuracy: float | None
    gap: float
    sharpness: float | None
    peak_learning_rate: float | None
    steps: int
    seconds: float | None

    @property
    def batch_size(self) -> int:
        """Examples in a global batch."""
        return self.values["batch_size"]

    @property
    def learning_rate(self) -> float:
        """The rate at the base batch."""
        return self.values["learning_rate"]


@dataclasses.dataclass(frozen=True)
class Recommendation(Result):
    """The largest batch that costs no accuracy, as far as a search can tell.

    Attributes:
        batch_size: The batch size.
        learning_rate: Its rate at the base batch, which is what was searched.
        peak_learning_rate: What the scaling rule makes of it at this batch; None where the method
            decides it while it trains.
        values: All values of the point: optimizer, scaling and so on.
        micro_batch: Examples a replica processed at once, for want of memory. None: no limit.
        accuracy: Mean validation accuracy, 0 to 1.
        accuracy_lost: That of the reference minus this one.
        accuracy_lost_error: Standard error of the difference; None for one seed.
        test_accuracy: Mean, or None. It played no part in the choice.
        reference: The best point of the smallest batch, in the form of `Point`.
        step_speed_up: Steps of the reference over steps of this point.
        time_speed_up: The same of seconds; None where they are not known.
        sharpness: Mean over seeds, or None. It played no part in the choice.
        noise_scale: Of the reference half-way: for each seed its `value` in examples, above which
            batches waste some, or None; its standard `error`; and a `status`.
        max_gap: Accuracy that might be lost.
        points: Number of points that were trained for the whole length.
        points_by_batch: The same of each batch size; the names are its digits.
        status: A sentence.
    """

    batch_size: int
    learning_rate: float
    peak_learning_rate: float | None
    values: dict[str, Any]
    micro_batch: int | None
    accuracy: float
    accuracy_lost: float
    accuracy_lost_error: float | None
    test_accuracy: float | None
    reference: dict[str, Any]
    step_speed_up: float
    time_speed_up: float | None
    sharpness: float | None
    noise_scale: list[dict[str, Any]]
    max_gap: float
    points: int
    points_by_batch: dict[str, int]
    status: str


def checked_gap(max_gap: float) -> float:
    """Returns the accuracy that may be lost.

    Raises:
        ValueError: If it is not between 0 and 1.
    """
    if not_negative("max_gap", max_gap) > 1:
        raise ValueError(
            "`max_gap` must be a share of the examples, at most 1 (0.005 is half a point). "
            f"Received: max_gap={max_gap}"
        )
    return float(max_gap)


def points_of(trainings: list[dict[str, Any]], seeds: int) -> list[Point]:
    """Returns the points of which all seeds are trained for the whole length.

    Args:
        trainings: Records.
        seeds: Number of trainings of a point.
    """
    groups = collections.defaultdict(list)
    for each in trainings:
        if each["epochs"] == each["whole_epochs"]:
            groups[json.dumps(each["values"], sort_keys=True)].append(each)
    return [_point(group) for group in groups.values() if len(group) == seeds]


def best_by_batch(points: list[Point]) -> dict[int, Point]:
    """Returns for each batch size, in their order, the point of the highest accuracy."""
    best: dict[int, Point] = {}
    for point in points:
        known = best.get(point.batch_size)
        if known is None or point.accuracy > known.accuracy:
            best[point.batch_size] = point
    return dict(sorted(best.items()))


def recommend(
    trainings: list[dict[str, Any]],
    failures: Sequence[dict[str, Any]] = (),
    *,
    seeds: int,
    base_batch_size: int,
    max_gap: float,
) -> Recommendation:
    """Returns the largest batch whose best point loses at most `max_gap` of accuracy.

    It loses against the best point of the base batch. On a whole grid both are the best of as many
    points; where they are not, which favours the batch with more of them, the status says so.

    Args:
        trainings: Records.
        failures: Points that failed.
        seeds: Number of trainings of a point.
        base_batch_size: The small batch.
        max_gap: Accuracy that may be lost, 0 to 1.

    Raises:
        RuntimeError: If no point is finished.
    """
    points = points_of(trainings, seeds)
    if not points:
        raise RuntimeError("No point of the search was finished, so there is nothing to recommend")
    best = best_by_batch(points)
    smallest = min(best)
    reference = best[smallest]
    lost = {size: reference.accuracy - point.accuracy for size, point in best.items()}
    size = max(size for size in best if _within(lost[size], max_gap))
    point = best[size]
    error = None
    if size != smallest and None not in (point.error, reference.error):
        error = math.hypot(point.error, reference.error)
    counts = collections.Counter(each.batch_size for each in points)
    failed = {each["values"]["batch_size"] for each in failures} - best.keys()
    seconds = None
    if reference.seconds and point.seconds:
        seconds = reference.seconds / point.seconds
    return Recommendation(
        batch_size=size,
        learning_rate=point.learning_rate,
        peak_learning_rate=point.peak_learning_rate,
        values=point.values,
        micro_batch=point.micro_batch,
        accuracy=point.accuracy,
        accuracy_lost=lost[size],
        accuracy_lost_error=error,
        test_accuracy=point.test_accuracy,
        reference=dataclasses.asdict(reference),
        step_speed_up=reference.steps / point.steps,
        time_speed_up=seconds,
        sharpness=point.sharpness,
        noise_scale=[
            {
                "seed": each["seed"],
                "value": each["noise_scale"],
                "error": each["noise_scale_error"],
                "status": each["noise_scale_status"],
            }
            for each in trainings
            if each["noise_scale_status"] is not None
        ],
        max_gap=max_gap,
        points=len(points),
        points_by_batch={str(size): counts[size] for size in best},
        status=" ".join(
            _choice(best, lost, size, base_batch_size, max_gap, error)
            + _doubts(best, size, counts, sorted(failed))
        ),
    )


def _within(lost: float, max_gap: float) -> bool:
    # A difference of means of shares is a little off what it is by hand.
    return lost <= max_gap + 1e-9


def _choice(
    best: dict[int, Point],
    lost: dict[int, float],
    size: int,
    base: int,
    max_gap: float,
    error: float | None,
) -> list[str]:
    smallest, sentences = min(best), []
    if smallest != base:
        sentences.append(
            f"No point of the base batch {base} was finished: batch {smallest} stands in for it."
        )
    if size == smallest:
        sentences.append(f"No larger batch came within {100 * max_gap:g} points of accuracy.")
    else:
        spread = "" if error is None else f" ± {100 * error:.2f}"
        verb = "loses" if lost[size] >= 0 else "gains"
        sentences.append(
            f"Batch {size} {verb} {100 * abs(lost[size]):.2f}{spread} points of validation "
            f"accuracy against batch {smallest}, each at the best of its learning rates."
        )
        if error is None:
            sentences.append("One seed says nothing of its error: more `seeds` do.")
        elif not _within(lost[size] + 2 * error, max_gap):
            sentences.append("More seeds are needed to be sure that this is within the limit.")
    between = [e for e in best if smallest < e < size and not _within(lost[e], max_gap)]
    if between:
        sentences.append(f"Smaller batches lost more: {', '.join(map(str, between))}.")
    return sentences


def _doubts(
    best: dict[int, Point], size: int, counts: dict[int, int], failed: list[int]
) -> list[str]:
    sentences = []
    larger = [each for each in failed if each > size]
    if larger:
        sentences.append(f"Of larger batches every point failed: {', '.join(map(str, larger))}.")
    elif size == max(best) and len(best) > 1:
        sentences.append("It is the largest batch tried.")
    if best[size].micro_batch is not None:
        sentences.append(
            f"It was trained with micro_batch {best[size].micro_batch}, as it did not fit into "
            "memory at once."
        )
    if len({counts[each] for each in best}) > 1:
        each = ", ".join(f"{counts[each]} of batch {each}" for each in best)
        sentences.append(f"Not as many points were finished of each, which is unfair: {each}.")
    return sentences


def _point(group: list[dict[str, Any]]) -> Point:
    accuracies = [each["validation_accuracy"] for each in group]
    error = None
    if len(group) > 1:
        error = statistics.stdev(accuracies) / math.sqrt(len(group))
    peaks = {each["peak_learning_rate"] for each in group}
    return Point(
        values=group[0]["values"],
        seeds=len(group),
        micro_batch=group[0]["micro_batch"],
        accuracy=statistics.fmean(accuracies),
        error=error,
        test_accuracy=_mean(group, "test_accuracy"),
        gap=_mean(group, "generalization_gap"),
        sharpness=_mean(group, "sharpness"),
        peak_learning_rate=peaks.pop() if len(peaks) == 1 else None,
        steps=group[0]["steps"],
        seconds=_mean(group, "seconds"),
    )


def _mean(group: list[dict[str, Any]], name: str) -> float | None:
    values = [each[name] for each in group]
    return None if None in values else statistics.fmean(values)
