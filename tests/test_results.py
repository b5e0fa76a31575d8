"""Results survive JSON and refuse other people's."""

import dataclasses

import numpy as np
import pytest

from keras_sharp.results import Result
from keras_sharp.results.base import NOT_IN_JSON


@dataclasses.dataclass(frozen=True)
class Pair(Result):
    value: float
    settings: dict


def test_round_trip():
    pair = Pair(0.1 + 0.2, {"a": [1, None, "x"]})
    assert Pair.from_json(pair.to_json(indent=1)) == pair


@pytest.mark.parametrize(
    "text", ["[1]", '{"value": 1}', '{"value": 1, "settings": {}, "more": 2}', "{"]
)
def test_foreign_json_is_an_error(text):
    with pytest.raises(ValueError):
        Pair.from_json(text)


def test_a_number_that_json_has_no_word_for_is_an_error():
    with pytest.raises(ValueError):
        Pair(float("nan"), {}).to_json()


@dataclasses.dataclass(frozen=True)
class Arrays(Result):
    values: np.ndarray
    vectors: np.ndarray | None = dataclasses.field(metadata=NOT_IN_JSON)


def test_arrays_come_back_to_the_bit_and_large_ones_stay_out():
    values = np.random.default_rng(0).normal(size=(3, 2))
    text = Arrays(values, np.ones((10**6,))).to_json()
    back = Arrays.from_json(text)
    np.testing.assert_array_equal(back.values, values)
    assert back.vectors is None
    assert len(text) < 1000


def test_a_live_object_is_an_error():
    with pytest.raises(TypeError, match="NumPy"):
        Pair(1.0, {"model": object()}).to_json()
