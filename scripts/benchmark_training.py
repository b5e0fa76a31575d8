"""Images per second of the Trainer over those of hand-written loops, beside `Model.fit`."""

import functools
import time
from collections.abc import Callable

import keras
import numpy as np
import rich.table
import tensorflow as tf
from benchmark_cases import LOSS, Sizes, compiled, console, images, seconds_of, short_of_memory

from keras_sharp.networks import NETWORKS
from keras_sharp.training import Trainer


def bare_epoch(model: keras.Model, x, y, batch_size: int, jit_compile: bool) -> Callable[[], None]:
    """The loop one writes by hand: a compiled step, called from Python on tensors in memory."""
    variables = [variable.value for variable in model.trainable_variables]
    model.optimizer.build(model.trainable_variables)
    x, y = tf.constant(x), tf.constant(y)

    @tf.function(jit_compile=jit_compile)
    def step(chosen):
        images, labels = tf.gather(x, chosen), tf.gather(y, chosen)
        with tf.GradientTape() as tape:
            loss = LOSS(labels, model(images, training=True))
        model.optimizer.apply(tape.gradient(loss, variables), model.trainable_variables)
        return loss

    def epoch():
        order = tf.random.shuffle(tf.range(len(x)))
        for start in range(0, len(x), batch_size):
            loss = step(order[start : start + batch_size])
        loss.numpy()

    return epoch


class Stopwatch(keras.callbacks.Callback):
    """Seconds of every epoch."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.began)


def second_epoch(fit: Callable[..., object], *data, batch_size: int) -> Callable[[], float]:
    """An action that trains two epochs and returns the seconds of the second, which is traced."""
    watch = Stopwatch()

    def run() -> float:
        fit(*data, batch_size=batch_size, epochs=2, callbacks=[watch], verbose=0)
        return watch.seconds[-1]

    return run


def training(sizes: Sizes) -> rich.table.Table:
    table = rich.table.Table(
        title="Training, images/s (ratio to the faster bare loop; goal for Trainer: >= 1)"
    )
    for head in ("network", "data", "batch", "bare loop", "bare, jitted", "Trainer", "Model.fit"):
        table.add_column(head, justify="right")
    for network, data, batch_size, batches, gigabytes in sizes.training:
        reason = short_of_memory(gigabytes)
        if reason:
            table.add_row(network, data, str(batch_size), reason, *["-"] * 3)
            console.print(f"{network}, {data}, batch {batch_size}: {reason}")
            continue
        x, y = images(data, batch_size * batches)
        fitted = compiled(network, x.shape[1:])
        trainer = Trainer(NETWORKS[network].build(x.shape[1:], 10), keras.optimizers.Adam(), LOSS)
        contenders = {
            "trainer": second_epoch(trainer.fit, (x, y), batch_size=batch_size),
            "fit": second_epoch(fitted.fit, x, y, batch_size=batch_size),
        }
        # XLA takes about twice the memory for convolutions.
        bare = {"bare": False, "jitted": True}
        if short_of_memory(2 * gigabytes):
            del bare["jitted"]
        for name, jit_compile in bare.items():
            epoch = bare_epoch(compiled(network, x.shape[1:]), x, y, batch_size, jit_compile)
            contenders[name] = functools.partial(seconds_of, epoch)
        for warm_up in contenders.values():
            warm_up()
        rounds = [{name: run() for name, run in contenders.items()} for _ in range(sizes.rounds)]
        cells = []
        for name in ("bare", "jitted", "trainer", "fit"):
            if name not in contenders:
                cells.append("no memory")
                continue
            rate = np.median([len(x) / each[name] for each in rounds])
            ratio = np.median([min(each[b] for b in bare) / each[name] for each in rounds])
            cells.append(f"{rate:,.0f} ({ratio:.2f})")
        table.add_row(network, data, str(batch_size), *cells)
        console.print(f"{network}, {data}, batch {batch_size}: {cells}")
    return table
