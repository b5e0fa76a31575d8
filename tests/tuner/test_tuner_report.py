"""What is written of a search, and that nothing is missing from it."""

import base64
import csv
import html.parser
import json
import sys

import pytest
from planted import a_record
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import metadata

from keras_sharp.tuner import report
from keras_sharp.tuner.page import make_page
from keras_sharp.tuner.recommendation import recommend
from keras_sharp.tuner.records import Records, write_json


def values(batch_size, rate=0.08):
    return {"batch_size": batch_size, "learning_rate": rate, "optimizer": "sgd"}


def found(trainings, failures=(), **arguments):
    settings = {"seeds": 2, "base_batch_size": 32, "max_gap": 0.01, **arguments}
    return recommend(trainings, failures, **settings)


def both_seeds(batch_size, rate=0.08, **other):
    return [a_record(values(batch_size, rate), seed, 20, 20, **other) for seed in (0, 1)]


def test_the_errors_by_hand():
    a = [a_record(values(32), s, 20, 20, validation_accuracy=v) for s, v in enumerate((0.9, 0.92))]
    b = [a_record(values(64), s, 20, 20, validation_accuracy=v) for s, v in enumerate((0.9, 0.91))]
    result = found(a + b)
    # Standard errors of two seeds are half their difference: 0.01 and 0.005.
    assert result.batch_size == 64
    assert result.accuracy_lost == pytest.approx(0.005)
    assert result.accuracy_lost_error == pytest.approx((0.01**2 + 0.005**2) ** 0.5)
    assert "More seeds are needed" in result.status
    assert found(a + b, max_gap=0.004).batch_size == 32
    # 0.91 - 0.905 is a little more than 0.005.
    assert found(a + b, max_gap=0.005).batch_size == 64


def test_what_the_status_doubts():
    failed = [{"values": values(512), "epochs": 20, "reason": "boom"}]
    even = both_seeds(32) + both_seeds(64, peak_learning_rate=None)
    result = found(even, failures=failed)
    assert result.batch_size == 64 and "every point failed: 512" in result.status
    assert "largest batch tried" not in result.status and "unfair" not in result.status
    uneven = found(even + both_seeds(32, 0.16))
    assert uneven.points_by_batch == {"32": 2, "64": 1}
    assert "2 of batch 32, 1 of batch 64" in uneven.status
    assert "largest batch tried" in uneven.status
    # A rate that is not the same for all seeds is nobody's.
    assert found(both_seeds(32)).peak_learning_rate is not None
    one, two = both_seeds(32)
    assert found([one, two | {"peak_learning_rate": 7.0}]).peak_learning_rate is None


def test_a_rate_that_was_not_scaled_is_said_once():
    facts = sys.modules["keras_sharp.tuner.report"]._facts
    scaled = facts(found(both_seeds(32) + both_seeds(64)), 0)
    assert scaled["learning rate"] == "0.1131, which is 0.08 at the base batch"
    plain = both_seeds(32, sharpness=None) + both_seeds(64, peak_learning_rate=0.08)
    plain = facts(found(plain), 0)
    assert plain["learning rate"] == "0.08"
    assert plain["sharpness"] == "64, reference unknown; no part in the choice"


def test_a_noise_scale_that_is_unknown_is_not_averaged_away():
    noise = sys.modules["keras_sharp.tuner.report"]._noise
    one, two, none = ({"value": value, "status": "Too noisy."} for value in (2470.2, 11985, None))
    assert noise([two, none, one]) == "2470 to 11985 examples, unknown for 1 of 3 seeds"
    assert noise([one]) == "2470 examples"
    assert noise([none, none]) == "unknown. Too noisy."


def test_cells_go_by_the_names_of_their_columns():
    rows = [{"a": 1, "c": 3}, {"a": 4, "b": 5, "c": 6}]
    cells = [c for c in Page(make_page("", {"x": "y"}, {}, {"T": rows})).cells if c.strip()]
    assert cells[-8:] == ["a", "c", "b", "1", "3", "4", "6", "5"]


def test_only_whole_points_count():
    unfinished = both_seeds(64)[:1]
    short = [a_record(values(128), seed, 3, 20) for seed in (0, 1)]
    result = found(both_seeds(32) + unfinished + short)
    assert (result.batch_size, result.points) == (32, 1)
    with pytest.raises(RuntimeError, match="No point"):
        found(unfinished)
    assert "batch 64 stands in for it" in found(both_seeds(64)).status


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.addresses, self.cells = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.addresses += [v for name, v in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.cells.append(data)


def test_everything_is_written(tmp_path, capsys):
    records = Records(tmp_path)
    space = {"base_batch_size": 32}
    settings = {"space": space, "data": {"name": "planted"}}
    records.begin(settings, {"model": "<model>", "seeds": [0, 1]})
    trainings = [r for size in (32, 64, 512) for r in both_seeds(size)] + both_seeds(64, 0.16)
    for each in trainings:
        file = records.file(each["values"], 20, each["seed"])
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, each)
    failed = values(512, 0.32)
    records.folder(failed).mkdir()
    write_json(records.failure_file(failed, 20), {"values": failed, "epochs": 20, "reason": "boom"})

    result = report(tmp_path, max_gap=0.01)
    assert result.batch_size == 64
    noise = [{"seed": seed, "value": 150.0 + seed, "error": 10.0} for seed in (0, 1)]
    assert result.noise_scale == [each | {"status": "It is clear."} for each in noise]
    # Four epochs of 32 to two of 64, by the formula for a training of 20 epochs in planted.py.
    assert result.step_speed_up == 32 / 16
    assert result.time_speed_up == pytest.approx((0.1 + 10 / 32) / (0.1 + 10 / 64))
    printed = capsys.readouterr().out
    assert "recommended batch" in printed and "150 to 151 examples; of" in printed
    target = tmp_path / "report"
    with open(target / "trials.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(trainings) + 1 == len(json.loads((target / "trials.json").read_text()))
    places = [(int(row["batch_size"]), float(row["learning_rate"]), row["seed"]) for row in rows]
    assert places[:-1] == sorted(places[:-1])
    point = [row for row in rows if (row["batch_size"], row["learning_rate"]) == ("64", "0.16")]
    assert [float(row["validation_accuracy"]) for row in point] == [
        each["validation_accuracy"] for each in trainings[-2:]
    ]
    assert rows[-1]["status"] == "failed: boom"

    # The page needs nothing else: its only addresses are its pictures.
    page = Page((target / "index.html").read_text())
    assert len(page.addresses) == 2
    for address, name in zip(page.addresses, ("heat-map.png", "accuracy.png"), strict=True):
        start, _, data = address.partition(",")
        assert start == "data:image/png;base64"
        assert base64.b64decode(data) == (target / name).read_bytes()
    assert "failed: boom" in page.cells and "<model> on planted: which batch size?" in page.cells

    files = list((target / "hparams").rglob("events*"))
    assert len(files) == len(trainings)
    (run,) = [f for f in files if "batch-32." in str(f) and "seed-1" in str(f)]
    values_of = {
        v.tag: v for event in EventFileLoader(str(run)).Load() for v in event.summary.value
    }
    accuracy = values_of["validation_accuracy"].tensor.float_val[0]
    assert accuracy == pytest.approx(both_seeds(32)[1]["validation_accuracy"])
    start = metadata.parse_session_start_info_plugin_data(
        values_of[metadata.SESSION_START_INFO_TAG].metadata.plugin_data.content
    )
    assert start.hparams["batch_size"].number_value == 32


def test_no_search_in_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no search in"):
        report(tmp_path)
