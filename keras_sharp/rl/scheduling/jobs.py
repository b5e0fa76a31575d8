"""The jobs of a trace, or of many sequences cut from it."""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np

from keras_sharp.arguments import integer


@dataclasses.dataclass(frozen=True)
class Jobs:
    """Rigid jobs in the order in which they were submitted.

    A job holds its processors from its start until it ends, and is never moved or interrupted.
    `Jobs.of` makes them; a trace has the shape `(n,)`, sequences cut from it `(sequences, n)`.

    Attributes:
        machine: Processors of the whole machine.
        submit: `(..., n)` float64, seconds, never decreasing along the last axis.
        run: `(..., n)` float64, seconds the job really takes; positive.
        requested: `(..., n)` float64, seconds its user asked for, all that a scheduler may know
            before the job ends; positive.
        processors: `(..., n)` int64, from 1 to `machine`.
        features: `(..., n, 6)` float32, what a policy sees of a job that time does not change:
            requested time over the longest run time in the trace, processors over the machine's,
            then memory, user, group and executable over the largest number in the trace. All are
            kept below 1, and are 1 where the trace does not say.
    """

    machine: int
    submit: np.ndarray
    run: np.ndarray
    requested: np.ndarray
    processors: np.ndarray
    features: np.ndarray

    @classmethod
    def of(
        cls,
        machine: int,
        submit: Sequence[float],
        run: Sequence[float],
        processors: Sequence[int],
        requested: Sequence[float] | None = None,
        identity: Sequence[Sequence[float]] | None = None,
    ) -> Self:
        """Makes a trace of its columns.

        Args:
            machine: Processors of the whole machine.
            submit: `(n,)` seconds, never decreasing.
            run: `(n,)` seconds.
            processors: `(n,)` whole numbers.
            requested: `(n,)` seconds; where it is not positive, and by default, the run time.
            identity: `(n, 4)` memory, user, group and executable; -1 where unknown. Defaults to
                nothing known.

        Raises:
            ValueError: If there are no jobs, the columns differ in length, a time is not finite,
                submit times decrease, or a job needs no time, no processor, or more processors
                than there are.
        """
        machine = integer("machine", machine)
        submit = np.asarray(submit, "float64")
        run = np.asarray(run, "float64")
        whole = np.asarray(processors, "float64")
        processors = whole.astype("int64")
        given = np.full(len(submit), -1.0) if requested is None else np.asarray(requested, float)
        known = np.full((len(submit), 4), -1.0) if identity is None else np.asarray(identity, float)
        if not len(submit):
            raise ValueError("There must be jobs. Received: none")
        if known.shape != (len(submit), 4):
            raise ValueError(
                f"`identity` must be ({len(submit)}, 4), of each job. Received: {known.shape}"
            )
        if not submit.shape == run.shape == processors.shape == given.shape:
            raise ValueError(
                "All columns must have one length. Received: "
                f"{submit.shape}, {run.shape}, {processors.shape}, {given.shape}"
            )
        requested = np.where(given > 0, given, run)
        _refuse("a submit time that is not finite", ~np.isfinite(submit))
        _refuse("a submit time before that of the job ahead", np.diff(submit, prepend=-np.inf) < 0)
        _refuse("a run time that is not positive and finite", ~((run > 0) & (run < np.inf)))
        _refuse("a requested time that is not finite", ~np.isfinite(given))
        _refuse("part of a processor", whole != processors)
        _refuse("less than one processor", processors < 1)
        _refuse(f"more processors than the machine's {machine}", processors > machine)
        columns = np.column_stack([requested, processors, known])
        largest = [run.max(), machine, *known.max(axis=0)]
        shares = np.ones_like(columns)
        np.divide(columns, largest, out=shares, where=(columns >= 0) & (np.asarray(largest) > 0))
        shares = np.where(columns < 0, 1, np.minimum(shares, 1 - 1e-5))
        return cls(machine, submit, run, requested, processors, shares.astype("float32"))

    def __len__(self) -> int:
        return self.submit.shape[-1]

    def sequences(self, starts: Sequence[int], length: int) -> Self:
        """Cuts sequences of consecutive jobs from a trace, as `(sequences, length)`.

        Args:
            starts: Number of each sequence's first job, counted from 0.
            length: Jobs in each.

        Raises:
            ValueError: If these are sequences already, `starts` are no integers, or a sequence is
                not within the trace.
        """
        length = integer("length", length)
        starts = np.asarray(starts)
        if self.submit.ndim != 1:
            raise ValueError("Sequences must be cut from a trace. Received: sequences")
        if starts.ndim != 1 or not len(starts) or starts.dtype.kind not in "iu":
            raise ValueError(f"`starts` must be a list of integers. Received: starts={starts}")
        starts = starts.astype("int64")
        if starts.min() < 0 or starts.max() + length > len(self):
            raise ValueError(
                f"Sequences must lie within the trace's {len(self)} jobs. Received: "
                f"{length} jobs from {starts.min()} to {starts.max()}"
            )
        jobs = starts[:, None] + np.arange(length)
        return dataclasses.replace(
            self,
            submit=self.submit[jobs],
            run=self.run[jobs],
            requested=self.requested[jobs],
            processors=self.processors[jobs],
            features=self.features[jobs],
        )


def _refuse(what: str, wrong: np.ndarray) -> None:
    if wrong.any():
        raise ValueError(f"No job may have {what}. Received: job {wrong.argmax()}, counted from 0")
