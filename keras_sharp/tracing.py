"""Functions as graphs of TensorFlow."""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf


def traced(function: Callable, *arguments: Any, **options: Any) -> Callable:
    """Returns `function` with its first arguments given, as a graph.

    Args:
        function: What is traced, as it is written.
        *arguments: Its first arguments.
        **options: What else `tf.function` takes.
    """
    # A partial has no code object, by which TensorFlow would take the same method of several
    # objects for one that is traced again and again, and warn.
    return tf.function(functools.partial(function, *arguments), autograph=False, **options)
