"""Which strategy a model is trained under, and what it asks of model and optimizer."""

import keras
import tensorflow as tf


def choose_strategy(
    strategy: tf.distribute.Strategy | None, model: keras.Model
) -> tf.distribute.Strategy:
    """Returns the strategy given, else the one whose scope is open, else the model's own.

    Raises:
        ValueError: If the model was created elsewhere, or for one device of several GPUs.
    """
    own = model.distribute_strategy
    if strategy is None:
        strategy = tf.distribute.get_strategy() if tf.distribute.has_strategy() else own
        gpus = len(tf.config.list_logical_devices("GPU"))
        if gpus > 1 and not tf.distribute.has_strategy() and own is tf.distribute.get_strategy():
            raise ValueError(
                f"`model` must be created under a strategy to train on all {gpus} GPUs. Received: "
                "a model created outside of one. Create it inside "
                "`with tf.distribute.MirroredStrategy().scope():`, or pass "
                "`strategy=tf.distribute.get_strategy()` to train on one GPU."
            )
    if strategy.num_replicas_in_sync > 1 and own is not strategy:
        raise ValueError(
            "`model` must be created inside `with strategy.scope():` of the strategy it is trained "
            f"under. Received: a model created under {type(own).__name__}, "
            f"strategy={type(strategy).__name__} with {strategy.num_replicas_in_sync} replicas"
        )
    return strategy


def check_optimizer(
    optimizer: keras.optimizers.Optimizer, strategy: tf.distribute.Strategy
) -> None:
    """Checks that an optimizer can step on several replicas.

    Raises:
        ValueError: If it can't, with the remedy.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    for each in chain_of(optimizer):
        # Keras fixes an optimizer's strategy when it is created, and has no public name for it.
        if each._distribution_strategy is not strategy:
            raise ValueError(
                "`optimizer` must be created inside `with strategy.scope():`, or be given by its "
                f"name. Received: {type(each).__name__} created elsewhere"
            )
        if each.gradient_accumulation_steps:
            raise ValueError(
                "`gradient_accumulation_steps` does not work on several replicas. Raise "
                "`batch_size` and bound the memory with `micro_batch` instead. Received: "
                f"gradient_accumulation_steps={each.gradient_accumulation_steps}"
            )
        if each.ema_overwrite_frequency:
            raise ValueError(
                "`ema_overwrite_frequency` does not work on several replicas. Use "
                "`keras.callbacks.SwapEMAWeights` instead. Received: "
                f"ema_overwrite_frequency={each.ema_overwrite_frequency}"
            )


def chain_of(optimizer: keras.optimizers.Optimizer) -> list[keras.optimizers.Optimizer]:
    """Returns an optimizer and the one inside it (of a `LossScaleOptimizer`), and so on."""
    chain = [optimizer]
    while inner := getattr(chain[-1], "inner_optimizer", None):
        chain.append(inner)
    return chain
