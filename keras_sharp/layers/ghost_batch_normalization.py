"""Ghost batch normalization: the statistics of small batches, within large ones."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_sharp")
class GhostBatchNormalization(keras.layers.BatchNormalization):
    """BatchNormalization by the statistics of small parts of the batch, its ghost batches.

    In training the batch is cut, in its order, into ghost batches of `virtual_batch_size` examples
    (`k` of them), and each is normalized by its own mean and variance:

        y = gamma (x - mean_j) / sqrt(variance_j + epsilon) + beta        for x in ghost batch j

    The last one also takes what is left over, so that none is smaller than the others; a batch of
    fewer than `2 * virtual_batch_size` examples is a single ghost batch. The moving statistics
    follow the means of `mean_j` and of `variance_j`, weighted by their examples, with the momentum
    as it is. At inference this is `keras.layers.BatchNormalization`.

    A ghost batch is never larger than the part of the batch a device passes over at once. Under a
    strategy each replica cuts its own part, and so does each micro-batch of
    `keras_sharp.training.Trainer`: 1 and N replicas take the same step if these parts are multiples
    of `virtual_batch_size`. That is all there is to synchronize, so `synchronized` is no argument.
    The `Trainer` averages the moving statistics over replicas; under `keras.Model.fit` each keeps
    its own, as with any BatchNormalization that is not synchronized.

    In `keras_sharp.Objective` with `batch_norm="batch"` the evaluation batch is cut into ghost
    batches as a batch in training is. Second derivatives are exact.

    Args:
        virtual_batch_size: Examples of a ghost batch. The paper's code has 128.
        axis: The axis of the features.
        momentum: Momentum of the moving statistics.
        epsilon: Added to the variance.
        **kwargs: As for `keras.layers.BatchNormalization`, without `synchronized` and `renorm`.

    Raises:
        ValueError: If `virtual_batch_size` is not a positive integer, or an argument asks for what
            ghost batches don't have; when called with a mask.

    Example:
    ```python
    layer = GhostBatchNormalization(virtual_batch_size=64, momentum=0.9)
    model = with_ghost_batch_normalization(model, virtual_batch_size=64)
    ```

    References:
        - [Hoffer et al., 2017](https://arxiv.org/abs/1705.08741)
    """

    def __init__(
        self,
        virtual_batch_size: int = 128,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        **kwargs: Any,
    ):
        if not isinstance(virtual_batch_size, int) or virtual_batch_size < 1:
            raise ValueError(
                "`virtual_batch_size` must be an integer of at least 1. Received: "
                f"virtual_batch_size={virtual_batch_size!r}"
            )
        for name in ("synchronized", "renorm"):
            if kwargs.get(name):
                raise ValueError(
                    f"`{name}` must be left out: a ghost batch is part of what one device passes "
                    f"over, normalized by itself. Received: {name}={kwargs[name]}"
                )
        super().__init__(axis, momentum, epsilon, **kwargs)
        self.virtual_batch_size = virtual_batch_size
        self.supports_masking = False

    def build(self, input_shape: tuple) -> None:
        """Creates the weights.

        Raises:
            ValueError: If `axis` is that of the examples.
        """
        if self.axis % len(input_shape) == 0:
            raise ValueError(
                f"`axis` must not be that of the examples. Received: axis={self.axis}, "
                f"input_shape={input_shape}"
            )
        super().build(input_shape)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Returns the normalized inputs, and in training updates the moving statistics."""
        if mask is not None:
            raise ValueError(
                "`GhostBatchNormalization` takes no mask. Use `keras.layers.BatchNormalization` "
                f"there. Received: mask of shape {mask.shape}"
            )
        if not (training and self.trainable):
            return super().call(inputs, training=False)
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        size, ghosts = ops.shape(x)[0], self.virtual_batch_size
        if isinstance(size, int) and size % ghosts == 0 and size:
            parts = [(x, size // ghosts, ghosts)]
        else:
            largest = max if isinstance(size, int) else ops.maximum
            others = largest(size // ghosts - 1, 0)
            first = others * ghosts
            parts = [(x[:first], others, ghosts), (x[first:], 1, size - first)]
        results = [self._normalized(*part) for part in parts]
        outputs = ops.concatenate([outputs for outputs, _, _ in results])
        self._follow(self.moving_mean, [mean for _, mean, _ in results], size)
        self._follow(self.moving_variance, [variance for _, _, variance in results], size)
        return ops.cast(outputs, self.compute_dtype)

    def _normalized(self, x: Any, count: Any, size: Any) -> tuple[Any, Any, Any]:
        """Returns a part normalized as `count` ghost batches of `size`, and its statistics.

        The statistics are sums over ghost batches, times the number of examples in each.
        """
        shape = ops.shape(x)
        ghosts = ops.reshape(x, (count, size, *shape[1:]))
        feature = self.axis % len(shape) + 1
        axes = [axis for axis in range(1, len(shape) + 1) if axis != feature]
        mean = ops.mean(ghosts, axes, keepdims=True)
        # Not `ops.moments`, whose second derivative is wrong in TensorFlow.
        variance = ops.mean(ops.square(ghosts - mean), axes, keepdims=True)
        along = [1] * (len(shape) + 1)
        along[feature] = -1
        factor = ops.rsqrt(variance + self.epsilon)
        if self.scale:
            factor *= ops.reshape(ops.cast(self.gamma, x.dtype), along)
        outputs = (ghosts - mean) * factor
        if self.center:
            outputs += ops.reshape(ops.cast(self.beta, x.dtype), along)
        weight = ops.cast(size, x.dtype)
        sums = [weight * ops.sum(each, [0, *axes]) for each in (mean, variance)]
        return ops.reshape(outputs, shape), *sums

    def _follow(self, moving: keras.Variable, sums: list, size: Any) -> None:
        now = sum(sums) / ops.cast(size, sums[0].dtype)
        old = ops.cast(moving, now.dtype)
        moving.assign(old * self.momentum + now * (1.0 - self.momentum))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the layer was made with."""
        return {**super().get_config(), "virtual_batch_size": self.virtual_batch_size}
