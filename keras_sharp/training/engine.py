"""The two graphs of a training, built for a model as it is compiled."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_sharp.losses import LossTerms
from keras_sharp.training.communication import AllReduce
from keras_sharp.training.evaluation import EvaluationStep
from keras_sharp.training.forward import Forward
from keras_sharp.training.jit import jit_pays
from keras_sharp.training.loop import Loop
from keras_sharp.training.own_weights import OwnWeights
from keras_sharp.training.passes import Passes
from keras_sharp.training.step import TrainStep
from keras_sharp.training.strategy import check_optimizer


class Engine:
    """Compiles a model and makes the loops that train and evaluate it.

    They are built again when the model was compiled again, or other weights became trainable.

    Args:
        model: A Keras model.
        strategy: Its strategy.
        compile_arguments: Those of `compile`.
        gradient: The gradient rule.
        communication: How replicas agree on a gradient.
        micro_batch: Largest number of examples a replica processes at once. None: no limit.
        jit_compile: True, False or `"auto"`.

    Attributes:
        noise: Whether steps compute the figures of noise. Set it before `build`.
        training: The loop that takes steps, once `build` was called.
        evaluation: The loop that evaluates.
    """

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy,
        compile_arguments: dict[str, Any],
        gradient: Callable,
        communication: Callable,
        micro_batch: int | None,
        jit_compile: bool | str,
    ):
        self._model = model
        self._strategy = strategy
        self._compile_arguments = compile_arguments
        self._gradient = gradient
        self._communication = communication
        self._micro_batch = micro_batch
        self._jit_compile = jit_compile
        self.noise = False
        self._built_for: tuple | None = None
        self._compile()

    def build(self, example: tuple) -> None:
        """Builds what is not built yet for the model as it is now.

        Args:
            example: A batch.

        Raises:
            ValueError: If the model has no trainable weights, or updates what can't be kept.
        """
        model = self._model
        if self._compiled is not model._compile_config:
            self._compile()
        with self._strategy.scope():
            model._symbolic_build(data_batch=example)
        if not model.trainable_variables:
            raise ValueError(
                f"`model` must have trainable weights. Received: {model.name!r} without"
            )
        if self.noise and not isinstance(self._communication, AllReduce):
            raise ValueError(
                "`communication` must be `AllReduce()` to know the gradient of the whole batch, "
                "which the noise scale needs. Received: "
                f"communication={type(self._communication).__name__}"
            )
        own_weights = isinstance(self._communication, OwnWeights)
        if own_weights and getattr(self._gradient, "keeps_weights", False):
            raise ValueError(
                f"`gradient` can't be {type(self._gradient).__name__}, which keeps old weights, "
                "under a communication that leaves replicas weights of their own: a checkpoint "
                "would hold those of one replica. Use `AllReduce()`, or a `tau` of 0. Received: "
                f"communication={type(self._communication).__name__}"
            )
        built_for = self._compiled, [id(v) for v in model.trainable_variables], self.noise
        if self._built_for == built_for:
            return
        forward = Forward(model, LossTerms(model))
        graph = self._trace(forward, example)
        jit = self._jit_compile
        if jit == "auto":
            jit = jit_pays(model, graph, self._strategy)
        if hasattr(self._gradient, "build"):
            with self._strategy.scope():
                self._gradient.build(forward.trainable, forward.statistics)
        communication, noise = self._communication, self.noise
        if isinstance(communication, OwnWeights):
            with self._strategy.scope():
                communication.build(self._strategy, model, forward)
        passes = Passes(self._strategy, forward, communication, self._micro_batch, jit, noise)
        parts = model.optimizer, forward, passes, self._gradient, jit, communication
        step = TrainStep(self._strategy, *parts)
        self.training = Loop(step)
        terms = len(forward.terms)
        self.evaluation = Loop(EvaluationStep(model, self._strategy, terms, jit, self._micro_batch))
        self._built_for = built_for

    def consensus(self) -> contextlib.AbstractContextManager[dict[str, float]]:
        """Makes the model the mean of the replicas for a while; see `OwnWeights`."""
        if isinstance(self._communication, OwnWeights):
            return self._communication.consensus()
        return contextlib.nullcontext({})

    def settled(self) -> contextlib.AbstractContextManager[None]:
        """Leaves the mean of the replicas in the model at last; see `OwnWeights`."""
        if isinstance(self._communication, OwnWeights):
            return self._communication.settled()
        return contextlib.nullcontext()

    def _compile(self) -> None:
        with self._strategy.scope():
            self._model.compile(**self._compile_arguments, jit_compile=False)
        check_optimizer(self._model.optimizer, self._strategy)
        self._compile_arguments["optimizer"] = self._model.optimizer
        self._compiled = self._model._compile_config

    def _trace(self, forward: Forward, example: tuple) -> tf.Graph:
        """Traces forward passes, which tell what they update and what the loss is made of."""
        branches = dict.fromkeys(["main", getattr(self._gradient, "branch", "main")])

        def spec(part):
            part = tf.convert_to_tensor(part)
            return tf.TensorSpec([None, *part.shape[1:]], part.dtype)

        def run(batch):
            for branch in branches:
                predict = functools.partial(forward.predict, branch=branch)
                with forward.on_branch(branch):
                    self._strategy.run(predict, args=(batch,))

        specs = keras.tree.map_structure(spec, example)
        return tf.function(run, autograph=False).get_concrete_function(specs).graph
