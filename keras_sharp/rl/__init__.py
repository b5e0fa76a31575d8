"""Large batches in reinforcement learning."""

from keras_sharp.rl import navigation, scheduling
from keras_sharp.rl.collector import Collector
from keras_sharp.rl.episodes import play_episodes
from keras_sharp.rl.gae import gae
from keras_sharp.rl.navigation_policy import NavigationPolicy
from keras_sharp.rl.ppo import PPO
from keras_sharp.rl.rollout import Rollout

__all__ = [
    "PPO",
    "Collector",
    "NavigationPolicy",
    "Rollout",
    "gae",
    "navigation",
    "play_episodes",
    "scheduling",
]
