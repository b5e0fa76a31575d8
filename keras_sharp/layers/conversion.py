"""Other kinds of BatchNormalization for a model that exists."""

from collections.abc import Callable

import keras

from keras_sharp.layers.ghost_batch_normalization import GhostBatchNormalization
from keras_sharp.layers.split_batch_normalization import SplitBatchNormalization

BatchNormalization = keras.layers.BatchNormalization


def with_ghost_batch_normalization(
    model: keras.Model, virtual_batch_size: int = 128
) -> keras.Model:
    """Returns a copy of a model in which each BatchNormalization is a `GhostBatchNormalization`.

    Args:
        model: A functional or sequential model; models inside it are converted as well. It is left
            alone.
        virtual_batch_size: Examples of a ghost batch.

    Returns:
        A model with the same weights, compiled alike. It predicts the same. A layer that was
        synchronized over replicas is not any more: a ghost batch is of one replica.

    Raises:
        ValueError: If a BatchNormalization is out of reach, inside a layer or subclassed model of
            one's own, or uses renormalization.

    Example:
    ```python
    model = with_ghost_batch_normalization(keras.applications.ResNet50(weights=None), 64)
    ```
    """

    def convert(layer):
        if layer.renorm:
            raise ValueError(f"{layer.name!r} has `renorm=True`, which ghost batches don't have")
        config = {**layer.get_config(), "synchronized": False}
        return GhostBatchNormalization.from_config(
            {**config, "virtual_batch_size": virtual_batch_size}
        )

    return _converted(model, convert)


def with_split_batch_normalization(model: keras.Model) -> keras.Model:
    """Returns a copy of a model in which each BatchNormalization is a `SplitBatchNormalization`.

    Args:
        model: A functional or sequential model; models inside it are converted as well. It is left
            alone. Its layers may be `GhostBatchNormalization` already.

    Returns:
        A model with the same weights, in both branches, compiled alike. It predicts the same.

    Raises:
        ValueError: If a BatchNormalization is out of reach, inside a layer or subclassed model of
            one's own.

    Example:
    ```python
    model = with_split_batch_normalization(with_ghost_batch_normalization(model, 64))
    ```
    """

    def convert(layer):
        inner = type(layer).from_config(layer.get_config())
        return SplitBatchNormalization(inner, name=layer.name, dtype=layer.dtype_policy)

    return _converted(model, convert)


def _converted(model: keras.Model, convert: Callable) -> keras.Model:
    pairs = []

    def clone(layer):
        if isinstance(layer, BatchNormalization):
            new = convert(layer)
        elif isinstance(layer, keras.layers.Layer):
            _check_reach(layer)
            new = type(layer).from_config(layer.get_config())
        else:  # an operation on tensors has no weights
            return layer
        pairs.append((layer, new))
        return new

    try:
        copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    except ValueError as error:
        raise ValueError(
            "`model` must be a functional or sequential model whose BatchNormalization layers are "
            f"layers of it, or of such models inside it. Received: model {model.name!r}. {error}"
        ) from error
    for old, new in pairs:
        targets = [new]
        if isinstance(new, SplitBatchNormalization):
            targets = [new.main, new.adversarial]
        for target in targets:
            for variable, value in zip(target.variables, old.variables, strict=True):
                variable.assign(value)
    return copy


def _check_reach(layer: keras.layers.Layer) -> None:
    inside = [each for each in layer._flatten_layers() if isinstance(each, BatchNormalization)]
    if inside:
        raise ValueError(
            f"{type(layer).__name__} {layer.name!r} contains {inside[0].name!r}, which can't be "
            "replaced from outside"
        )
