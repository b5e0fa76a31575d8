import json

import compare_solvers
import pytest


@pytest.mark.slow
def test_two_lengths_on_digits(tmp_path, capsys):
    output = tmp_path / "table.txt"
    arguments = ["--epochs", "2", "1", "--iterations", "1", "--batch-norm", "batch"]
    assert compare_solvers.main([*arguments, "--output", str(output)]) == 0
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in output.read_text().splitlines()
        if "epochs │" in line
    ]
    assert [row[0] for row in rows] == [
        f"{who}, {n} epochs" for who in ("SB", "LB") for n in (1, 2)
    ]
    for row in rows:
        loss, obvious, untolerant, scaled, ascent = map(float, row[2:])
        assert loss > 0 and obvious >= 0 and untolerant >= 0
        # One step of either goes to the corner of the gradient's signs, or beyond it.
        assert ascent > 0 and scaled > 0.5 * ascent
    assert "LB, 2 epochs, batch: " in capsys.readouterr().out


def test_a_folder_in_which_nothing_was_trained(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"training": {"data": "digits"}}))
    with pytest.raises(SystemExit, match=r"small\.weights\.h5 is not there: reproduce_table\.py"):
        compare_solvers.main(["--runs", str(tmp_path)])
