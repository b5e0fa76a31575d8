"""The training of one navigation policy, which goes on where it stopped."""

import argparse
import contextlib
import time

import agent_file
import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from pointnav_settings import make_agent, make_environment
from run_folder import RunFolder
from run_progress import Display

from keras_sharp.measures.noise_scale import unbiased
from keras_sharp.rl.collector import Collector, Moment
from keras_sharp.rl.navigation import PointGoalEnvironment
from keras_sharp.rl.rollout import Rollout

# Of an update, in the order in which they are saved. `seconds` are all until then; of this update
# are those of playing, of which simulating has a share that is measured now and then, and learning.
COLUMNS = (
    *("frames", "seconds", "play", "simulate", "learn"),
    *("episodes", "success", "spl", "reward"),
    *("policy_loss", "value_loss", "entropy", "kl", "clipped", "learning_rate"),
    *("noise_trace", "noise_square"),
)
_REPORTED = ("policy_loss", "value_loss", "entropy", "kl", "clipped")
_LATELY = 20  # updates that a figure on the screen is the mean of


class PointNavTraining:
    """Trains a policy, and saves it now and then, with all that its future depends on.

    A training that was stopped goes on as if it had not been.

    Args:
        settings: What the command asks for.
        environments: Number of environments.
        optimizer: A name in `pointnav_settings.RATES`.
        folder: Where the training is kept.
        display: Where its progress is shown.
        noise: How often the noise of the gradient is measured at most, evenly over the training.

    Attributes:
        name: What it is called.
        history: Of every update the `COLUMNS`.
        updates: How many there will be.
        policy: The network.
    """

    def __init__(
        self,
        settings: argparse.Namespace,
        environments: int,
        optimizer: str,
        folder: RunFolder,
        display: Display,
        noise: int = 0,
    ):
        self.settings, self.environments, self.display = settings, environments, display
        self.name = f"{environments}-{optimizer}"
        self.history: list[dict[str, float]] = []
        self.updates = settings.frames // (environments * settings.steps)
        self._noise_every = -(-self.updates // noise) if noise else 0
        self._file = folder.path("pointnav", 1, self.name, "npz")
        self._events = folder.root / "tensorboard" / self.name
        self._agent = make_agent(settings, environments, optimizer, self.updates)
        self.policy = self._agent.policy
        self._kind = (self.name, "update")
        self._simulating = float("nan")
        display.plan.left[self._kind] = self.updates

    def run(self) -> None:
        """Trains until the last update.

        Raises:
            FloatingPointError: If it diverges. What is saved is of before, and leads there again.
        """
        self.history = agent_file.restore(self._file, self._agent.variables, COLUMNS)
        self.display.plan.left[self._kind] = self.updates - len(self.history)
        if len(self.history) < self.updates:
            self.display.show(self.name, "making maps, compiling")
            self._train()
        # For whoever wants to use it; the training itself goes on from its own file.
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self.policy.save(self._file.with_suffix(".keras"))

    def column(self, name: str) -> np.ndarray:
        """Returns one of the `COLUMNS`, `(updates,)` float64."""
        return np.array([each[name] for each in self.history])

    def seconds(self, updates: int | None = None) -> dict[str, float]:
        """Returns the median seconds of an update, simulating, inferring and learning.

        Args:
            updates: Of so many last ones; None: of all.
        """
        rows = self.history[-updates:] if updates else self.history
        play, simulate, learn = (
            np.array([each[name] for each in rows]) for name in ("play", "simulate", "learn")
        )
        known = ~np.isnan(simulate)
        share = float(np.mean(simulate[known] / play[known])) if known.any() else np.nan
        played = float(np.median(play))
        split = {"simulate": share * played, "infer": (1 - share) * played}
        return {**split, "learn": float(np.median(learn)), "all": float(np.median(play + learn))}

    def frames_per_second(self, updates: int | None = None) -> float:
        """Returns the frames of an update over its seconds."""
        return self.environments * self.settings.steps / self.seconds(updates)["all"]

    def _train(self) -> None:
        settings, done = self.settings, len(self.history)
        self._compiles = True
        seeds = np.random.default_rng([settings.seed, 0]).integers(2**31, size=2)
        environment = make_environment(settings, self.environments, int(seeds[0]))
        collector = Collector(self.policy, environment, settings.steps, seed=int(seeds[1]))
        moment = self._go_on(environment, collector.begin())
        writer = tf.summary.create_file_writer(str(self._events))
        with contextlib.closing(writer):
            for update in range(done, self.updates):
                began = time.perf_counter()
                moment = self._update(update, collector, moment)
                environment.swap_scenes(moment.state)
                if (update + 1) % settings.save_every == 0 or update + 1 == self.updates:
                    world = [*environment.variables, *tf.nest.flatten(moment)]
                    agent_file.save(self._file, self._agent.variables, self.history, world)
                    # Only now, or a training that goes on from here would write them again.
                    self._write(writer, self.history[done:])
                    done = update + 1
                self.display.plan.done(self._kind, time.perf_counter() - began)
                self.display.show(self.name, self._detail(), update + 1, self.updates)

    def _go_on(self, environment: PointGoalEnvironment, moment: Moment) -> Moment:
        """Returns where the training was when it was saved, if it was."""
        kept = [tf.Variable(each) for each in tf.nest.flatten(moment)]
        variables = [*self._agent.variables, *environment.variables, *kept]
        agent_file.restore(self._file, variables, COLUMNS)
        return tf.nest.pack_sequence_as(moment, [each.value() for each in kept])

    def _update(self, update: int, collector: Collector, start: Moment) -> Moment:
        began = time.perf_counter()
        rollout, outcomes, moment = collector.collect(start)
        ends = np.asarray(rollout.ends)
        played = time.perf_counter() - began
        noise = np.nan, np.nan
        if self._noise_every and update % self._noise_every == 0:
            noise = self._noise(rollout)
        began = time.perf_counter()
        report = self._agent.update(rollout)
        learned = time.perf_counter() - began
        now_and_then = update % self.settings.save_every == 0 or np.isnan(self._simulating)
        if now_and_then and not self._compiles:
            self._simulating = min(self._split(collector, start, rollout) / played, 1.0)
        self._compiles = False
        last = self.history[-1] if self.history else {"frames": 0, "seconds": 0}
        row = {
            "frames": last["frames"] + ends.size,
            "seconds": last["seconds"] + played + learned,
            "play": played,
            "simulate": self._simulating * played,
            "learn": learned,
            "episodes": ends.sum(),
            **{name: mean(np.asarray(outcomes[name])[ends]) for name in ("success", "spl")},
            "reward": np.mean(rollout.rewards),
            **{name: report[name] for name in _REPORTED},
            "learning_rate": keras.ops.convert_to_numpy(self._agent.optimizer.learning_rate),
            "noise_trace": noise[0],
            "noise_square": noise[1],
        }
        self.history.append({name: float(row[name]) for name in COLUMNS})
        return moment

    def _split(self, collector: Collector, start: Moment, rollout: Rollout) -> float:
        """Returns the seconds that the simulation alone takes for a rollout."""
        if np.isnan(self._simulating):
            collector.replay(start, rollout.actions)  # compiles
        began = time.perf_counter()
        float(collector.replay(start, rollout.actions)[0][0])
        return time.perf_counter() - began

    def _noise(self, rollout: Rollout) -> tuple[float, float]:
        """Returns estimates of `tr(Sigma)`, for a frame, and `|G|^2`.

        The parts are environments: that the frames of one are alike counts as noise, as it does in
        training.
        """
        parts = max(each for each in range(1, 9) if self.environments % each == 0)
        if parts == 1:
            return np.nan, np.nan
        gradients = self._agent.gradients(rollout, parts)
        flat = [np.concatenate([np.ravel(each) for each in part]) for part in gradients]
        whole = np.mean(flat, axis=0, dtype="float64")
        frames = self.environments * self.settings.steps
        spread = frames / parts * sum(np.sum((part - whole) ** 2) for part in flat)
        return unbiased(spread, parts, frames, np.sum(whole**2))

    def _detail(self) -> str:
        rows = self.history[-_LATELY:]
        success = mean([each["success"] for each in rows], [each["episodes"] for each in rows])
        seconds = self.seconds(_LATELY)
        whole = seconds.pop("all")
        shares = ", ".join(f"{name} {each / whole:.0%}" for name, each in seconds.items())
        return (
            f"{rows[-1]['frames']:,.0f} frames, success {success:.2f}, "
            f"{self.frames_per_second(_LATELY):,.0f} frames/s ({shares})"
        )

    def _write(self, writer: tf.summary.SummaryWriter, rows: list[dict[str, float]]) -> None:
        frames = self.environments * self.settings.steps
        for row in rows:
            rates = {"frames_per_second": frames / (row["play"] + row["learn"])}
            with writer.as_default(step=int(row["frames"])):
                for name, value in {**row, **rates}.items():
                    if name != "frames" and np.isfinite(value):
                        tf.summary.scalar(name, value)
        writer.flush()


def mean(values: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Returns the mean of the numbers that are not NaN; NaN if there are none."""
    values = np.asarray(values, "float64")
    weights = np.ones_like(values) if weights is None else np.asarray(weights, "float64")
    known = ~np.isnan(values) & (weights > 0)
    return float(np.average(values[known], weights=weights[known])) if known.any() else np.nan
