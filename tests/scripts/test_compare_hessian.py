"""Two libraries' numbers are set against each other, and a difference ends with 1."""

import compare_hessian
import numpy as np
import pytest

FOUND = {
    "loss": np.array(0.5),
    "eigenvalues": np.array([10.0, 4.0, 2.0]),
    "residuals": np.array([1e-4, 0.1, 0.2]),
    "trace": np.array(30.0),
    "standard_error": np.array(0.3),
}


def exported(file, found=FOUND):
    """Returns a file as `export` leaves it."""
    numbers = {compare_hessian.FOUND + name: value for name, value in found.items()}
    compare_hessian.write(file, {"x": np.zeros(2)} | numbers)
    return file


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        ({}, None),
        # 1e-4 of the eigenvalue on both sides; residuals of both, 0.2 + 0.2; 3 * hypot(0.3, 0.4)
        ({"eigenvalues": np.array([10.0019, 4.19, 1.61])}, None),
        ({"trace": 31.49, "standard_error": 0.4}, None),
        ({"loss": 0.50001}, "loss"),
        ({"eigenvalues": np.array([10.0021, 4.0, 2.0])}, "eigenvalue 1"),
        ({"eigenvalues": np.array([10.0, 4.21, 2.0])}, "eigenvalue 2"),
        ({"trace": 31.51, "standard_error": 0.4}, "trace"),
        ({"trace": np.nan}, "trace"),
    ],
)
def test_numbers_agree_within_their_errors(other, differs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare_hessian, "measure_torch", lambda arrays: FOUND | other)
    assert compare_hessian.compare(exported(tmp_path / "c1.npz")) == (differs is not None)
    lines = capsys.readouterr().out.splitlines()[-5:]
    assert [line.split(":")[0] for line in lines if "differ" in line] == [differs] * bool(differs)


def test_a_file_without_numbers_cannot_be_compared(tmp_path):
    with pytest.raises(SystemExit, match="no numbers.*export"):
        compare_hessian.compare(exported(tmp_path / "c1.npz", {}))
