"""What tells one training from another: models, losses, rules and data, in a form fit for JSON.

The same program run again, in a process in which Keras numbers its names otherwise, gives the same.
"""

import functools
import inspect
import types
from typing import Any

import keras
import numpy as np

from keras_sharp.hashing import ArrayHash

Schedule = keras.optimizers.schedules.LearningRateSchedule
_SIMPLE = (bool, int, float, str, types.NoneType, np.generic)


def describe(thing: Any) -> Any:
    """Returns class and configuration of an optimizer, a loss, a gradient rule...

    Of what has no `get_config()` the attributes with simple values count, but not those which
    `get_state()` returns, for they change. Of a function of one's own it is the name and the simple
    values it was made with, not the code.
    """
    if isinstance(thing, np.generic):
        return thing.item()
    if isinstance(thing, _SIMPLE):
        return thing
    if isinstance(thing, np.ndarray):
        return ArrayHash(np.atleast_1d(thing)).hexdigest()
    if isinstance(thing, dict):
        return {str(key): describe(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [describe(value) for value in thing]
    if isinstance(thing, types.FunctionType):
        return _function(thing)
    if isinstance(thing, functools.partial):
        return [describe(each) for each in (thing.func, thing.args, thing.keywords)]
    if isinstance(thing, type):
        return thing.__qualname__
    described = _config(thing)
    if described is not None:
        described = {name: each for name, each in described.items() if name not in _changing(thing)}
    else:
        described = _attributes(thing)
    if isinstance(thing, keras.optimizers.Optimizer):
        # A configuration holds those of its parts, with what they count as their state.
        for name in ("inner_optimizer", "_learning_rate"):
            part = getattr(thing, name, None)
            if isinstance(part, keras.optimizers.Optimizer | Schedule):
                described[name.strip("_")] = describe(part)
    if isinstance(thing, keras.losses.Loss):
        # The configurations of Keras's own losses leave out some arguments, as Huber's its delta.
        arguments = describe(getattr(thing, "_fn_kwargs", {}))
        described = _attributes(thing) | {"arguments": arguments} | described
    return {"class": type(thing).__qualname__, **described}


def describe_model(model: keras.Model) -> dict[str, Any]:
    """Returns the configuration of every layer, and what functional models make of them."""
    layers = model._flatten_layers()
    configs = [(type(layer).__qualname__, _config(layer), layer) for layer in layers]
    names = [layer.name for _, _, layer in configs]
    for _, config, _ in configs:
        names += [entry.get("name") for entry in _entries(config)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    described = {}
    for index, (kind, config, layer) in enumerate(configs):
        described[f"{index} {kind}"] = _numbered(config or {}, numbers) | _arguments(layer)
    # The layers first: what differs in one of them also differs in the models that contain it.
    return dict(sorted(described.items(), key=lambda item: "layers" in item[1]))


def _config(thing: Any) -> dict[str, Any] | None:
    """Returns the configuration, without names, or None."""
    try:
        config = thing.get_config()
    except (AttributeError, NotImplementedError, OSError):  # OSError: a lambda without its source
        return None
    return _unnamed(config)


def _unnamed(value: Any) -> Any:
    """Leaves out what differs from process to process."""
    if isinstance(value, dict):
        if value.get("class_name") == "__lambda__":
            return "lambda"  # its bytes depend on more than the code
        if "DTypePolicy" in str(value.get("class_name")):
            return value["config"]["name"]
        left_out = {"name", "build_config", "shared_object_id"}
        if "inbound_nodes" in value:
            left_out.remove("name")  # gets a number
        return {str(key): _unnamed(each) for key, each in value.items() if key not in left_out}
    if isinstance(value, list | tuple):
        return [_unnamed(each) for each in value]
    return describe(value)


def _entries(config: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Returns the layers and operations in the configuration of a functional model."""
    layers = (config or {}).get("layers")
    if not isinstance(layers, list):
        return []
    return [entry for entry in layers if isinstance(entry, dict) and "inbound_nodes" in entry]


def _numbered(value: Any, numbers: dict[str, int]) -> Any:
    """Replaces the names of layers where a configuration says how layers are connected."""
    if isinstance(value, dict):
        value = {k: numbers.get(v, v) if k == "name" else v for k, v in value.items()}
        return {key: _numbered(each, numbers) for key, each in value.items()}
    if isinstance(value, list):
        if len(value) == 3 and isinstance(value[0], str) and value[0] in numbers:
            return [numbers[value[0]], *value[1:]]
        return [_numbered(each, numbers) for each in value]
    return value


def _arguments(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns the arguments that a layer or model of one's own keeps under their names.

    Where it has no `get_config()` of its own, Keras's guess at them is wrong or missing.
    """
    if type(layer).__module__.split(".")[0] == "keras":
        return {}
    names, values = inspect.signature(type(layer).__init__).parameters, _attributes(layer)
    kept = {name: values.get(name, values.get(f"_{name}")) for name in names}
    return {name: value for name, value in kept.items() if value is not None}


def _attributes(thing: Any) -> dict[str, Any]:
    changing = {"name", "built", "_lock", *_changing(thing)}
    slots = keras.optimizers.Optimizer, keras.optimizers.schedules.LearningRateSchedule
    kept = (*_SIMPLE, types.FunctionType, *slots)
    attributes = getattr(thing, "__dict__", {})
    return {
        name: describe(value)
        for name, value in attributes.items()
        if name not in changing and isinstance(value, kept)
    }


def _changing(thing: Any) -> set[str]:
    """Returns the names of what a thing counts as its state."""
    state = thing.get_state() if hasattr(thing, "get_state") else None
    return set(state) if isinstance(state, dict) else set()


def _function(function: types.FunctionType) -> Any:
    if function.__module__.split(".")[0] == "keras":
        return function.__qualname__
    cells = function.__closure__ or ()
    values = [*(function.__defaults__ or ()), *(cell.cell_contents for cell in cells)]
    simple = [value for value in values if isinstance(value, _SIMPLE)]
    return {"function": function.__qualname__, "values": simple}
