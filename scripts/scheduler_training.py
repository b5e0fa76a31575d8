"""The training of one scheduling policy, which goes on where it stopped."""

import argparse
import contextlib
import dataclasses
import time

import agent_file
import keras
import numpy as np
import tensorflow as tf
from run_folder import RunFolder
from run_progress import Display

from keras_sharp.rl import PPO, play_episodes
from keras_sharp.rl.scheduling import (
    Jobs,
    SchedulingEnvironment,
    filter_sequences,
    kernel_policy,
    sjf_scores,
    value_network,
)
from keras_sharp.rl.scheduling.scores import SCORES

# Of an epoch, in the order in which they are saved.
COLUMNS = ("score", "sjf", "kl", "entropy", "policy_steps", "seconds", "decisions_per_second")
# Settings of `make_agent`.
AGENT = ("learning_rate", "value_learning_rate", "steps_per_epoch", "decay")
MICRO_BATCH = 25  # sequences; a gigabyte of activations where queues are long


def make_agent(
    seed: int,
    *,
    learning_rate: float = 1e-2,
    value_learning_rate: float = 1e-2,
    steps_per_epoch: int = 10,
    decay: float = 0.9,
) -> PPO:
    """Returns new networks with the settings of RLScheduler's code (Zhang et al. 2020).

    Except: its learning rates, 3e-4 and 1e-3, are so low that 80 steps stay far below the limit
    of the policy's change; at 1e-2 an eighth of the steps comes closer. And rewards that come at
    once need no `decay` of 0.97, which adds the noise of thirty later decisions to each.
    """
    keras.utils.set_random_seed(seed)
    return PPO(
        kernel_policy(),
        keras.optimizers.Adam(learning_rate),
        value=value_network(),
        value_optimizer=keras.optimizers.Adam(value_learning_rate),
        discount=1.0,
        decay=decay,
        clip=0.2,
        entropy_weight=0.0,
        epochs=steps_per_epoch,
        minibatches=1,
        kl_limit=0.015,
        normalize_advantages=True,
        micro_batch=MICRO_BATCH,
        seed=seed,
    )


class SchedulerTraining:
    """Trains a policy for one mode of backfilling; every epoch is saved.

    A sequence's rewards are divided by the sum of what the shortest job first scores on it and of
    the mean of this over all sequences: on hard ones, where any choice costs a hundred times what
    it does elsewhere, an improvement by a percent counts little more than on others.

    Args:
        settings: What the command asks for.
        trace: The trace.
        starts: Where the sequences to train on begin.
        mode: Name of the mode.
        backfill: Whether to backfill.
        folder: Where the training is kept.
        display: Where its progress is shown.

    Attributes:
        history: Of every epoch the `COLUMNS`.
    """

    def __init__(
        self,
        settings: argparse.Namespace,
        trace: Jobs,
        starts: np.ndarray,
        mode: str,
        backfill: bool,
        folder: RunFolder,
        display: Display,
    ):
        self.settings, self.trace, self.starts = settings, trace, starts
        self.mode, self.backfill, self.display = mode, backfill, display
        self.history: list[dict[str, float]] = []
        self._file = folder.path("scheduler", 1, mode, "npz")
        self._events = folder.root / "tensorboard" / mode
        chosen = {name: getattr(settings, name) for name in AGENT}
        self._agent = make_agent(settings.seed, **chosen)

    def run(self) -> None:
        """Trains until the last epoch."""
        self.history = agent_file.restore(self._file, self._agent.variables, COLUMNS)
        settings, what, kind = self.settings, f"{self.mode} backfilling", (self.mode, "epoch")
        if len(self.history) > settings.epochs:
            raise SystemExit(
                f"{self._file} is of {len(self.history)} epochs, and --epochs asks for "
                f"{settings.epochs}. Ask for as many or more, or choose another --output."
            )
        self.display.plan.left[kind] = settings.epochs - len(self.history)
        if len(self.history) < settings.epochs:
            try:
                self._train(what, kind)
            except FloatingPointError as error:
                raise SystemExit(
                    f"{what}: {error} Choose a lower --learning-rate, and another --output: "
                    f"{self._file} would lead here again."
                ) from error
        # For whoever wants to use it; the training itself goes on from its own file.
        self._agent.policy.save(self._file.with_name(f"{self.mode}.keras"))

    def _train(self, what: str, kind: tuple[str, str]) -> None:
        settings = self.settings
        self.display.show(what, "the shortest job first on all sequences")
        scores = self._sjf_scores(self.starts)
        if not 0 < scores.mean() < np.inf:
            raise SystemExit(
                f"{what}: with the shortest job first, the mean {settings.score} of the sequences "
                f"is {scores.mean()}, which leaves nothing to learn. Choose another --score or "
                "trace."
            )
        if settings.filter_epochs:
            easy = self._filter(scores)
            self.display.say(
                f"{what}: {len(easy)} of {len(self.starts)} sequences in the first "
                f"{settings.filter_epochs} epochs"
            )
        writer = tf.summary.create_file_writer(str(self._events))
        with contextlib.closing(writer):
            for epoch in range(len(self.history), settings.epochs):
                began = time.perf_counter()
                starts = easy if epoch < settings.filter_epochs else self.starts
                now = self._epoch(epoch, starts, scores)
                self.history.append(now)
                agent_file.save(self._file, self._agent.variables, self.history)
                with writer.as_default(step=epoch + 1):
                    for name, value in now.items():
                        tf.summary.scalar(name, value)
                writer.flush()
                self.display.plan.done(kind, time.perf_counter() - began)
                detail = (
                    f"epoch {epoch + 1}/{settings.epochs}, score {now['score']:.4g} (shortest job "
                    f"first {now['sjf']:.4g}), {now['decisions_per_second']:.0f} decisions/s"
                )
                self.display.show(what, detail, epoch + 1, settings.epochs)

    def scores(self, jobs: Jobs) -> np.ndarray:
        """Returns the score of every sequence if the policy takes what it finds likeliest."""
        environment = self._environment(jobs)
        play_episodes(self._agent, environment, len(jobs))
        return self._score(environment)

    def _epoch(self, epoch: int, starts: np.ndarray, scores: np.ndarray) -> dict[str, float]:
        settings, began = self.settings, time.perf_counter()
        rng = np.random.default_rng([settings.seed, self.backfill, epoch])
        chosen = rng.choice(starts, settings.trajectories)
        environment = self._environment(self.trace.sequences(chosen, settings.length))
        seed = int(rng.integers(2**31))
        rollout = play_episodes(self._agent, environment, settings.length, seed=seed)
        played = time.perf_counter() - began
        sjf = scores[np.searchsorted(self.starts, chosen)]
        rewards = rollout.rewards / (sjf + scores.mean()).astype("float32")[:, None]
        found = self._agent.update(dataclasses.replace(rollout, rewards=rewards))
        values = (
            self._score(environment).mean(),
            sjf.mean(),
            found["kl"],
            found["entropy"],
            found["steps"],
            time.perf_counter() - began,
            rollout.taken.sum() / played,
        )
        return dict(zip(COLUMNS, map(float, values), strict=True))

    def _environment(self, jobs: Jobs) -> SchedulingEnvironment:
        return SchedulingEnvironment(jobs, backfill=self.backfill, score=self.settings.score)

    def _score(self, environment: SchedulingEnvironment) -> np.ndarray:
        compute, _ = SCORES[self.settings.score]
        return compute(environment.simulator.jobs, environment.simulator.starts)

    def _sjf_scores(self, starts: np.ndarray) -> np.ndarray:
        settings = self.settings
        return sjf_scores(
            self.trace, starts, settings.length, backfill=self.backfill, score=settings.score
        )

    def _filter(self, scores: np.ndarray) -> np.ndarray:
        try:
            return filter_sequences(self.starts, scores, *self.settings.filter)
        except ValueError as error:
            raise SystemExit(
                f"--filter lets no sequence pass: {error}. Choose other bounds, or "
                "--filter-epochs 0."
            ) from error
