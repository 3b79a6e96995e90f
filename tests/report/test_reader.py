"""Each way in which the field's tools write their logs, in small."""

import math

import pytest

from jaxcert.report import LogError, RunLog, read_log
from jaxcert.report._rows import HEADER

COHEN = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "published.tsv"
        path.write_text(text)
        return read_log(path)

    return read


def test_clock_times_and_abstentions(read):
    first, second = read(
        COHEN + "0\t3\t-1\t0.0\t0\t0:02:13.736080\n20\t7\t7\t0.0734\t1\t1 day, 0:00:01\n"
    ).rows
    assert (first.index, first.label, first.predict, first.radius) == (0, 3, -1, 0.0)
    assert first.time == pytest.approx(133.73608)
    assert not first.is_right
    assert second.is_right
    assert second.time == 86_401
    assert second.counts is None


@pytest.mark.parametrize(
    ("text", "value"), [("0", False), ("1", True), ("True", True), ("False", False)]
)
def test_correct_as_number_or_boolean(read, text, value):
    (row,) = read(COHEN + f"0\t3\t3\t0.378\t{text}\t15.4\n").rows
    assert row.correct is value
    assert row.time == 15.4


def test_seven_columns_with_sigma(read):
    header = "idx\tlabel\tpredict\tradius\tcorrect\tsigma\ttime\n"
    (row,) = read(header + "4\t3\t3\t0.378\t1\t0.31\t0:00:01.5\n").rows
    assert row.extra == {"sigma": "0.31"}
    assert row.time == 1.5


def test_eight_columns_with_another_order(read):
    header = "idx\tlabel\tpredict\tradius\tradius_proxy\tcorrect\tmin_sigma\ttime\n"
    (row,) = read(header + "4\t3\t3\t0.378\t0.401\t1\t0.31\t0:00:01.5\n").rows
    assert row.radius == 0.378
    assert row.correct
    assert row.extra == {"radius_proxy": "0.401", "min_sigma": "0.31"}


def test_eight_columns_with_a_summary_below(read):
    log = read(
        "idx\tlabel\tpredict\tpA\tsamplesize\tradius\tcorrect\ttime_forward\n"
        "0\t3\t3\t0.912\t9000\t0.340\t1\t0.512\n"
        "20\t8\t8\t0.999\t100\t0.750\t1\t0.012\n"
        "===Certification Summary(absolute)===\n"
        "image number=2, total time=0.6, average radius=0.545\n"
        "Radius: 0.0  Number: 2  Acc: 100.0%\n"
        "ACR: 0.545\n"
    )
    assert [row.radius for row in log.rows] == [0.340, 0.750]
    assert [row.time for row in log.rows] == [0.512, 0.012]
    assert log.rows[0].extra == {"pa": "0.912", "samplesize": "9000"}
    assert log.notes == ("4 lines after the rows were left out",)
    # Three fixed decimals, so 0.340 is within half a thousandth, not half a hundredth.
    assert [row.resolution for row in log.rows] == pytest.approx([5e-4, 5e-4])


@pytest.mark.parametrize("extra", [4, 5])
def test_ten_and_eleven_columns_with_counts_in_between(read, extra):
    names = ["raw_count", "p_A_bar", "raw_grad_norm", "grad_norm_bound", "nonvacuous"][:extra]
    header = "\t".join(["idx", "label", "predict", "radius", *names, "correct", "time"]) + "\n"
    fields = ["0", "7", "7", "0.381", *"12345"[:extra], "1", "0:00:00.545167"]
    (row,) = read(header + "\t".join(fields) + "\n").rows
    assert (row.radius, row.correct, row.time) == (0.381, True, 0.545167)
    assert list(row.extra) == [name.lower() for name in names]


def test_line_of_arguments_and_double_tabs(read):
    log = read(
        "sigma: 0.1 | N: 1000 | model: dgcnn | seed: 0\n"
        "idx\t\tlabel\t\tpredict\t\tradius\t\tcorrect\t\ttime\n"
        "0\t\t4\t\t4\t\t0.174\t\t1\t\t0:00:01.903210\n"
    )
    assert [(row.label, row.radius) for row in log.rows] == [(4, 0.174)]
    assert "line 1 before the rows was left out" in log.notes[0]


def test_commas_after_a_row_of_arguments(read):
    log = read(
        "sigma: 0.1,N: 1000,model: dgcnn,seed: 0,alpha: 0.001\n"
        "idx,label,predict,radius,correct,time\n"
        "0,4,4,0.174,1,0:00:01.903210\n"
    )
    assert [(row.label, row.radius) for row in log.rows] == [(4, 0.174)]


def test_no_header(read):
    log = read("0\t3\t3\t0.378\tTrue\t15.4\n20\t7\t-1\t0.0\tFalse\t15.6\n")
    assert [(row.index, row.is_right) for row in log.rows] == [(0, True), (20, False)]


def test_no_correct_and_no_time(read):
    (row,) = read("idx\tlabel\tpredict\tradius\n0\t3\t3\t0.378\n").rows
    assert row.correct
    assert math.isnan(row.time)


def test_no_line_end_after_the_last_row(read):
    assert len(read(COHEN + "0\t3\t3\t0.378\t1\t15.4").rows) == 1


def test_carriage_returns(read):
    (row,) = read((COHEN + "0\t3\t3\t0.378\t1\t15.4\n").replace("\n", "\r\n")).rows
    assert row.time == 15.4


@pytest.mark.parametrize(
    ("printed", "half_unit"),
    [
        ("0.378", 5e-4),
        ("0.0734", 5e-5),
        ("1.0", 5e-3),
        ("0.5", 5e-4),
        ("3.81", 5e-3),
        ("1e-05", 5e-8),
        ("1.23e-05", 5e-8),
        ("0.0", 0.0),
    ],
)
def test_printed_precision_of_three_significant_digits(read, printed, half_unit):
    log = read(COHEN + f"0\t3\t3\t{printed}\t1\t1\n1\t3\t3\t0.00602\t1\t1\n2\t3\t3\t1.9\t1\t1\n")
    assert log.rows[0].resolution == pytest.approx(half_unit, rel=1e-12)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ("x\t3\t3\t0.378\t1\t15.4", "not a row"),
        ("0\t3\t3\t0.378\t1", "expected 6 fields"),
        ("0\tcat\t3\t0.378\t1\t15.4", "field label"),
        ("0\t-1\t3\t0.378\t1\t15.4", "field label"),
        ("0\t3\t3.5\t0.378\t1\t15.4", "field predict"),
        ("0\t3\t3\tbig\t1\t15.4", "field radius"),
        ("0\t3\t3\tnan\t1\t15.4", "field radius"),
        ("0\t3\t3\t0.378\tyes\t15.4", "field correct"),
        ("0\t3\t3\t0.378\t1\tlong", "field time"),
        ("0\t3\t3\t0.378\t1\t0:99", "field time"),
    ],
)
def test_malformed_row_is_named(read, row, field):
    with pytest.raises(LogError, match=rf"published\.tsv, line 3.*{field}"):
        read(f"{COHEN}0\t3\t3\t0.378\t1\t15.4\n{row}\n5\t3\t3\t0.378\t1\t15.4\n")


def test_five_columns_without_a_header_are_refused(read):
    with pytest.raises(LogError, match="without a header the columns must be idx label predict"):
        read("0\t3\t3\t1\t15.4\n")


@pytest.mark.parametrize("text", ["", "hello\n", "\n\n"])
def test_no_log_at_all_is_refused(read, text):
    with pytest.raises(LogError, match=r"published\.tsv"):
        read(text)


@pytest.fixture
def own(tmp_path, make_row):
    path = tmp_path / "log.tsv"
    with RunLog(path) as log:
        log.append(make_row())
    return path.read_text()


# With a name of another tool's, a damaged log of ours must not lose its counts unnoticed.
@pytest.mark.parametrize("name", ["log.tsv", "log-00001.tsv", "copied.tsv"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("counts", "cousts", 1),
        lambda text: text.replace("idx", "Idx", 1),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("\n", " \n", 1),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\tselection\n", "\n", 1),
    ],
    ids=["letter", "case", "crlf", "cr", "space", "bom", "short"],
)
def test_damaged_header_of_our_own_log_is_an_error(tmp_path, own, name, damage):
    path = tmp_path / name
    path.write_bytes(damage(own).encode())
    with pytest.raises(LogError, match=rf"{name}, line 1: expected the header 'idx\\tlabel"):
        read_log(path)


def test_line_before_our_header_is_an_error(read, own):
    with pytest.raises(LogError, match=r"published\.tsv, line 2: expected the header .* as line 1"):
        read("sigma: 0.25\n" + own)


def test_log_of_another_tool_under_our_name_is_refused(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_text(COHEN + "0\t3\t3\t0.378\t1\t15.4\n")
    with pytest.raises(LogError, match=r"log\.tsv, line 1: .* needs another file name"):
        read_log(tmp_path)


def test_names_come_from_the_run_folder_or_the_file(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.tsv").write_text(HEADER + "\n")
    assert read_log(tmp_path / "run").name == "run"
    (tmp_path / "sigma_0.25.tsv").write_text(COHEN)
    assert read_log(tmp_path / "sigma_0.25.tsv").name == "sigma_0.25"
