import csv
import io
import math

import pytest
from keskar_tables import (
    PAPER,
    Measured,
    Statistic,
    as_csv,
    markdown,
    ratio,
    records,
    statistic,
    tables,
)


def trial(test_small, test_large, sharp_small, sharp_large):
    """One trial in which only these numbers were measured."""
    return {
        ("test accuracy", "small"): test_small,
        ("test accuracy", "large"): test_large,
        ("full-0.001", "small"): sharp_small,
        ("full-0.001", "large"): sharp_large,
    }


F1 = Measured("F1", "digits", "mnist", [trial(90, 88, 2, 10), trial(94, 86, 4, 50)])


def test_mean_and_deviation_by_hand():
    assert statistic([1, 2, 4]) == (pytest.approx(7 / 3), pytest.approx(math.sqrt(7 / 3)))
    assert statistic([5.0]) == (5, None)
    assert statistic([]) is None


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (Statistic(98.034, 0.066), 2, "98.03 ± 0.07"),
        (Statistic(205.14, 69.52), None, "205.14 ± 69.52"),
        (Statistic(0.0123456, 0.001), None, "0.012 ± 0.001"),
        (Statistic(0.000123456, 0.0000444), None, "0.00012 ± 0.00004"),
        (Statistic(3.0), None, "3.00"),
        (Statistic(0.0), None, "0.00"),
    ],
)
def test_text(value, decimals, text):
    assert value.text(decimals) == text


def test_ratio_is_that_of_the_means():
    assert ratio(Statistic(3.0), Statistic(30.0)) == 10
    assert ratio(Statistic(0.0), Statistic(1.0)) is None


def test_gap_pairs_the_regimes_of_a_trial():
    assert F1.gaps() == [2, 8]
    unfinished = F1._replace(trials=[*F1.trials, {("test accuracy", "small"): 50.0}])
    assert unfinished.gaps() == F1.gaps()
    assert unfinished.values("test accuracy", "small") == [90, 94, 50]


def test_tables_hold_both_sources():
    accuracy, full, subspace = tables([F1], "batch")
    assert accuracy.title.startswith("Table 2") and "batch statistics" in accuracy.title
    assert accuracy.rows == [
        [
            *("F1 on digits", "measured, 2 trials", "-", "-"),
            *("92.00 ± 2.83", "87.00 ± 1.41", "5.00 ± 4.24"),
        ],
        [
            *("F1 on MNIST", "paper", "99.66 ± 0.05", "99.92 ± 0.01"),
            *("98.03 ± 0.07", "97.81 ± 0.07", "0.22"),
        ],
    ]
    assert full.rows[0][2:] == ["3.00 ± 1.41", "30.00 ± 28.28", "10", "-", "-", "-"]
    assert full.rows[1][2:5] == ["1.23 ± 0.83", "205.14 ± 69.52", "167"]
    assert subspace.rows[0][2:] == ["-"] * 6
    assert "moving statistics" in tables([F1], "inference")[0].title


def test_a_number_of_fewer_trials_says_so():
    unfinished = F1._replace(trials=[*F1.trials, {("full-0.001", "small"): 6.0}])
    accuracy, full, _ = tables([unfinished], "batch")
    assert full.rows[0][1:5] == ["measured, 3 trials", "4.00 ± 2.00", "30.00 ± 28.28 (2)", "7.5"]
    assert accuracy.rows[0][4:] == ["92.00 ± 2.83 (2)", "87.00 ± 1.41 (2)", "5.00 ± 4.24 (2)"]
    assert "(" not in "".join(full.rows[1])
    complete = F1._replace(trials=[dict.fromkeys(PAPER["F1"], 1.0)])
    assert unfinished.has_brackets() and not complete.has_brackets()


def test_one_trial_has_no_deviation():
    (row, _) = tables([F1._replace(trials=F1.trials[:1])], "batch")[1].rows
    assert row[1:5] == ["measured, 1 trial", "2.00", "10.00", "5"]


def test_a_network_without_data_has_a_row():
    made = tables([Measured("F2", "timit", "timit", [])], "batch")
    assert made[0].rows[0] == ["F2 on TIMIT", "not measured, see below", *["-"] * 5]
    text = markdown(made, ["a note\n\nof two lines"])
    assert "| F2 on TIMIT | not measured, see below | - |" in text
    assert text.endswith("- a note of two lines\n")


def test_records_and_csv():
    made = records([F1], "inference")
    assert len(made) == 2 * 12
    (row,) = [
        each
        for each in made
        if (each["quantity"], each["regime"], each["source"]) == ("full-0.001", "large", "measured")
    ]
    assert (row["mean"], row["values"], row["trials"]) == (30, [10, 50], 2)
    assert (row["data"], row["batch_norm"]) == ("digits", "inference")
    rows = list(csv.DictReader(io.StringIO(as_csv(made))))
    assert len(rows) == 24 and "values" not in rows[0]
    assert {row["trials"] for row in rows if row["source"] == "paper"} == {"5"}


def test_published_numbers():
    """Facts of the published tables that a slip of the pen would break."""
    ratios = {
        (network, epsilon): ratio(paper[name, "small"], paper[name, "large"])
        for network, paper in PAPER.items()
        for epsilon in ("0.001", "0.0005")
        for name in [f"full-{epsilon}"]
    }
    assert min(ratios, key=ratios.get) == ("C3", "0.001")
    assert ratios["C3", "0.001"] == pytest.approx(8.67, abs=0.005)
    shrinks = [
        paper["full-0.001", "large"].mean / paper["full-0.0005", "large"].mean
        for paper in PAPER.values()
    ]
    assert [round(each, 1) for each in shrinks] == [4.8, 3.3, 3.1, 5.3, 2.5, 3.9]
    for paper in PAPER.values():
        assert len(paper) == 12
        assert paper["test accuracy", "small"].mean > paper["test accuracy", "large"].mean
        for quantity, regime in paper:
            if quantity.startswith("subspace"):
                full = quantity.replace("subspace100", "full")
                assert paper[quantity, regime].mean < paper[full, regime].mean
