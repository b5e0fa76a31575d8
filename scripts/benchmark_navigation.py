"""What a batch of PointGoal environments shows in a second, over one environment at a time."""

from collections.abc import Callable

import numpy as np
import rich.table
import tensorflow as tf
from benchmark_cases import Sizes, console, seconds_of

from keras_sharp.rl.navigation import ACTIONS, PointGoalEnvironment

ONE_BY_ONE = 8  # environments of Gymnasium's synchronous vector; they take turns however many
FRAMES = 300  # that are timed, or five steps


def actions_of(environments: int) -> np.ndarray:
    # No stops, so that hardly any episode ends: those that do cost the batch nothing.
    random = np.random.default_rng(0)
    shape = (max(5, FRAMES // environments), environments)
    return random.integers(1, len(ACTIONS), shape).astype("int32")


def batch(environments: int, size: int) -> Callable[[], None]:
    """Returns what steps that many environments together, on the device."""
    environment = PointGoalEnvironment(environments, size=size)
    actions = [tf.constant(each) for each in actions_of(environments)]
    state, *_ = environment.first_state()

    def run():
        now = state
        for each in actions:
            now, depth, *_ = environment.step_state(now, each)
        depth.numpy()

    run()  # compiled
    return run


def one_by_one(size: int) -> Callable[[], None]:
    """Returns what steps single environments in turn; they share maps and compiled programs."""
    import gymnasium

    from keras_sharp.rl.navigation.vector_env import PointGoalEnv

    environment = PointGoalEnvironment(1, size=size)
    vector = gymnasium.vector.SyncVectorEnv([lambda: PointGoalEnv(environment)] * ONE_BY_ONE)
    actions = actions_of(ONE_BY_ONE)

    def run():
        vector.reset(seed=0)
        for each in actions:
            vector.step(each)

    run()
    return run


def navigation(sizes: Sizes) -> rich.table.Table:
    size = sizes.image
    table = rich.table.Table(
        title=f"Navigation: steps of PointGoalEnvironment with depth images of {size} x {size}, "
        "over those through Gymnasium's SyncVectorEnv (goal: 100 at 1,024)"
    )
    for head in ("environments", "frames a second", "ratio"):
        table.add_column(head, justify="right")
    contenders = {
        f"{each:,}": (batch(each, size), actions_of(each).size) for each in sizes.environments
    }
    try:
        contenders["one by one"] = one_by_one(size), actions_of(ONE_BY_ONE).size
    except ImportError:
        table.add_row("one by one", "left out: Gymnasium is not installed", "-")
    rounds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(sizes.rounds):
        for name, (run, frames) in contenders.items():
            rounds[name].append(frames / seconds_of(run))
    alone = np.array(rounds.get("one by one", [np.nan]))
    for name, speeds in rounds.items():
        ratio = np.median(np.array(speeds) / alone)
        table.add_row(name, f"{np.median(speeds):,.0f}", "-" if np.isnan(ratio) else f"{ratio:.1f}")
        console.print(f"{name}: {np.median(speeds):,.0f} frames/s, {ratio:.1f} times one by one")
    return table
