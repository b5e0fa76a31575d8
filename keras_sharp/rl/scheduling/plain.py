"""The simulator once more, one sequence in plain Python: what it means, and how fast that is."""

import bisect
import math
from collections.abc import Callable

from keras_sharp.rl.scheduling.jobs import Jobs


def plain_schedule(
    jobs: Jobs, rule: Callable[[float, float, int, float], float], *, backfill: bool = False
) -> list[float]:
    """Returns when every job starts; what `schedule` does, event by event.

    Args:
        jobs: One sequence: a trace or a part of it.
        rule: Takes `(submit, requested, processors, now)` of one job; the lowest goes first.
        backfill: Whether other jobs may start while the chosen one waits.
    """
    submit, run = jobs.submit.tolist(), jobs.run.tolist()
    requested, processors = jobs.requested.tolist(), jobs.processors.tolist()
    starts = [math.inf] * len(submit)
    now, free, arrived = submit[0], jobs.machine, 0
    queue: list[int] = []
    running: list[tuple[float, int]] = []

    def launch(job: int) -> None:
        nonlocal free
        starts[job] = now
        free -= processors[job]
        queue.remove(job)
        bisect.insort(running, (now + run[job], job))

    def next_event() -> None:
        nonlocal now, free, arrived
        next_submit = submit[arrived] if arrived < len(submit) else math.inf
        now = max(now, min(next_submit, running[0][0] if running else math.inf))
        while running and running[0][0] <= now:
            free += processors[running.pop(0)[1]]
        while arrived < len(submit) and submit[arrived] <= now:
            queue.append(arrived)
            arrived += 1

    def expected_fit(needed: int) -> float:
        available = free
        for end, job in sorted((starts[job] + requested[job], job) for _, job in running):
            available += processors[job]
            if available >= needed:
                return end
        raise AssertionError("no job is larger than the machine")

    while arrived < len(submit) or queue:
        while not queue:
            next_event()
        chosen = min(queue, key=lambda job: rule(submit[job], requested[job], processors[job], now))
        reserved = -math.inf
        if backfill and processors[chosen] > free:
            reserved = expected_fit(processors[chosen])
        while processors[chosen] > free:
            for job in list(queue):
                if processors[job] <= free and now + requested[job] < reserved:
                    launch(job)
            next_event()
        launch(chosen)
    return starts
