"""Hashes tell arrays apart, and don't tell how they were cut or laid out."""

import numpy as np

from keras_sharp.hashing import ArrayHash, joint_hash


def digest(*pieces):
    return ArrayHash(*pieces).hexdigest()


def test_pieces_and_layout_leave_no_trace():
    array = np.arange(12.0).reshape(4, 3)
    assert digest(array) == digest(array[:1], array[1:]) == digest(np.asfortranarray(array))
    assert digest(array[::2]) == digest(array[::2].copy())


def test_content_order_type_and_shape_count():
    array = np.arange(12.0).reshape(4, 3)
    others = [array + 1e-12, array[::-1], array[:3], array.reshape(3, 4), array.astype("f4")]
    found = {digest(each) for each in [array, *others, array.view(np.int64)]}
    assert len(found) == 7


def test_strings_by_content():
    def words(*values):
        return np.array(values, dtype=object)

    assert digest(words(b"ab", b"c")) == digest(words(b"ab"), words(b"c"))
    assert digest(words(b"ab", b"c")) != digest(words(b"a", b"bc"))


def test_several_arrays_count_in_their_order():
    first, second = ArrayHash(np.zeros(2)), ArrayHash(np.ones(2))
    assert joint_hash([first, second]) != joint_hash([second, first])
