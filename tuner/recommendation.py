"""What the records of a search come to."""

import collections
import dataclasses
import json
import math
import statistics
from typing import Any

from keras_sharp.results import Result


@dataclasses.dataclass(frozen=True)
class Point:
    """All trainings of one point of the space, for the whole length.

    Attributes:
        values: What was searched: the batch size, the rate at the base batch and so on.
        seeds: Number of trainings.
        accuracy: Mean validation accuracy, 0 to 1.
        error: Its standard error over seeds; None for one seed.
        test_accuracy: Mean, or None without test data.
        gap: Mean of training minus validation accuracy, both measured in the same way.
        sharpness: Mean, or None where it was not measured.
        peak_learning_rate: The highest rate of a training, scaled to its batch; None where it was
            decided meanwhile.
        steps: Of one training.
        seconds: Mean, without tracing and measuring.
    """

    values: dict[str, Any]
    seeds: int
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
        accuracy: Mean validation accuracy, 0 to 1.
        accuracy_lost: That of the reference minus this one.
        accuracy_lost_error: Standard error of the difference; None for one seed.
        test_accuracy: Mean, or None. It played no part in the choice.
        reference: The best point of the smallest batch, in the form of `Point`.
        step_speed_up: Steps of the reference over steps of this point.
        time_speed_up: The same of seconds; None where they are not known.
        sharpness: Mean over seeds, or None. It played no part in the choice.
        noise_scale: Of the reference half-way, in examples: batches far above it waste examples.
            None where it could not be measured.
        max_gap: Accuracy that might be lost.
        points: Number of points that were trained for the whole length.
        status: A sentence.
    """

    batch_size: int
    learning_rate: float
    peak_learning_rate: float | None
    values: dict[str, Any]
    accuracy: float
    accuracy_lost: float
    accuracy_lost_error: float | None
    test_accuracy: float | None
    reference: dict[str, Any]
    step_speed_up: float
    time_speed_up: float | None
    sharpness: float | None
    noise_scale: float | None
    max_gap: float
    points: int
    status: str


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
    trainings: list[dict[str, Any]], *, seeds: int, base_batch_size: int, max_gap: float
) -> Recommendation:
    """Returns the largest batch whose best point loses at most `max_gap` of accuracy.

    It loses against the best point of the base batch, of which as many were tried: equal chances.

    Args:
        trainings: Records.
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
    size = max(size for size in best if lost[size] <= max_gap)
    point = best[size]
    error = None
    if size != smallest and None not in (point.error, reference.error):
        error = math.hypot(point.error, reference.error)
    scales = [t["noise_scale"] for t in trainings if t.get("noise_scale") is not None]
    seconds = None
    if reference.seconds and point.seconds:
        seconds = reference.seconds / point.seconds
    return Recommendation(
        batch_size=size,
        learning_rate=point.learning_rate,
        peak_learning_rate=point.peak_learning_rate,
        values=point.values,
        accuracy=point.accuracy,
        accuracy_lost=lost[size],
        accuracy_lost_error=error,
        test_accuracy=point.test_accuracy,
        reference=dataclasses.asdict(reference),
        step_speed_up=reference.steps / point.steps,
        time_speed_up=seconds,
        sharpness=point.sharpness,
        noise_scale=statistics.fmean(scales) if scales else None,
        max_gap=max_gap,
        points=len(points),
        status=_status(best, lost, size, base_batch_size, max_gap, error),
    )


def _status(
    best: dict[int, Point],
    lost: dict[int, float],
    size: int,
    base: int,
    max_gap: float,
    error: float | None,
) -> str:
    smallest, sentences = min(best), []
    if smallest != base:
        sentences.append(
            f"No point of the base batch {base} was finished: batch {smallest} stands in for it."
        )
    if size == smallest:
        sentences.append(f"No larger batch came within {100 * max_gap:g} points of accuracy.")
    else:
        spread = "" if error is None else f" ± {100 * error:.2f}"
        sentences.append(
            f"Batch {size} loses {100 * lost[size]:.2f}{spread} points of validation accuracy "
            f"against batch {smallest}, each at the best of its learning rates."
        )
        if error is not None and lost[size] + 2 * error > max_gap:
            sentences.append("More seeds are needed to be sure that this is within the limit.")
    between = [each for each in best if smallest < each < size and lost[each] > max_gap]
    if between:
        sentences.append(f"Smaller batches lost more: {', '.join(map(str, between))}.")
    if size == max(best) and len(best) > 1:
        sentences.append("It is the largest batch tried.")
    return " ".join(sentences)


def _point(group: list[dict[str, Any]]) -> Point:
    accuracies = [each["validation_accuracy"] for each in group]
    error = None
    if len(group) > 1:
        error = statistics.stdev(accuracies) / math.sqrt(len(group))
    return Point(
        values=group[0]["values"],
        seeds=len(group),
        accuracy=statistics.fmean(accuracies),
        error=error,
        test_accuracy=_mean(group, "test_accuracy"),
        gap=_mean(group, "generalization_gap"),
        sharpness=_mean(group, "sharpness"),
        peak_learning_rate=group[0]["peak_learning_rate"],
        steps=group[0]["steps"],
        seconds=_mean(group, "seconds"),
    )


def _mean(group: list[dict[str, Any]], name: str) -> float | None:
    values = [each[name] for each in group]
    return None if None in values else statistics.fmean(values)
