"""What a batch of PointGoal environments shows in a second, and what a policy learns from it."""

import time
from collections.abc import Callable

import numpy as np
import rich.table
import tensorflow as tf
import train_pointnav
from benchmark_cases import SMOKE, Sizes, console, seconds_of
from pointnav_settings import make_agent, make_environment

from keras_sharp.rl.collector import Collector
from keras_sharp.rl.navigation import ACTIONS, PointGoalEnvironment

ONE_BY_ONE = 8  # environments of Gymnasium's synchronous vector; they take turns however many
FRAMES = 300  # that are timed, or five steps
SMALL = ["--environments", "2", "--scenes", "2", "--steps", "2", "--cells", "16", "--size", "8"]
SMALL += ["--width", "1", "--hidden", "4", "--units", "4"]


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

    vector.reset(seed=0)

    def run():
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


def learning(sizes: Sizes) -> rich.table.Table:
    settings = train_pointnav.parse(SMALL if sizes is SMOKE else [])
    count, frames = settings.environments, settings.environments * settings.steps
    table = rich.table.Table(
        title=f"Navigation: training by PPO as in train_pointnav.py, {count} environments, images "
        f"of {settings.size} x {settings.size}, minibatches of {frames // 2:,} frames"
    )
    for head in ("", "ms an update", "share"):
        table.add_column(head, justify="right")
    agent = make_agent(settings, count, settings.optimizer, 100)
    collector = Collector(
        agent.policy, make_environment(settings, count, settings.seed), settings.steps
    )
    moment = collector.begin()
    rounds = []
    for number in range(sizes.rounds + 1):
        start, times = moment, [time.perf_counter()]
        rollout, _, moment = collector.collect(start)
        moment.memory.numpy()
        times.append(time.perf_counter())
        collector.replay(start, rollout.actions)[0].numpy()
        times.append(time.perf_counter())
        agent.update(rollout)
        times.append(time.perf_counter())
        if number:  # the first one compiles
            rounds.append(np.diff(times))
    play, simulate, learn = np.median(rounds, axis=0)
    whole = play + learn
    # Choosing actions is what playing costs beyond taking the same ones again.
    for name, part in (("simulate", simulate), ("infer", play - simulate), ("learn", learn)):
        table.add_row(name, f"{1000 * part:,.1f}", f"{part / whole:.0%}")
    table.add_row("all", f"{1000 * whole:,.1f}", f"{frames / whole:,.0f} frames a second")
    console.print(f"learning to navigate: {frames / whole:,.0f} frames/s")
    return table
