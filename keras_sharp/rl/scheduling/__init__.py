"""Which waiting job should a parallel computer start next?

Traces are read (`read_swf`) or generated (`lublin_feitelson`), cut into sequences, and scheduled by
a rule (`schedule`) or by whoever steps through a `SchedulingEnvironment`, many at once.
"""

from keras_sharp.rl.scheduling import heuristics, scores
from keras_sharp.rl.scheduling.environment import SchedulingEnvironment
from keras_sharp.rl.scheduling.filtering import filter_sequences, sjf_scores
from keras_sharp.rl.scheduling.jobs import Jobs
from keras_sharp.rl.scheduling.lublin_feitelson import lublin_feitelson
from keras_sharp.rl.scheduling.plain import plain_schedule
from keras_sharp.rl.scheduling.policy import kernel_policy, value_network
from keras_sharp.rl.scheduling.schedule import schedule
from keras_sharp.rl.scheduling.simulator import Simulator
from keras_sharp.rl.scheduling.swf import read_swf

__all__ = [
    "Jobs",
    "SchedulingEnvironment",
    "Simulator",
    "filter_sequences",
    "heuristics",
    "kernel_policy",
    "lublin_feitelson",
    "plain_schedule",
    "read_swf",
    "schedule",
    "scores",
    "sjf_scores",
    "value_network",
]
