"""Arrays, pipelines and PyDatasets make the same training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp.training import Trainer


class Cut(keras.utils.PyDataset):
    """Batches of arrays, cut in Python."""

    def __init__(self, data, batch_size):
        super().__init__()
        self.data, self.batch_size, self.ends = data, batch_size, 0

    def __len__(self):
        return -(-len(self.data[0]) // self.batch_size)

    def __getitem__(self, index):
        cut = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return tuple(part[cut] for part in self.data)

    def on_epoch_end(self):
        self.ends += 1


def pipeline(data, batch_size):
    return tf.data.Dataset.from_tensor_slices(data).batch(batch_size)


def of_unknown_length(data, batch_size):
    batches = pipeline(data, batch_size)
    return batches.filter(lambda *_: True)


@pytest.fixture
def losses(net, loss, replicas):
    def train(data, n=1, validation_data=None, **options):
        micro_batch = options.pop("micro_batch", None)
        model = net(replicas(n))
        trainer = Trainer(model, "sgd", loss, micro_batch=micro_batch, jit_compile=False)
        history = trainer.fit(
            data, epochs=2, verbose=0, validation_data=validation_data, **options
        ).history
        return [*history["loss"], *history.get("val_loss", []), *trainer.batch_losses]

    return train


@pytest.mark.parametrize("kind", [pipeline, of_unknown_length, Cut])
@pytest.mark.parametrize(("n", "micro_batch"), [(1, None), (1, 5), (4, None), (2, 5)])
def test_a_pipeline_trains_like_arrays(losses, blobs, kind, n, micro_batch):
    data = (*blobs, np.linspace(0, 1, 130, dtype="float32"))
    expected = losses(data, batch_size=32, shuffle=False, validation_data=data)
    found = losses(
        kind(data, 32),
        n=n,
        micro_batch=micro_batch,
        shuffle=False,
        validation_data=kind(data, 50),
        steps_per_call=2,
    )
    assert len(found) == 2 + 2 + 5
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_pydataset_is_read_in_an_order_of_seed_and_epoch(losses, blobs):
    data = Cut(blobs, 32)
    shuffled = losses(data, seed=1)
    assert data.ends == 2
    assert shuffled == losses(data, seed=1)
    assert shuffled != losses(data, seed=2)
    assert shuffled != losses(data, seed=1, shuffle=False)


def test_other_types_of_arrays(losses, blobs):
    x, y = blobs
    expected = losses((x, y), batch_size=32)
    assert losses((x.astype("float64"), y.astype("uint8")), batch_size=32) == expected
    assert losses([tf.constant(x), tf.constant(y)], batch_size=32) == expected
    assert losses((x, y, None), batch_size=32) == expected


@pytest.mark.parametrize("batch_size", [0, -1, 131, 2.5, None, True])
def test_batch_sizes_that_make_no_sense(losses, blobs, batch_size):
    with pytest.raises(ValueError, match="`batch_size` must be an integer between 1 and .* 130"):
        losses(blobs, batch_size=batch_size)


def test_arrays_of_no_use(losses, blobs):
    x, y = blobs
    nan = np.where(np.arange(130)[:, None] == 3, np.nan, x)
    for data, message in [
        ((x, y[1:]), "same first dimension"),
        ((x[:0], y[:0]), "must not be empty"),
        ((x, y[0]), "same first dimension"),
        (x, "must be labelled"),
        ((x,), "must be labelled"),
        ((x, None), "must be labelled"),
        ((nan, y), "must be finite"),
        ((x, y.astype(str)), "must hold numbers"),
    ]:
        with pytest.raises(ValueError, match=message):
            losses(data, batch_size=2)


def test_pipelines_of_no_use(losses, blobs):
    good = pipeline(blobs, 32)
    for data, message in [
        (good.repeat(), "must end"),
        (good.take(0), "must not be empty"),
        (of_unknown_length(blobs, 32).take(0), "must not be empty"),
        (good.map(lambda x, y: x), "must be labelled"),
        (Cut((blobs[0][:0], blobs[1]), 32), "must not be empty"),
    ]:
        with pytest.raises(ValueError, match=message):
            losses(data)
    with pytest.raises(ValueError, match="`batch_size` must be left out"):
        losses(good, batch_size=32)
