"""What is written of a search, and that nothing is missing from it."""

import base64
import csv
import html.parser
import json

import pytest
from planted import a_record
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import metadata

from keras_sharp.tuner import report
from keras_sharp.tuner.recommendation import recommend
from keras_sharp.tuner.records import Records, write_json


def values(batch_size, rate=0.08):
    return {"batch_size": batch_size, "learning_rate": rate, "optimizer": "sgd"}


def found(trainings, **arguments):
    settings = {"seeds": 2, "base_batch_size": 32, "max_gap": 0.01, **arguments}
    return recommend(trainings, **settings)


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
    settings = {"seeds": [0, 1], "space": space, "data": {"name": "planted"}}
    records.begin(settings, {"model": "<model>"})
    trainings = [r for size in (32, 64, 512) for r in both_seeds(size)] + both_seeds(64, 0.16)
    for each in trainings:
        file = records.file(each["values"], 20, each["seed"])
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, each)
    failed = values(512, 0.32)
    records.folder(failed).mkdir()
    write_json(records.failure_file(failed, 20), {"values": failed, "epochs": 20, "reason": "boom"})

    result = report(tmp_path, max_gap=0.01)
    assert result.batch_size == 64 and result.noise_scale == 150
    printed = capsys.readouterr().out
    assert "recommended batch" in printed and "150 examples" in printed
    target = tmp_path / "report"
    with open(target / "trials.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(trainings) + 1 == len(json.loads((target / "trials.json").read_text()))
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
