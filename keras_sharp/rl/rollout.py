"""What many environments went through, for a policy to learn from."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Rollout:
    """Some steps of many environments; a row of every array is one environment.

    Episodes may follow each other in a row, as where an environment starts again by itself, or a
    row may be one episode, with steps that were not taken after its end. Tensors do as well as
    arrays.

    Attributes:
        observations: What the policy takes: an array or a structure of them, with environments
            along the first axis. What is seen anew in each step is `(environments, steps, ...)`; a
            state in which recurrent layers begin, `(environments, ...)`, may be among them.
        actions: `(environments, steps)` integers.
        log_probabilities: `(environments, steps)` float32, of these actions, under the policy that
            chose them.
        values: `(environments, steps)` float32, what the rewards to come were expected to be worth.
        rewards: `(environments, steps)` float32.
        ends: `(environments, steps)` bool, whether an episode ended with that step.
        taken: `(environments, steps)` bool, whether there was such a step.
        last_values: `(environments,)` float32, as `values`, after the last step.
    """

    observations: Any
    actions: np.ndarray
    log_probabilities: np.ndarray
    values: np.ndarray
    rewards: np.ndarray
    ends: np.ndarray
    taken: np.ndarray
    last_values: np.ndarray
