"""What the two scripts on PointGoal navigation are told, and what they make of it."""

import argparse
import math
import pathlib

import keras
import tensorflow as tf
from positive import positive

from keras_sharp.optimizers import LAMB
from keras_sharp.rl.navigation import PointGoalEnvironment
from keras_sharp.rl.navigation_policy import NavigationPolicy
from keras_sharp.rl.ppo import PPO
from keras_sharp.schedules import WarmUp, square_root_scaling

MINIBATCHES = 2
BASE_BATCH = 256  # frames of a minibatch, for which a learning rate is given
# By optimizer, at that batch. Shacklett et al. take 5e-4 with LAMB, for 305,000 steps where the
# default here is 2,900; Adam's is the usual one of PPO.
RATES = {"lamb": 2.5e-3, "lamb-unscaled": 2.5e-3, "adam": 2.5e-4}
HELD_OUT = 1_000_003  # added to the seed, for maps that nobody has learned from
AT_ONCE = 2048  # frames whose gradient is computed together on a device, to bound memory

# Name, default, meaning, of whole numbers. What is not said to be the paper's is smaller there.
NUMBERS = (
    ("steps", 32, "of a rollout, in each environment; the paper's"),
    ("scenes", 16, "maps at a time; the paper's"),
    ("cells", 24, "of 0.25 m, side of a map"),
    ("goals", 16, "in a map"),
    ("size", 32, "side of an image, pixels; the paper's 64"),
    ("width", 8, "channels of the first stage; the paper's 64"),
    ("hidden", 128, "numbers that are left of an image; the paper's 512"),
    ("units", 128, "of an LSTM layer; the paper's 512"),
    ("layers", 1, "LSTM layers; the paper's 2"),
    ("max-steps", 500, "one more than an episode may have; the paper's"),
    ("episodes", 256, "to evaluate, each on a map of its own"),
    ("save-every", 25, "updates"),
)


def add_numbers(parser: argparse.ArgumentParser, output: str) -> None:
    """Adds the arguments that both scripts have."""
    for name, default, meaning in NUMBERS:
        parser.add_argument(
            f"--{name}", type=positive, default=default, help=f"{meaning}; default {default}"
        )
    parser.add_argument(
        "--distances",
        type=float,
        nargs=2,
        default=[1.0, 8.0],
        metavar=("LEAST", "MOST"),
        help="geodesic, from start to goal, in m; default 1 8",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
        default="float32",
        help="the paper's is mixed_float16, which a CPU is slow in",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything, default 0")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs", output))


def check(
    parser: argparse.ArgumentParser, settings: argparse.Namespace, *environments: int
) -> None:
    """Ends the program with a message if the settings are of no use."""
    if settings.seed < 0:
        parser.error("--seed must be 0 or more")
    if settings.size % 4:
        parser.error("--size must be a multiple of 4")
    if not 0 < settings.distances[0] <= settings.distances[1]:
        parser.error("--distances must be above 0, the first not above the second")
    rate = settings.learning_rate
    if rate is not None and not 0 < rate < math.inf:
        parser.error("--learning-rate must be above 0 and finite")
    if settings.episodes < 2:
        parser.error("--episodes must be at least 2, for a standard error")
    for number in environments:
        if number > settings.scenes and number % settings.scenes:
            parser.error("--environments must be multiples of --scenes, or less")
        if number < MINIBATCHES:
            parser.error(f"--environments must be at least {MINIBATCHES}, the minibatches")
        if settings.frames < number * settings.steps:
            parser.error("--frames must be enough for one rollout, --environments times --steps")


def decisive(settings: argparse.Namespace) -> dict[str, object]:
    """Returns the settings that decide the trained weights."""
    not_these = {"output", "episodes", "save_every", "environments", "optimizer", "likeliest"}
    return {name: value for name, value in vars(settings).items() if name not in not_these}


def make_environment(
    settings: argparse.Namespace, environments: int, seed: int, scenes: int | None = None
) -> PointGoalEnvironment:
    """Returns environments on maps of their seed, so many; None: as many as `settings` say.

    Raises:
        SystemExit: If there are no such maps.
    """
    try:
        return PointGoalEnvironment(
            environments,
            scenes=scenes or settings.scenes,
            seed=seed,
            size=settings.size,
            max_steps=settings.max_steps,
            cells=settings.cells,
            goals=settings.goals,
            distances=tuple(settings.distances),
        )
    except ValueError as error:
        raise SystemExit(f"There is no such world. {error}") from error


def make_optimizer(
    name: str, learning_rate: float | None, batch: int, updates: int
) -> keras.optimizers.Optimizer:
    """Returns the optimizer of large batch simulation, or Adam with the same schedule.

    Over the first hundredth of the training the rate rises from half of its peak, then it falls on
    a cosine to a hundredth of `learning_rate`.

    Args:
        name: One of `RATES`.
        learning_rate: At `BASE_BATCH`; None: that of `RATES`. At larger batches it is scaled by the
            square root; not at smaller ones, and not for `"lamb-unscaled"`.
        batch: Frames of a minibatch, over all replicas.
        updates: Length of the training, in rollouts.

    Note:
        The scale of the LayerNorm takes Adam's steps, as all of normalisation does. In the authors'
        code it has a trust ratio, since its name there says nothing of a norm.
    """
    base = RATES[name] if learning_rate is None else learning_rate
    peak = base
    if name != "lamb-unscaled":
        peak = max(base, square_root_scaling(base, batch, BASE_BATCH))
    decay = keras.optimizers.schedules.CosineDecay(peak, updates, alpha=0.01 * base / peak)
    rate = WarmUp(decay, 0.01 * updates, updates, MINIBATCHES, initial_learning_rate=0.5 * peak)
    if name == "adam":
        return keras.optimizers.Adam(rate, epsilon=1e-5, global_clipnorm=1.0)
    return LAMB(
        rate,
        epsilon=1e-5,
        phi=(0, 10),
        trust_bounds=(0.01, 100),
        decay_bias_and_norm=True,
        weight_decay=1e-2,
        global_clipnorm=1.0,
    )


def make_agent(
    settings: argparse.Namespace, environments: int, optimizer: str, updates: int
) -> PPO:
    """Returns a new policy and its PPO, on all GPUs if there are several."""
    keras.utils.set_random_seed(settings.seed)
    strategy = tf.distribute.get_strategy()
    if len(tf.config.list_physical_devices("GPU")) > 1:
        strategy = tf.distribute.MirroredStrategy()
    sizes = {name: getattr(settings, name) for name in ("width", "hidden", "units", "layers")}
    with strategy.scope():
        policy = NavigationPolicy(settings.size, **sizes, dtype=settings.precision)
        batch = environments * settings.steps // MINIBATCHES
        made = make_optimizer(optimizer, settings.learning_rate, batch, updates)
        if settings.precision == "mixed_float16":
            made = keras.optimizers.LossScaleOptimizer(made)
        together = AT_ONCE * strategy.num_replicas_in_sync // settings.steps
        return PPO(
            policy,
            made,
            minibatches=MINIBATCHES,
            micro_batch=max(together, 1),
            seed=settings.seed,
        )
