"""Proximal policy optimisation, in batches as large as there are environments."""

import collections
import math
from typing import Any, NoReturn

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_sharp.arguments import integer, not_negative, optional_integer, positive, share
from keras_sharp.rl.categorical import choose, entropy, log_probability
from keras_sharp.rl.gae import gae
from keras_sharp.rl.learner import Learner
from keras_sharp.rl.rollout import Rollout


def policy_loss(ratio: tf.Tensor, advantages: tf.Tensor, clip: float) -> tf.Tensor:
    """Returns `-min(r A, clip(r, 1 - clip, 1 + clip) A)`, number by number.

    Args:
        ratio: How much likelier an action has become.
        advantages: How much better than expected it was; same shape.
        clip: From where on more of the same is not rewarded.
    """
    clipped = tf.clip_by_value(ratio, 1 - clip, 1 + clip)
    return -tf.minimum(ratio * advantages, clipped * advantages)


class PPO:
    """Chooses actions, and learns from what they brought.

    With `r` the ratio of an action's probability now to that when it was chosen, `A` and `R` of
    `gae`, and means over all steps of a minibatch that were taken:

        mean -min(r A, clip(r, 1 - clip, 1 + clip) A)
            + value_weight mean 0.5 (V - R)^2 - entropy_weight mean entropy

    A minibatch is some environments with all of their steps, drawn without replacement. Gradients
    of a whole minibatch are added up before the optimizer, and what clips in it, sees them.

    A policy with a value network of its own, `value`, learns first, as long as `kl_limit` lets it;
    then that network learns, for all epochs. The minibatch that finds the mean of `-log r`, an
    estimate of how far the policy has moved, above the limit takes no step any more.

    Made in the scope of a `tf.distribute` strategy, as networks and optimizers then are too, it
    cuts the environments of a minibatch over the replicas, and its steps are those of one device.

    Args:
        policy: A built model from observations to logits, `(environments, steps, actions)`; without
            `value`, to a tuple that begins with these and values, `(environments, steps)`.
        optimizer: Any Keras optimizer; `global_clipnorm` and loss scaling are its own arguments.
        value: A built model from observations to values.
        value_optimizer: Its optimizer.
        discount: `gamma` of `gae`.
        decay: `lambda` of `gae`.
        clip: Of the ratio, at either side.
        value_weight: Of the values' error.
        entropy_weight: Of the entropy.
        epochs: How often all of a rollout is gone through.
        minibatches: In how many parts, and so steps of the optimizer.
        kl_limit: Where the policy's steps end. Defaults to None, no limit.
        normalize_advantages: Whether a rollout's are shifted and scaled to mean 0 and deviation 1.
        micro_batch: Environments whose gradient is computed at once, which bounds memory and
            changes nothing else. Defaults to None: those of the minibatch.
        seed: Of the minibatches.

    Raises:
        ValueError: If an argument is out of range, or only one of `value` and `value_optimizer` is
            given.

    Example:
    ```python
    agent = PPO(policy, keras.optimizers.Adam(3e-4))
    rollout = play_episodes(agent, environments, steps=100, seed=0)
    print(agent.update(rollout))
    ```

    References:
        - [Schulman et al., 2017](https://arxiv.org/abs/1707.06347)
        - [Shacklett et al., 2021](https://arxiv.org/abs/2103.07013), whose settings are the
          defaults
        - Zhang et al. 2020, "RLScheduler", SC20, for whole rollouts at once and the limit
    """

    def __init__(
        self,
        policy: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        *,
        value: keras.Model | None = None,
        value_optimizer: keras.optimizers.Optimizer | None = None,
        discount: float = 0.99,
        decay: float = 0.95,
        clip: float = 0.2,
        value_weight: float = 0.5,
        entropy_weight: float = 0.01,
        epochs: int = 1,
        minibatches: int = 2,
        kl_limit: float | None = None,
        normalize_advantages: bool = False,
        micro_batch: int | None = None,
        seed: int = 0,
    ):
        if (value is None) != (value_optimizer is None):
            raise ValueError(
                "`value` and `value_optimizer` must be given together. Received: "
                f"value={value}, value_optimizer={value_optimizer}"
            )
        self.policy = policy
        self.optimizer = optimizer
        self.value = value
        self.discount = share("discount", discount)
        self.decay = share("decay", decay)
        self.clip = positive("clip", clip)
        self.epochs = integer("epochs", epochs)
        self.minibatches = integer("minibatches", minibatches)
        self.kl_limit = math.inf if kl_limit is None else positive("kl_limit", kl_limit)
        self.normalize_advantages = normalize_advantages
        self.micro_batch = optional_integer("micro_batch", micro_batch)
        self.seed = integer("seed", seed, least=0)
        self._weights = {
            "policy_loss": 1.0,
            "value_loss": not_negative("value_weight", value_weight),
            "entropy": -not_negative("entropy_weight", entropy_weight),
        }
        # Not the optimizer's steps, which stand still while a loss is scaled too high.
        self._updates = keras.Variable(0, dtype="int64", trainable=False, name="updates")
        if value is None:
            self._learners = [Learner(policy, optimizer, self._all_terms, self._weights)]
        else:
            self._learners = [
                Learner(policy, optimizer, self._policy_terms, self._weights),
                Learner(value, value_optimizer, self._value_terms, self._weights),
            ]

    @property
    def variables(self) -> list[keras.Variable]:
        """All that an exact continuation needs: weights, optimizers' variables, updates done."""
        return [*(each for one in self._learners for each in one.variables), self._updates]

    def act(
        self, observations: Any, seed: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Chooses an action in every environment; for policies without a state of their own.

        Args:
            observations: What is seen now, `(environments, ...)`.
            seed: Of the actions that are drawn. Defaults to None: the likeliest ones are taken.

        Returns:
            Actions, their log-probabilities and the values, `(environments,)` each.
        """
        observations = tree.map_structure(tf.convert_to_tensor, observations)
        seed = None if seed is None else tf.constant(seed, tf.int64)
        return tuple(each.numpy() for each in self._act(observations, seed))

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learns from a rollout.

        Returns:
            Of `"policy_loss"`, `"value_loss"`, `"entropy"`, `"kl"` (the mean of `-log r`) and
            `"clipped"` (the share of ratios out of bounds) the mean over the minibatches gone
            through, and `"steps"`, how many of their gradients the policy's optimizer was given.

        Raises:
            RuntimeError: In the scope of a strategy.
            ValueError: If there are fewer environments than minibatches, or no step was taken.
            FloatingPointError: If a term of the loss or, after the last step, a weight is not
                finite.
        """
        if tf.distribute.has_strategy():
            raise RuntimeError(
                "`update` must be called outside of the strategy's scope. The agent knows the "
                "strategy in whose scope it was made."
            )
        environments, taken = len(rollout.actions), np.asarray(rollout.taken)
        if environments < self.minibatches or not taken.any():
            raise ValueError(
                f"`rollout` must have steps that were taken, and at least {self.minibatches} "
                f"environments, the minibatches. Received: {environments} environments, "
                f"{taken.sum()} steps"
            )
        data = self._data(rollout)
        report, policy_steps = {}, 0
        for learner in self._learners:
            terms, steps = self._learn(learner, data, taken)
            report |= terms
            if learner.model is self.policy:
                policy_steps = steps
        self._updates.assign_add(1)
        return {**report, "steps": policy_steps}

    def gradients(self, rollout: Rollout, parts: int) -> list[list[tf.Tensor]]:
        """Returns the policy's gradient of each part of a rollout, for its noise; nothing changes.

        Args:
            rollout: All of its steps were taken.
            parts: Into so many parts its environments are cut, in their order; all have the same
                number of them.

        Raises:
            ValueError: If that is not so.
        """
        environments, taken = len(rollout.actions), np.asarray(rollout.taken)
        if environments % integer("parts", parts) or not taken.all():
            raise ValueError(
                f"`rollout` must have a multiple of {parts} environments, `parts`, and only steps "
                f"that were taken. Received: {environments} environments, {taken.sum()} of "
                f"{taken.size} steps"
            )
        data, learner = self._data(rollout), self._learners[0]
        rows = np.split(np.arange(environments), parts)
        scale = float(learner.optimizer.scale_loss(1.0))
        found = (learner.gradient(data, self._pieces(each), taken[each].size)[0] for each in rows)
        return [[each / scale for each in gradient] for gradient in found]

    def _pieces(self, rows: np.ndarray) -> list[np.ndarray]:
        return np.array_split(np.sort(rows), -(-len(rows) // (self.micro_batch or len(rows))))

    def _data(self, rollout: Rollout) -> dict[str, Any]:
        advantages, returns = gae(
            rollout.rewards,
            rollout.values,
            rollout.ends,
            rollout.last_values,
            rollout.taken,
            discount=self.discount,
            decay=self.decay,
        )
        if self.normalize_advantages:
            known = advantages.numpy()[np.asarray(rollout.taken)].astype("float64")
            scaled = (advantages - known.mean()) / (known.std() + 1e-8)
            advantages = tf.where(rollout.taken, scaled, 0.0)
        data = {
            "observations": rollout.observations,
            "actions": rollout.actions,
            "log_probabilities": rollout.log_probabilities,
            "taken": rollout.taken,
        }
        data = tree.map_structure(tf.convert_to_tensor, data)
        return {**data, "advantages": advantages, "returns": returns}

    def _learn(
        self, learner: Learner, data: dict[str, Any], taken: np.ndarray
    ) -> tuple[dict[str, float], int]:
        number = self._learners.index(learner)
        rng = np.random.default_rng([self.seed, int(self._updates.numpy()), number])
        means = collections.defaultdict(list)
        steps = 0
        for _ in range(self.epochs):
            order = rng.permutation(len(taken))
            for rows in np.array_split(order, self.minibatches):
                if not taken[rows].any():
                    continue  # nothing to learn from, and no mean
                gradients, terms = learner.gradient(data, self._pieces(rows), taken[rows].sum())
                for name, value in terms.items():
                    if not math.isfinite(value):
                        self._diverged(f"`{name}` is {value}")
                    means[name].append(value)
                if terms.get("kl", 0) > self.kl_limit:
                    return _means(means), steps
                learner.apply(gradients)
                steps += 1
        # A gradient may be infinite where the loss is not, and without a loss scale it is applied.
        if not learner.finite():
            self._diverged("The weights are not finite")
        return _means(means), steps

    def _diverged(self, found: str) -> NoReturn:
        raise FloatingPointError(
            f"{found} in update {int(self._updates.numpy()) + 1}: the training has diverged. Go on "
            "from weights that were saved before, with a lower learning rate or with the gradient "
            "clipped."
        )

    @tf.function(reduce_retracing=True, autograph=False)
    def _act(self, observations: Any, seed: tf.Tensor | None) -> tuple[tf.Tensor, ...]:
        observations = tree.map_structure(lambda each: each[:, None], observations)
        if self.value is None:
            logits, values = self.policy(observations)
        else:
            logits, values = self.policy(observations), self.value(observations)
        logits = tf.cast(logits[:, 0], tf.float32)
        actions = choose(logits, seed)
        return actions, log_probability(logits, actions), tf.cast(values[:, 0], tf.float32)

    def _all_terms(self, outputs: Any, batch: dict[str, Any]) -> dict[str, tf.Tensor]:
        logits, values, *_ = outputs
        return {**self._policy_terms(logits, batch), **self._value_terms(values, batch)}

    def _policy_terms(self, logits: tf.Tensor, batch: dict[str, Any]) -> dict[str, tf.Tensor]:
        logits = tf.cast(logits, tf.float32)
        change = log_probability(logits, batch["actions"]) - batch["log_probabilities"]
        # Before `exp`: a number that does not count could be infinite, and its gradient not 0.
        change = tf.where(batch["taken"], change, 0.0)
        ratio = tf.exp(change)
        return {
            "policy_loss": policy_loss(ratio, batch["advantages"], self.clip),
            "entropy": entropy(logits),
            "kl": -change,
            "clipped": tf.cast(tf.abs(ratio - 1) > self.clip, tf.float32),
        }

    def _value_terms(self, values: tf.Tensor, batch: dict[str, Any]) -> dict[str, tf.Tensor]:
        return {"value_loss": 0.5 * (tf.cast(values, tf.float32) - batch["returns"]) ** 2}


def _means(values: dict[str, list[float]]) -> dict[str, float]:
    return {name: float(np.mean(each)) for name, each in values.items()}
