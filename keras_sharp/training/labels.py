"""Whether integer labels in memory are classes of the model, known before the first step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_sharp.losses import Term


class LabelCheck(NamedTuple):
    """What tells labels that are classes from others.

    Attributes:
        index: Which array of the flattened data holds the labels.
        classes: Number of classes, None if the model does not tell.
        in_range: Returns a scalar bool for an array of labels.
    """

    index: int
    classes: int | None
    in_range: Callable

    def __call__(self, arrays: list[np.ndarray]) -> None:
        """Checks the labels among the flattened data.

        Raises:
            ValueError: If some are no class.
        """
        labels = arrays[self.index]
        if not bool(self.in_range(labels)):
            raise ValueError(
                "Labels must be integers between 0 and the number of classes - 1. Received: labels "
                f"from {labels.min()} to {labels.max()}, for {self.classes} classes"
            )


def label_checks(
    inputs: list[tf.Tensor], terms: list[Term], y_pred: Any, names: list[str] | None
) -> list[LabelCheck]:
    """Returns a check for each term of a loss that has classes.

    Args:
        inputs: The flattened data in the graph of a forward pass.
        terms: Its terms of the loss.
        y_pred: Its predictions.
        names: Those of the model's outputs.
    """
    checks = []
    for term in terms:
        nodes = _nodes_behind(term.labels_in_range)
        sources = {node.name for node in nodes if not node.input and node.op != "Const"}
        known = {tensor.op.name: i for i, tensor in enumerate(inputs)}
        # A term without classes depends on nothing, and labels made by the model can't be known.
        if len(sources) == 1 and sources <= set(known):
            [source] = sources
            index = known[source]
            in_range = _function(nodes, term.labels_in_range, inputs[index])
            checks.append(LabelCheck(index, _classes(y_pred, term.name, names), in_range))
    return checks


def _nodes_behind(tensor: tf.Tensor) -> list[Any]:
    """Returns the nodes that decide the value of a tensor of a graph."""
    found, nodes = [tensor.op], {}
    while found:
        op = found.pop()
        if op.name not in nodes:
            nodes[op.name] = node = op.node_def
            data = [name for name in node.input if not name.startswith("^")]
            del node.input[:]
            node.input.extend(data)
            found += [each.op for each in op.inputs]
    return list(nodes.values())


def _function(nodes: list[Any], result: tf.Tensor, argument: tf.Tensor) -> Callable:
    """Returns a part of a graph as a function, without the forward pass around it."""
    definition = tf.compat.v1.GraphDef(node=nodes, versions=result.graph.graph_def_versions)

    def run(value):
        value = tf.cast(value, argument.dtype)
        return tf.graph_util.import_graph_def(definition, {argument.name: value}, [result.name])[0]

    return tf.function(run, autograph=False)


def _classes(y_pred: Any, name: str, names: list[str] | None) -> int | None:
    outputs = keras.tree.flatten(y_pred)
    if len(outputs) == 1:
        return outputs[0].shape[-1]
    if isinstance(y_pred, dict):
        return y_pred[name].shape[-1] if name in y_pred else None
    return outputs[names.index(name)].shape[-1] if names and name in names else None
