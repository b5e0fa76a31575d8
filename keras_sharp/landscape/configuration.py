"""What a model is made of, in a form that does not depend on how Keras numbers its names."""

import warnings
from typing import Any

import keras

# What training leaves there, or depends on the process or the data.
_LEFT_OUT = {"build_config", "compile_config", "shared_object_id"}


def configuration(model: keras.Model) -> list[Any]:
    """Returns class and configuration of the model and each of its layers, fit for JSON.

    Names are numbers in the order in which they come up, so that a model made again has the same.
    Of a layer that cannot be serialized there is the class alone; of code, that of lambdas.
    """
    layers = model._flatten_layers()
    configs = [_serialized(layer) for layer in layers]
    numbers: dict[str, int] = {}
    for name in (layer.name for layer in layers):
        numbers.setdefault(name, len(numbers))
    for config in configs:
        _collect(config, numbers)
    return [_numbered(config, numbers) for config in configs]


def _serialized(layer: keras.layers.Layer) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of lambdas, which nobody is going to load
            return keras.saving.serialize_keras_object(layer)
    except (NotImplementedError, TypeError, ValueError):
        return type(layer).__qualname__


def _collect(value: Any, numbers: dict[str, int]) -> None:
    """Gives a number to the operations of functional models, which are no layers."""
    if isinstance(value, dict):
        if "inbound_nodes" in value:
            numbers.setdefault(value.get("name"), len(numbers))
        for each in value.values():
            _collect(each, numbers)
    elif isinstance(value, list | tuple):
        for each in value:
            _collect(each, numbers)


def _numbered(value: Any, numbers: dict[str, int]) -> Any:
    """Replaces names where they are names: "relu" may also be an activation."""
    if isinstance(value, dict):
        kept = {key: each for key, each in value.items() if key not in _LEFT_OUT}
        if isinstance(kept.get("name"), str):
            kept["name"] = numbers.get(kept["name"], kept["name"])
        return {key: _numbered(each, numbers) for key, each in kept.items()}
    if isinstance(value, list | tuple):
        if len(value) == 3 and isinstance(value[0], str) and value[0] in numbers:
            return [numbers[value[0]], *value[1:]]  # where an input comes from
        return [_numbered(each, numbers) for each in value]
    return value
