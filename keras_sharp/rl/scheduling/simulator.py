"""Many machines at once, each working off its own sequence of jobs."""

import bisect

import numpy as np

from keras_sharp.rl.scheduling.jobs import Jobs


class Simulator:
    """Exact event simulation of many sequences of jobs, in step with each other.

    Whoever decides picks one waiting job a sequence. If it does not fit, time passes until it does,
    so a choice is a reservation, and then it starts. Decisions take no time: the next one sees the
    same second, unless nothing waits; then time passes until the next job is submitted. At an
    instant, jobs end before others start.

    With `backfill`, other waiting jobs may start while the chosen one waits. When it is chosen, the
    moment at which it would fit is computed from the *requested* times of the running jobs. Until
    it starts, at every instant at which a job ends or is submitted, the waiting jobs are gone
    through in the order of their submit times, and each starts that fits and whose requested time
    ends before that moment. If none runs for longer than requested, the chosen job starts by then.

    Note:
        The original EASY backfilling also starts jobs that end later and leave enough processors
        to the chosen one; the RLScheduler environment, and so this one, does not.

    Args:
        jobs: Sequences of jobs, `Jobs.sequences`.
        backfill: Whether to backfill.

    Raises:
        ValueError: If `jobs` is a trace.

    Attributes:
        jobs: The sequences.
        now: `(sequences,)` float64, seconds.
        free: `(sequences,)` int64, idle processors.
        starts: `(sequences, n)` float64, seconds; infinite for a job that has not started.

    References:
        Zhang et al. 2020, "RLScheduler", SC20.
        Mu'alem & Feitelson 2001, "Utilization, Predictability, Workloads, and User Runtime
        Estimates in Scheduling the IBM SP2 with Backfilling", IEEE TPDS 12(6).
    """

    def __init__(self, jobs: Jobs, *, backfill: bool = False):
        if jobs.submit.ndim != 2:
            raise ValueError(
                "`jobs` must be sequences, `jobs.sequences(starts, length)`. Received: arrays of "
                f"shape {jobs.submit.shape}"
            )
        count, length = jobs.submit.shape
        self.jobs = jobs
        self.backfill = backfill
        self.now = jobs.submit[:, 0].copy()
        self.free = np.full(count, jobs.machine)
        self.starts = np.full((count, length), np.inf)
        self._arrived = np.zeros(count, "int64")
        self._started = np.zeros(count, "int64")
        # `(sequences, n + 1, _NEXT)`: the next jobs, and after the last one some that never come.
        submit = np.pad(jobs.submit, [(0, 0), (0, _NEXT)], constant_values=np.inf)
        self._next = np.lib.stride_tricks.sliding_window_view(submit, _NEXT, axis=1)
        # Running jobs of each sequence, in any order: when it ends, when it should end by its
        # requested time, and its processors.
        self._running = _places(count, 16)
        self._let_arrive(np.arange(count))

    @property
    def waiting(self) -> np.ndarray:
        """`(sequences, n)` bool, which jobs have been submitted and have not started."""
        return (np.arange(len(self.jobs)) < self._arrived[:, None]) & np.isinf(self.starts)

    @property
    def done(self) -> np.ndarray:
        """`(sequences,)` bool, in which sequences every job has started."""
        return self._started == len(self.jobs)

    def start(self, choices: np.ndarray) -> None:
        """Starts one waiting job of every sequence that is not done, as soon as it fits.

        Args:
            choices: `(sequences,)` integers, number of the job in its sequence; ignored in those
                that are done.

        Raises:
            ValueError: If a chosen job does not wait.
        """
        rows = np.flatnonzero(~self.done)
        chosen = np.asarray(choices)[rows]
        waits = (chosen >= 0) & (chosen < self._arrived[rows])
        waits[waits] = np.isinf(self.starts[rows[waits], chosen[waits]])
        if not waits.all():
            wrong = waits.argmin()
            raise ValueError(
                "`choices` must be jobs that wait. Received: "
                f"choices[{rows[wrong]}]={chosen[wrong]}, which does not"
            )
        needed = self.jobs.processors[rows, chosen]
        waits = needed > self.free[rows]
        if self.backfill and waits.any():
            self._backfill(rows[waits], needed[waits])
            waits = needed > self.free[rows]
        if waits.any():
            self._wait_until_fit(rows[waits], needed[waits])
        self._launch(rows, chosen)
        idle = rows[(self._started == self._arrived)[rows] & ~self.done[rows]]
        if idle.size:
            self._pass_time(idle, self.jobs.submit[idle, self._arrived[idle]])

    def _wait_until_fit(self, rows: np.ndarray, needed: np.ndarray) -> None:
        ends, _, held = self._running[:, rows]
        self._pass_time(rows, self._freed(rows, needed, ends, held))

    def _backfill(self, rows: np.ndarray, needed: np.ndarray) -> None:
        """Starts other jobs while the chosen ones wait; where there are any, until it fits."""
        _, expected, held = self._running[:, rows]
        reserved = self._freed(rows, needed, expected, held)
        # Of all jobs, also those not submitted yet, few end in time: one row after the other is
        # faster than all in step, where one with hundreds to start would hold up the others.
        earliest = np.maximum(self.now[rows, None], self.jobs.submit[rows])
        short = np.isinf(self.starts[rows])
        short &= earliest + self.jobs.requested[rows] < reserved[:, None]
        for place in np.flatnonzero(short.any(axis=1)):
            self._fill(rows[place], needed[place], reserved[place], np.flatnonzero(short[place]))
        self._let_arrive(rows)

    def _fill(self, row: int, needed: int, reserved: float, short: np.ndarray) -> None:
        jobs = self.jobs
        columns = (jobs.submit, jobs.run, jobs.requested, jobs.processors)
        columns = [short.tolist(), *(each[row, short].tolist() for each in columns)]
        waiting = list(zip(*columns, strict=True))
        now, free = float(self.now[row]), int(self.free[row])
        running = self._running[:, row]
        running = sorted(running[:, np.isfinite(running[0])].T.tolist())
        while free < needed:
            for job in list(waiting):
                number, submit, run, requested, processors = job
                begin = max(now, submit)
                if begin >= running[0][0]:
                    break
                if processors <= free and begin + requested < reserved:
                    now = begin
                    free -= processors
                    bisect.insort(running, [begin + run, begin + requested, processors])
                    self.starts[row, number] = begin
                    self._started[row] += 1
                    waiting.remove(job)
            now = running[0][0]
            while running and running[0][0] <= now:
                free += int(running.pop(0)[2])
        self.now[row], self.free[row] = now, free
        self._make_room(len(running))
        self._running[:, row] = _EMPTY[:, 0]
        if running:
            self._running[:, row, : len(running)] = np.transpose(running)

    def _freed(
        self, rows: np.ndarray, needed: np.ndarray, ends: np.ndarray, held: np.ndarray
    ) -> np.ndarray:
        """Returns when, if nothing else starts, `needed` processors will be free."""
        order = np.argsort(ends, axis=1)
        freed = self.free[rows, None] + np.cumsum(np.take_along_axis(held, order, axis=1), axis=1)
        each, last = np.arange(len(rows)), (freed < needed[:, None]).sum(axis=1)
        return ends[each, order[each, last]]

    def _pass_time(self, rows: np.ndarray, until: np.ndarray) -> None:
        self.now[rows] = until
        which, places = np.nonzero(self._running[0, rows] <= until[:, None])
        which = rows[which]
        np.add.at(self.free, which, self._running[2, which, places].astype("int64"))
        self._running[:, which, places] = _EMPTY[:, 0]
        self._let_arrive(rows)

    def _let_arrive(self, rows: np.ndarray) -> None:
        while rows.size:
            came = (self._next[rows, self._arrived[rows]] <= self.now[rows, None]).sum(axis=1)
            self._arrived[rows] += came
            rows = rows[came == _NEXT]

    def _launch(self, rows: np.ndarray, chosen: np.ndarray) -> None:
        now, held = self.now[rows], self.jobs.processors[rows, chosen]
        self.starts[rows, chosen] = now
        self.free[rows] -= held
        self._started[rows] += 1
        end, expected = now + self.jobs.run[rows, chosen], now + self.jobs.requested[rows, chosen]
        # What ends last is an empty place, if there is one.
        places = self._running[0].argmax(axis=1)[rows]
        full = np.isfinite(self._running[0, rows, places])
        if full.any():
            places[full] = self._running.shape[2]
            self._make_room(self._running.shape[2] + 1)
        self._running[:, rows, places] = end, expected, held

    def _make_room(self, number: int) -> None:
        while self._running.shape[2] < number:
            room = _places(len(self.now), self._running.shape[2])
            self._running = np.concatenate([self._running, room], axis=2)


_EMPTY = np.array([np.inf, np.inf, 0])[:, None, None]
_NEXT = 8  # jobs of which it is seen at once whether they have come


def _places(count: int, number: int) -> np.ndarray:
    return np.tile(_EMPTY, (1, count, number))
