"""Fixed data in a fixed order, or an error."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharp import batches
from keras_sharp.batches import EvaluationBatches

X = np.arange(70, dtype="float32").reshape(35, 2)
Y = np.arange(35) % 3


class Pairs(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return X[index * 10 : index * 10 + 10], Y[index * 10 : index * 10 + 10]


def joined(data):
    return [
        np.concatenate(leaves) for leaves in zip(*[tuple(batch) for batch in data], strict=True)
    ]


@pytest.mark.parametrize(
    ("data", "batch_size", "sizes"),
    [
        ((X, Y), 10, [10, 10, 10, 5]),
        ([X, Y], None, [35]),
        (tf.data.Dataset.from_tensor_slices((X, Y)).batch(16), None, [16, 16, 3]),
        (tf.data.Dataset.from_tensor_slices((X, Y)).batch(16), 20, [20, 15]),
        (Pairs(), None, [10, 10, 10, 5]),
    ],
)
def test_every_source_yields_the_same_examples(data, batch_size, sizes):
    fixed = EvaluationBatches(data, batch_size)
    assert fixed.sizes == sizes and fixed.examples == 35
    for _ in range(2):
        x, y = joined(fixed)
        np.testing.assert_array_equal(x, X)
        np.testing.assert_array_equal(y, Y)
    assert fixed.digest == EvaluationBatches((X, Y), 7).digest


def test_digest_depends_on_order_type_and_shape():
    data = [(X, Y), (X[::-1], Y[::-1]), (X.astype("float64"), Y), (X.reshape(35, 2, 1), Y)]
    assert len({EvaluationBatches(each).digest for each in data}) == 4


def test_strings_and_short_floats_have_digests():
    words = np.array([b"a", b"bc", b""] * 5, dtype=object)
    for x in (words, tf.cast(X[:15], tf.bfloat16)):
        pipeline = tf.data.Dataset.from_tensor_slices((x, Y[:15])).batch(4)
        assert EvaluationBatches(pipeline).digest == EvaluationBatches((x, Y[:15])).digest
    other = np.array([b"ab", b"c", b""] * 5, dtype=object)
    digests = {EvaluationBatches((each, Y[:15])).digest for each in (words, other)}
    assert len(digests) == 2


def test_structures_and_weights():
    data = ({"a": X, "b": X[:, 0]}, [Y, Y], np.ones(35))
    x, y, weights = next(iter(EvaluationBatches(data, 4)))
    assert set(x) == {"a", "b"} and len(y) == 2 and weights.shape == (4,)


def shuffled():
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(35).batch(8)


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_a_shuffled_pipeline_is_refused(monkeypatch, cache_bytes):
    monkeypatch.setattr(batches, "_CACHE_BYTES", cache_bytes)
    with pytest.raises(ValueError, match="check_data=False"):
        EvaluationBatches(shuffled())
    assert EvaluationBatches(shuffled(), check=False).examples == 35


def test_large_pipelines_are_read_again(monkeypatch):
    monkeypatch.setattr(batches, "_CACHE_BYTES", 100)
    reads = []

    def generate():
        reads.append(0)
        yield from zip(X, Y, strict=True)

    signature = (tf.TensorSpec((2,)), tf.TensorSpec((), tf.int64))
    pipeline = tf.data.Dataset.from_generator(generate, output_signature=signature).batch(8)
    fixed = EvaluationBatches(pipeline)
    np.testing.assert_array_equal(joined(fixed)[0], X)
    assert len(reads) == 3


@pytest.mark.parametrize("check", [True, False])
def test_a_pipeline_whose_sizes_change_later_is_caught(monkeypatch, check):
    monkeypatch.setattr(batches, "_CACHE_BYTES", 0)
    lengths = iter([35, 35, 20] if check else [35, 20])

    def generate():
        length = next(lengths)
        yield from zip(X[:length], Y[:length], strict=True)

    signature = (tf.TensorSpec((2,)), tf.TensorSpec((), tf.int64))
    fixed = EvaluationBatches(
        tf.data.Dataset.from_generator(generate, output_signature=signature).batch(5), check=check
    )
    with pytest.raises(ValueError, match="the same batches"):
        list(fixed)


@pytest.mark.parametrize(
    ("data", "batch_size", "message"),
    [
        ((X[:0], Y[:0]), None, "must not be empty"),
        (tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).take(0), None, "must not be empty"),
        (X, None, "must be labelled"),
        ((X,), None, "must be labelled"),
        ((X, None), None, "must be labelled"),
        (tf.data.Dataset.from_tensor_slices(X).batch(8), None, "must be labelled"),
        ((X, Y[:-1]), None, "same first dimension"),
        (tf.data.Dataset.from_tensor_slices((X, Y)), None, "must be batched"),
        (tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).repeat(), None, "must end"),
        (Pairs(), 10, "must be left out for a PyDataset"),
        ((X, Y), 0, "an integer of at least 1"),
    ],
)
def test_errors(data, batch_size, message):
    with pytest.raises(ValueError, match=message):
        EvaluationBatches(data, batch_size)
