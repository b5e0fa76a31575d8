"""Generalised advantage estimation."""

import tensorflow as tf
from numpy.typing import ArrayLike

from keras_sharp.arguments import share


def gae(
    rewards: ArrayLike,
    values: ArrayLike,
    ends: ArrayLike,
    last_values: ArrayLike,
    taken: ArrayLike | None = None,
    *,
    discount: float = 0.99,
    decay: float = 0.95,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns how much better than expected every action was, and what it really brought.

    With rewards `r`, values `V`, `gamma = discount` and `lambda = decay`:

        delta_t = r_t + gamma V_(t+1) - V_t
        A_t = delta_t + gamma lambda A_(t+1)
        R_t = A_t + V_t

    Where an episode ends with step `t`, `V_(t+1)` and `A_(t+1)` are 0. A step that was not taken is
    passed over: what comes after it is the next step that was, or else `last_values`.

    Args:
        rewards: `(environments, steps)`.
        values: `(environments, steps)`, of what was seen before each step.
        ends: `(environments, steps)` bool, whether the episode ended with that step.
        last_values: `(environments,)`, of what was seen after the last step; ignored where the
            episode ended with it.
        taken: `(environments, steps)` bool, whether there was such a step. Defaults to all.
        discount: From 0 to 1.
        decay: From 0, which trusts the values, to 1, which trusts the rewards.

    Returns:
        Advantages and returns, `(environments, steps)` float32 each, 0 for steps not taken.

    Raises:
        ValueError: If `discount` or `decay` is out of range, or the shapes do not agree.

    References:
        - [Schulman et al., 2016](https://arxiv.org/abs/1506.02438), equation 16
    """
    discount, decay = share("discount", discount), share("decay", decay)
    rewards = tf.convert_to_tensor(rewards, tf.float32)
    values = tf.convert_to_tensor(values, tf.float32)
    last_values = tf.convert_to_tensor(last_values, tf.float32)
    ends = tf.convert_to_tensor(ends, tf.bool)
    taken = tf.ones_like(ends) if taken is None else tf.convert_to_tensor(taken, tf.bool)
    shapes = [each.shape for each in (rewards, values, ends, taken)]
    if len(set(map(tuple, shapes))) != 1 or last_values.shape != rewards.shape[:1]:
        raise ValueError(
            "`rewards`, `values`, `ends` and `taken` must have one shape, and `last_values` one "
            f"number an environment. Received: {shapes} and {last_values.shape}"
        )
    return _gae(rewards, values, ends, taken, last_values, discount, decay)


@tf.function(reduce_retracing=True, autograph=False)
def _gae(
    rewards: tf.Tensor,
    values: tf.Tensor,
    ends: tf.Tensor,
    taken: tf.Tensor,
    last_values: tf.Tensor,
    discount: float,
    decay: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    def step(later, now):
        advantage, next_value = later
        reward, value, goes_on, was_taken = now
        delta = reward + discount * goes_on * next_value - value
        here = delta + discount * decay * goes_on * advantage
        return tf.where(was_taken, here, advantage), tf.where(was_taken, value, next_value)

    by_time = [tf.transpose(each) for each in (rewards, values, tf.cast(~ends, tf.float32), taken)]
    nothing = tf.zeros_like(last_values)
    advantages, _ = tf.scan(step, tuple(by_time), (nothing, last_values), reverse=True)
    advantages = tf.where(taken, tf.transpose(advantages), 0.0)
    return advantages, tf.where(taken, advantages + values, 0.0)
