import gzip

import numpy as np
import pytest

from keras_sharp.rl.scheduling import read_swf

HEADER = "; Version: 2\n;MaxNodes: 16\n; MaxProcs: 32 (two a node)\n\n"
JOBS = [
    "3 70 -1  5  4 -1 -1 -1 60   8 1 3 1 -1 0 -1 -1 -1",
    "1 10 -1 -1  1 -1 -1  2 -1  -1 1 6 2 -1 0 -1 -1 -1",
    "2 20  9  0  1 -1 -1  1 -1  -1 1 6 2 -1 0 -1 -1 -1",
    "4 80 -1 20 -1 -1 -1 -1 -1  -1 1 6 2 -1 0 -1 -1 -1",
    "5 90 -1 40 32 -1 -1 16 30   2 1 0 4 -1 0 -1 -1 -1",
]


@pytest.fixture
def trace(tmp_path):
    def write(lines, header=HEADER, name="trace.swf"):
        text = header + "".join(line + "\n" for line in lines)
        data = text.encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


@pytest.mark.parametrize("name", ["trace.swf", "trace.swf.gz"])
def test_a_trace_is_read(trace, name):
    jobs = read_swf(trace(JOBS, name=name))
    # By submit time; 2 ran for no time and 4 has no processor.
    assert jobs.machine == 32
    np.testing.assert_array_equal(jobs.submit, [10, 70, 90])
    np.testing.assert_array_equal(jobs.run, [10, 5, 40])
    np.testing.assert_array_equal(jobs.requested, [10, 60, 30])
    np.testing.assert_array_equal(jobs.processors, [2, 4, 32])
    most = 1 - 1e-5
    expected = [
        [10 / 40, 2 / 32, 1, most, 2 / 4, 1],
        [most, 4 / 32, most, 3 / 6, 1 / 4, 1],
        [30 / 40, most, 2 / 8, 0, most, 1],
    ]
    np.testing.assert_allclose(jobs.features, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "line",
    ["6 90 -1 40", JOBS[0] + " 0", *(JOBS[0].replace("70", each) for each in ("7O", "7_0", "nan"))],
)
def test_a_malformed_line_is_an_error_with_its_number(trace, line):
    with pytest.raises(ValueError, match=r"^Line 7 of trace\.swf must be 18 numbers"):
        read_swf(trace([*JOBS[:2], line, JOBS[2]]))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("70", "-1", "have a submit time of at least 0. Received: -1"),
        (" 5  4 ", " 5 2.5 ", "ask for whole processors. Received: 2.5"),
    ],
)
def test_an_impossible_job_is_an_error_with_its_number(trace, old, new, message):
    with pytest.raises(ValueError, match=f"^Line 7 of trace.swf must {message}"):
        read_swf(trace([*JOBS[1:3], JOBS[0].replace(old, new)]))


def test_the_machine_must_be_known_and_large_enough(trace):
    assert read_swf(trace(JOBS[:2], header="; MaxNodes: 16\n")).machine == 16
    path = trace(JOBS, header="")
    assert read_swf(path, processors=40).machine == 40
    with pytest.raises(ValueError, match="must say `; MaxProcs:`"):
        read_swf(path)
    with pytest.raises(
        ValueError, match=r"^Line 5 of .* machine.s 16 processors, or .* Received: 32"
    ):
        read_swf(path, processors=16)
    with pytest.raises(ValueError, match="`processors` must be"):
        read_swf(path, processors=0)
    with pytest.raises(ValueError, match="must hold jobs"):
        read_swf(trace([]))
    with pytest.raises(ValueError, match="There must be jobs"):
        read_swf(trace(JOBS[2:4]))


def test_a_damaged_file_says_so(trace):
    path = trace(JOBS, name="trace.swf.gz")
    whole = path.read_bytes()
    # Cut off, with a block of no known kind, and not compressed at all.
    for data in (whole[:-20], whole[:10] + b"\x07" + whole[11:], JOBS[0].encode()):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"trace\.swf\.gz must be a whole file compressed"):
            read_swf(path)


def test_comments_may_be_in_any_encoding(trace):
    path = trace(JOBS)
    path.write_bytes("; Universität\n".encode("latin-1") + path.read_bytes())
    assert len(read_swf(path)) == 3
