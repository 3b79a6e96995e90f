import re

import numpy as np
import pytest

from jaxcert.report import LogError
from jaxcert.report._rows import format_counts, format_row, parse_counts, parse_row


def reread(row):
    return parse_row(format_row(row), path="log.tsv", line=row.line)


def test_row_reads_back_equal(make_row):
    row = make_row()
    assert reread(row) == row


def test_radius_and_alpha_read_back_to_the_last_bit(make_row):
    generator = np.random.default_rng(0)
    for radius, alpha in zip(
        generator.exponential(size=500), generator.uniform(size=500), strict=True
    ):
        row = reread(make_row(radius=float(radius), alpha=float(alpha)))
        assert row.radius == radius
        assert row.alpha == alpha


def test_counts_grow_with_the_votes_and_not_with_the_classes():
    counts = dict.fromkeys(range(1000), 0) | {999: 99_990, 12: 10}
    assert format_counts(counts) == "12:10,999:99990"
    assert parse_counts("12:10,999:99990") == {12: 10, 999: 99_990}
    assert parse_counts(format_counts({})) == {}


@pytest.mark.parametrize("text", ["", "3", "3:", ":3", "3:1,", "3:1,3:1", "4:1,3:1", "3:0", "3:-1"])
def test_malformed_counts_are_refused(text):
    with pytest.raises(ValueError, match="got"):
        parse_counts(text)


FIELDS = [
    *("0", "7", "7", "0.5", "1", "0.25"),
    *("3:10,7:190", "200", "0.001", "gaussian(0.25)", "7:10"),
]


def test_the_good_row_of_the_next_test_is_good():
    assert parse_row("\t".join(FIELDS), path="log.tsv", line=2).samples == 200


@pytest.mark.parametrize(
    ("place", "name", "bad"),
    [
        (0, "idx", "-1"),
        (0, "idx", "1.0"),
        (0, "idx", "²"),
        (1, "label", "-1"),
        (2, "predict", "-2"),
        (2, "predict", "seven"),
        (3, "radius", "nan"),
        (3, "radius", "inf"),
        (3, "radius", "-0.5"),
        (3, "radius", "0.5x"),
        (4, "correct", "2"),
        (4, "correct", "True"),
        (5, "time", "0:00:01"),
        (6, "counts", "3:10;7:190"),
        (7, "samples", "-1"),
        (8, "alpha", "0"),
        (8, "alpha", "1.0"),
        (9, "noise", "gaussian(-1)"),
        (9, "noise", "cauchy(1)"),
        (10, "selection", "7"),
    ],
)
def test_malformed_field_is_named_with_file_and_line(place, name, bad):
    fields = [*FIELDS]
    fields[place] = bad
    expected = rf"some/log.tsv, line 17, field {name}: .*{re.escape(repr(bad))}"
    with pytest.raises(LogError, match=expected):
        parse_row("\t".join(fields), path="some/log.tsv", line=17)


@pytest.mark.parametrize("fields", [FIELDS[:-1], [*FIELDS, "more"], [""]])
def test_wrong_number_of_fields_is_named(fields):
    with pytest.raises(LogError, match=r"log.tsv, line 3: expected 11 fields, got"):
        parse_row("\t".join(fields), path="log.tsv", line=3)


def test_row_without_counts_is_not_written(make_row):
    with pytest.raises(ValueError, match="needs counts"):
        format_row(make_row(counts=None))
