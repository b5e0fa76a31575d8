"""Job scheduling as a task to learn: many sequences in step with each other."""

import numpy as np

from keras_sharp.arguments import integer, one_of
from keras_sharp.rl.scheduling.jobs import Jobs
from keras_sharp.rl.scheduling.scores import SCORES
from keras_sharp.rl.scheduling.simulator import Simulator

# A wait is shown as a share of twelve hours, and no share reaches 1.
_LONGEST_WAIT = 12 * 3600
_BELOW_ONE = 1 - 1e-5
_EMPTY = np.array([0, 1, 1, 1, 1, 1, 1, 0], "float32")


class SchedulingEnvironment:
    """Sequences of jobs, one decision a step in each, seen through a window on the queue.

    An observation is a pair `(features, mask)`:

    - `features`, `(sequences, queue, 8)` float32: the jobs that wait, in the order in which they
      came. Eight numbers each: the wait over 12 hours; the six of `Jobs.features`; 1 - 1e-5 if the
      job fits right now, else 1e-5. An empty slot is `[0, 1, 1, 1, 1, 1, 1, 0]`.
    - `mask`, `(sequences, queue)` bool: which slots hold a job.

    If more jobs wait than there are slots, the list of the shortest requested times and the list of
    the fewest processors are read alternately, without repetition, until all slots are taken.

    The rewards of an episode add up to the mean score of its jobs, negative where less is better.
    After every step this sum is what the score would be if each job that has not started did so
    at once, or as it comes: a reward is what the choice has cost for certain, at the moment at
    which it does.

    An episode is one sequence. Without backfilling all end in the same step; with it some end
    before others. A sequence that has ended shows an empty queue, ignores choices and gives no
    reward. `reset(jobs)` begins with other sequences.

    Note:
        The RLScheduler environment rewards the last step alone, with the same sum. It reads a
        third list, random by its comments, which by an oversight repeats the first.

    Args:
        jobs: Sequences of jobs, `Jobs.sequences`.
        backfill: Whether other jobs may start while the chosen one waits; see `Simulator`.
        score: What an episode is worth: a name in `scores.SCORES`.
        queue: Slots of the window.

    Attributes:
        simulator: The `Simulator` behind it.

    Example:
    ```python
    environment = SchedulingEnvironment(jobs.sequences(starts, 256))
    features, mask = environment.reset()
    while mask.any():
        choices = mask.argmax(axis=1)  # the job that came first
        (features, mask), reward, done = environment.step(choices)
    ```

    References:
        Zhang et al. 2020, "RLScheduler", SC20.
    """

    def __init__(
        self,
        jobs: Jobs,
        *,
        backfill: bool = False,
        score: str = "bounded_slowdown",
        queue: int = 128,
    ):
        self.backfill = backfill
        self.queue = integer("queue", queue)
        self.score = one_of("score", score, sorted(SCORES))
        self.reset(jobs)

    def reset(self, jobs: Jobs | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Begins anew, with the same sequences or with others, and returns what is seen."""
        self.simulator = Simulator(
            self.simulator.jobs if jobs is None else jobs, backfill=self.backfill
        )
        self._certain = np.zeros(len(self.simulator.now))
        return self._observe()

    def step(
        self, choices: np.ndarray
    ) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
        """Starts the job in one slot of every sequence, as soon as it fits.

        Args:
            choices: `(sequences,)` integers, slots.

        Returns:
            The observation; `(sequences,)` float64 rewards; `(sequences,)` bool, which episodes
            are over.

        Raises:
            ValueError: If a slot of a sequence that goes on is empty or does not exist.
        """
        over = self.simulator.done
        choices = np.asarray(choices)
        exists = (choices >= 0) & (choices < self.queue)
        slots = np.where(exists, choices, 0)[:, None]
        jobs = np.take_along_axis(self._jobs, slots, axis=1)[:, 0]
        wrong = ~over & ~(exists & (jobs >= 0))
        if wrong.any():
            row = wrong.argmax()
            raise ValueError(
                "`choices` must be slots that hold a job. Received: "
                f"choices[{row}]={choices[row]}, which does not"
            )
        self.simulator.start(jobs)
        before, self._certain = self._certain, self._certain_score()
        return self._observe(), self._certain - before, self.simulator.done

    def _certain_score(self) -> np.ndarray:
        score, sign = SCORES[self.score]
        simulator, jobs = self.simulator, self.simulator.jobs
        soonest = np.maximum(simulator.now[:, None], jobs.submit)
        starts = np.where(np.isinf(simulator.starts), soonest, simulator.starts)
        certain = sign * score(jobs, starts)
        # While no time has passed the utilization is infinite, and no difference is a number.
        return np.where(np.isfinite(certain) | simulator.done, certain, 0)

    def _observe(self) -> tuple[np.ndarray, np.ndarray]:
        waiting = self._shown()
        rows, jobs = np.nonzero(waiting)
        counts = waiting.sum(axis=1)
        slots = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._jobs = np.full((len(counts), self.queue), -1)
        self._jobs[rows, slots] = jobs
        simulator, trace = self.simulator, self.simulator.jobs
        wait = (simulator.now[rows] - trace.submit[rows, jobs]) / _LONGEST_WAIT
        fits = trace.processors[rows, jobs] <= simulator.free[rows]
        features = np.tile(_EMPTY, (len(counts), self.queue, 1))
        features[rows, slots, 0] = np.minimum(wait, _BELOW_ONE)
        features[rows, slots, 1:7] = trace.features[rows, jobs]
        features[rows, slots, 7] = np.where(fits, _BELOW_ONE, 1e-5)
        return features, self._jobs >= 0

    def _shown(self) -> np.ndarray:
        waiting = self.simulator.waiting
        long = waiting.sum(axis=1) > self.queue
        if long.any():
            jobs = self.simulator.jobs
            shortest = _ranks(np.where(waiting, jobs.requested, np.inf)[long])
            smallest = _ranks(np.where(waiting, jobs.processors, np.inf)[long])
            turn = _ranks(np.minimum(2 * shortest, 2 * smallest + 1))
            waiting[long] = turn < self.queue
        return waiting


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values, axis=1, kind="stable"), axis=1)
