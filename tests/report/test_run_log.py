import errno
import os
import subprocess
import sys
import textwrap

import pytest

from jaxcert.report import LogError, RunLog, read_log
from jaxcert.report._rows import HEADER


def write_log(path, rows):
    with RunLog(path) as log:
        for row in rows:
            log.append(row)


def indices(path):
    with RunLog(path) as log:
        return [row.index for row in log.rows]


def test_first_six_columns_are_the_fields_own(tmp_path, make_row):
    write_log(tmp_path / "log.tsv", [make_row()])
    header, row = (tmp_path / "log.tsv").read_text().splitlines()
    assert header.split("\t")[:6] == ["idx", "label", "predict", "radius", "correct", "time"]
    assert row.split("\t")[:3] == ["0", "7", "7"]


def test_every_truncation_keeps_exactly_the_whole_rows(tmp_path, make_row, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # Thousands of flushes take long.
    path = tmp_path / "log.tsv"
    write_log(path, [make_row(index) for index in range(3)])
    content = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        whole = sum(end <= length for end in ends[1:])
        if length:
            assert [row.index for row in read_log(path).rows] == list(range(whole))
        with RunLog(path) as log:
            assert [row.index for row in log.rows] == list(range(whole))
            assert bool(log.dropped) == (length not in (0, *ends))
            for index in range(whole, 3):
                log.append(make_row(index))
        assert path.read_bytes() == content


def test_torn_row_is_noted_when_only_read(tmp_path, make_row):
    path = tmp_path / "log.tsv"
    write_log(path, [make_row(0), make_row(1)])
    path.write_bytes(path.read_bytes()[:-5])
    before = path.read_bytes()
    assert read_log(path).notes == ("line 3: a torn last row was left out",)
    assert path.read_bytes() == before


def test_malformed_row_elsewhere_is_an_error_and_changes_nothing(tmp_path, make_row):
    path = tmp_path / "log.tsv"
    write_log(path, [make_row(0), make_row(1)])
    text = path.read_text().replace("3:10", "3:1O", 1)
    path.write_text(text)
    for opening in (RunLog, read_log):
        with pytest.raises(LogError, match=r"log\.tsv, line 2, field counts: expected"):
            opening(path)
    assert path.read_text() == text


def test_bytes_that_are_no_text_are_an_error(tmp_path, make_row):
    path = tmp_path / "log.tsv"
    write_log(path, [make_row(0)])
    path.write_bytes(path.read_bytes() + b"\xff\xfe\n")
    for opening in (RunLog, read_log):
        with pytest.raises(LogError, match=r"line 3: not text"):
            opening(path)


def test_other_header_is_refused(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_text("idx\tlabel\n0\t7\n")
    with pytest.raises(LogError, match=r"line 1: expected the header"):
        RunLog(path)


@pytest.mark.parametrize("text", ["my only notes", HEADER + "\tmore", "idx\tlabel\tpredict,"])
def test_file_of_one_unended_line_is_not_cut_off(tmp_path, text):
    path = tmp_path / "log.tsv"
    path.write_text(text)
    with pytest.raises(LogError, match=r"log\.tsv, line 1: expected the header"):
        RunLog(path)
    assert path.read_text() == text


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path, make_row):
    path = tmp_path / "log.tsv"
    with RunLog(path) as log:
        with pytest.raises(BlockingIOError, match="in use by another process"):
            RunLog(path)
        log.append(make_row())
    assert indices(path) == [0]


class FullDisk:
    """Takes so many bytes, then fails like a disk without room."""

    def __init__(self, room):
        self.room, self.write = room, os.write

    def __call__(self, descriptor, content):
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.write(descriptor, content[: self.room])
        self.room -= written
        return written


def fail_to_truncate(descriptor, length):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("truncation_fails_too", [False, True])
@pytest.mark.parametrize("room", [0, 1, 30])
def test_full_disk_keeps_the_rows_before(
    tmp_path, make_row, monkeypatch, room, truncation_fails_too
):
    path = tmp_path / "log.tsv"
    with RunLog(path) as log:
        log.append(make_row(0))
        good = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", FullDisk(room))
            if truncation_fails_too:
                patch.setattr(os, "ftruncate", fail_to_truncate)
            with pytest.raises(OSError, match="No space left on device; the 1 rows before it are"):
                log.append(make_row(1))
        assert [row.index for row in log.rows] == [0]
        assert [row.index for row in read_log(path).rows] == [0]
        assert len(path.read_bytes()) == len(good) + (room if truncation_fails_too else 0)
    with RunLog(path) as log:
        log.append(make_row(1))
        log.append(make_row(2))
    assert indices(path) == [0, 1, 2]


LIMITED_WRITER = """
    import resource, signal, sys
    from jaxcert.report import Row, RunLog
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))
    with RunLog(sys.argv[1]) as log:
        for index in range(100):
            log.append(Row(index, 7, 7, 0.5, True, 0.1, {7: 10}, 10, 0.1, "gaussian(1.0)", {7: 1}))
"""


def test_real_size_limit_leaves_a_log_that_goes_on(tmp_path, make_row):
    path = tmp_path / "log.tsv"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED_WRITER), str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "File too large" in done.stderr
    assert "the same command resumes" in done.stderr
    assert path.stat().st_size <= 400
    kept = indices(path)
    assert kept == list(range(len(kept)))
    assert len(kept) >= 3
    write_log(path, [make_row(50)])
    assert indices(path) == [*kept, 50]


def test_header_appears_once_with_the_first_row(tmp_path, make_row):
    path = tmp_path / "log.tsv"
    RunLog(path).close()
    assert path.read_bytes() == b""
    write_log(path, [make_row(0)])
    write_log(path, [make_row(1)])
    assert path.read_text().count(HEADER) == 1
