"""Where is the goal, and how does one get there? Many agents in rooms, seen in depth.

`keras_sharp.rl.navigation.vector_env` offers the same to agents written for Gymnasium; it is not
imported here, since Gymnasium is optional.
"""

from keras_sharp.rl.navigation.environment import PointGoalEnvironment
from keras_sharp.rl.navigation.geodesics import geodesic_fields
from keras_sharp.rl.navigation.room_map import room_map
from keras_sharp.rl.navigation.scene import Scene, SceneRecipe
from keras_sharp.rl.navigation.task import ACTIONS, NavigationState

__all__ = [
    "ACTIONS",
    "NavigationState",
    "PointGoalEnvironment",
    "Scene",
    "SceneRecipe",
    "geodesic_fields",
    "room_map",
]
