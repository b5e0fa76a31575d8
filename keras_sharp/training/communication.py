"""How replicas agree on a gradient: by adding all of them up."""

import tensorflow as tf


class AllReduce:
    """Every replica gets the gradient of the global batch.

    A communication is called on every replica with that replica's own part of the gradient, before
    anything was exchanged, and returns what the replica's optimizer gets.
    """

    def __call__(self, gradients: list[tf.Tensor], share: tf.Tensor) -> list[tf.Tensor]:
        """Returns the sum over the replicas.

        Args:
            gradients: The replica's part, a tensor for each trainable weight. The parts of all
                replicas add up to the gradient of the global batch; divided by `share` it is the
                gradient of the replica's own examples.
            share: Scalar float32, the replica's fraction of the examples of the batch. It may be 0.
        """
        return tf.distribute.get_replica_context().all_reduce("SUM", gradients)
