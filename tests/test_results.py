"""Results survive JSON and refuse other people's."""

import dataclasses

import pytest

from keras_sharp.results import Result


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
