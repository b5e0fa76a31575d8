"""How the paper trains its networks: data, batch sizes, seeds, optimizer, and a training itself."""

import dataclasses
import json
import time
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from run_folder import RunFolder, hardware, versions, write, write_weights
from run_progress import Display, ShowEpochs

from keras_sharp import datasets
from keras_sharp.networks import NETWORKS
from keras_sharp.training import Trainer

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def make_optimizer() -> keras.optimizers.Optimizer:
    """Returns ADAM with the defaults of Keras 1, which trained the paper's networks."""
    return keras.optimizers.Adam(1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-8)


def trial_seed(seed: int, trial: int) -> int:
    """Returns the seed of everything random in a trial: weights, order, dropout and subspace."""
    return int(np.random.SeedSequence([seed, trial]).generate_state(1)[0])


def load(name: str, data_dir: str | None = None, limit: int | None = None) -> datasets.Data:
    """Returns a data set, cut to its first examples if there is a limit."""
    data, first = datasets.load(name, data_dir=data_dir), slice(limit)
    arrays = ("x_train", "y_train", "x_test", "y_test")
    return dataclasses.replace(data, **{each: getattr(data, each)[first] for each in arrays})


def tenth(examples: int) -> int:
    """Returns the large batch: a tenth of the training examples, rounded up.

    So an epoch has ten nearly equal batches and no tiny eleventh, whose own statistics
    BatchNormalization would use.
    """
    return -(-examples // 10)


def batch_sizes(small: int, large: int | None, examples: int) -> dict[str, int]:
    """Returns the batch size of each regime.

    Args:
        small: The small batch.
        large: The large batch; None for a tenth of the training examples.
        examples: Number of training examples.

    Raises:
        ValueError: If not `small < large <= examples`.
    """
    origin = "--large-batch" if large else f"10 % of {examples} training examples"
    large = large or tenth(examples)
    if large <= small:
        raise ValueError(
            "The large batch must be larger than the small one. "
            f"Received: {large} ({origin}) and {small} (--small-batch)"
        )
    if large > examples:
        raise ValueError(
            f"The large batch must be at most the number of training examples, {examples}. "
            f"Received: {large} ({origin})"
        )
    return {"small": small, "large": large}


class Training:
    """Trains one network as the paper does, as often as asked, and keeps each training in a folder.

    Args:
        network: "F1" to "C4".
        data: What it is trained on.
        epochs: Of each training.
        seed: Of the whole experiment; a trial's own follows from it.
        folder: Where weights, history and, while it is not finished, a checkpoint are kept.
        display: Says what is done.
    """

    def __init__(
        self,
        network: str,
        data: datasets.Data,
        *,
        epochs: int,
        seed: int,
        folder: RunFolder,
        display: Display,
    ):
        self.network, self.data, self.epochs, self.seed = network, data, epochs, seed
        self.folder, self.display = folder, display
        several = len(tf.config.list_physical_devices("GPU")) > 1
        mirrored = tf.distribute.MirroredStrategy
        self.strategy = mirrored() if several else tf.distribute.get_strategy()

    def build(self) -> keras.Model:
        """Returns the network, untrained, under the strategy."""
        with self.strategy.scope():
            return NETWORKS[self.network].build(
                self.data.input_shape,
                self.data.classes,
                synchronized=self.strategy.num_replicas_in_sync > 1,
            )

    def train(
        self,
        trial: int,
        regime: str,
        batch_size: int,
        title: str,
        *,
        start: list[np.ndarray] | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> None:
        """Trains the network once, or goes on where that was stopped.

        All regimes of a trial start from the same weights, unless others are given.

        Args:
            trial: Number of the trial.
            regime: Name of what is tried, among the trial's files.
            batch_size: Global batch size.
            title: Name of the training for readers.
            start: Weights to start from, as `model.get_weights` returns them.
            callbacks: More callbacks; what they add to the logs is in the record's history.
        """
        file = self.folder.path(self.network, trial, regime, "training.json")
        checkpoint = file.with_name(f"{regime}.checkpoint.npz")
        file.parent.mkdir(parents=True, exist_ok=True)
        if checkpoint.exists():
            self.display.say(f"{title}: going on from its last finished epoch")
        elif file.exists():
            self.display.say(f"{title}: its weights are gone, so it is trained and measured again")
            for old in [*file.parent.glob(f"{regime}.*"), *file.parent.glob("*-path.json")]:
                old.unlink()
        file.unlink(missing_ok=True)
        self.display.show(title, "preparing")
        seed = trial_seed(self.seed, trial)
        keras.utils.set_random_seed(seed)
        progress = ShowEpochs(self.display, (self.network, regime), title, self.epochs)
        began = time.perf_counter()
        try:
            model = self.build()
            if start is not None:
                model.set_weights(start)
            with self.strategy.scope():
                optimizer = make_optimizer()
            history = Trainer(model, optimizer, LOSS).fit(
                (self.data.x_train, self.data.y_train),
                batch_size=batch_size,
                epochs=self.epochs,
                callbacks=[progress, *callbacks],
                seed=seed,
                checkpoint=checkpoint,
                verbose=0,
            )
        finally:
            progress.finish()
        seconds = time.perf_counter() - began
        write_weights(file.with_name(f"{regime}.weights.h5"), model)
        record = {
            "network": self.network,
            "data": self.data.name,
            "trial": trial,
            "regime": regime,
            "batch_size": batch_size,
            "epochs": self.epochs,
            "seed": seed,
            "examples": len(self.data.x_train),
            "replicas": self.strategy.num_replicas_in_sync,
            "seconds_since_last_start": seconds,
            "history": {name: [float(v) for v in each] for name, each in history.history.items()},
            "versions": versions(),
            "hardware": hardware(),
        }
        write(file, json.dumps(record))  # last: it says that the training is finished
        checkpoint.unlink(missing_ok=True)
        loss = history.history["loss"][-1]
        self.display.say(f"{title}: {self.epochs} epochs, loss {loss:.3g}, {seconds:.0f} s")
