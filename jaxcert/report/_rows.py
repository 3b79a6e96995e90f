"""One row of a certification log: what it holds, how it is written, how it is read back."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import TypeVar

from jaxcert import smoothing

from ._margin_rows import (
    FIELDS,
    Margin,
    format_margin,
    parse_constants,
    parse_norm,
    parse_numbers,
)

_Value = TypeVar("_Value")

COLUMNS = (
    "idx",
    "label",
    "predict",
    "radius",
    "correct",
    "time",
    "counts",
    "samples",
    "alpha",
    "noise",
    "selection",
)
HEADER = "\t".join(COLUMNS)
# Of a deterministic certificate.
MARGIN_COLUMNS = (*COLUMNS[:6], *FIELDS)
MARGIN_HEADER = "\t".join(MARGIN_COLUMNS)
ABSTAIN = smoothing.ABSTAIN


class LogError(ValueError):
    """A log that cannot be read as it stands; the message names file, line and field."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One certified image.

    Attributes:
        index: Position of the image in its data set.
        label: True class.
        predict: Class of the smoothed classifier, or -1 where it abstains.
        radius: Certified radius in pixel units of [0, 1]; 0 where it abstains.
        correct: What the `correct` column says. Summaries compare `predict` with `label`
            instead, because tools disagree on this column.
        time: Seconds spent on the image, NaN when the log does not say.
        counts: Votes of the estimation samples, class to count, zeros left out; None in logs
            of tools that do not record them. The same holds for the next four.
        samples: Number of estimation samples; 0 where an adaptive run saw no use for any.
        alpha: One-sided failure probability that the radius spends.
        noise: Noise as text, such as `gaussian(0.25)`.
        selection: Votes of the selection samples, class to count, zeros left out.
        resolution: Half a unit in the last printed place of `radius`, 0 when it is exact.
        line: Line number in the file, counted from 1; 0 for a row that is in no file yet.
        path: The file; empty for a row that is in no file yet.
        extra: Columns of other tools that have no field here, name to text.
        margin: Scores and Lipschitz constants, where these certify the radius instead of votes.
    """

    index: int
    label: int
    predict: int
    radius: float
    correct: bool
    time: float
    counts: Mapping[int, int] | None = None
    samples: int | None = None
    alpha: float | None = None
    noise: str | None = None
    selection: Mapping[int, int] | None = None
    resolution: float = 0.0
    line: int = 0
    path: str = dataclasses.field(default="", compare=False)
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)
    margin: Margin | None = None

    @property
    def is_right(self) -> bool:
        """Whether the smoothed classifier answered, and answered the true class."""
        return self.predict != ABSTAIN and self.predict == self.label


def format_counts(counts: Mapping[int, int]) -> str:
    """Write votes as `class:count` pairs in class order, zeros left out; `-` when there are none.

    Args:
        counts: Class to number of votes.

    Returns:
        Text whose length grows with the classes that were voted for, not with all classes.

    Example:
        >>> format_counts({7: 99_990, 3: 10, 1: 0})
        '3:10,7:99990'
    """
    pairs = [f"{label}:{count}" for label, count in sorted(counts.items()) if count]
    return ",".join(pairs) if pairs else "-"


def parse_counts(text: str) -> dict[int, int]:
    """Read what `format_counts` wrote.

    Args:
        text: Pairs such as `3:10,7:99990`, or `-`.

    Returns:
        Class to number of votes.

    Raises:
        ValueError: If a pair is malformed, a count is not positive, or the classes do not increase.

    Example:
        >>> parse_counts("3:10,7:99990")
        {3: 10, 7: 99990}
    """
    if text == "-":
        return {}
    counts: dict[int, int] = {}
    previous = -1
    for pair in text.split(","):
        label_text, colon, count_text = pair.partition(":")
        if not (colon and _is_digits(label_text) and _is_digits(count_text)):
            raise ValueError(f"expected class:count pairs joined by commas, got {text!r}")
        label, count = int(label_text), int(count_text)
        if label <= previous:
            raise ValueError(f"classes must increase, got {text!r}")
        if count < 1:
            raise ValueError(f"counts must be at least 1, got {text!r}")
        counts[label] = count
        previous = label
    return counts


def format_row(row: Row) -> str:
    """Write a row without its line end.

    The radius and alpha are written with `repr`, the shortest text that reads back as the same
    float64, so writing never rounds a radius up.

    Args:
        row: A row with counts, samples, alpha, noise and selection; or one with a margin.

    Returns:
        Tab-separated fields in the order of `COLUMNS`, or of `MARGIN_COLUMNS`.

    Raises:
        ValueError: If the row lacks one of the recheckable fields.
    """
    plain = (
        str(row.index),
        str(row.label),
        str(row.predict),
        repr(float(row.radius)),
        str(int(row.correct)),
        f"{row.time:.6f}",
    )
    if row.margin is not None:
        return "\t".join((*plain, *format_margin(row.margin)))
    if (
        row.counts is None
        or row.samples is None
        or row.alpha is None
        or row.noise is None
        or row.selection is None
    ):
        raise ValueError("a row needs counts, samples, alpha, noise and selection to be written")
    return "\t".join(
        (
            *plain,
            format_counts(row.counts),
            str(row.samples),
            repr(float(row.alpha)),
            row.noise,
            format_counts(row.selection),
        )
    )


def parse_row(text: str, *, path: str, line: int, columns: tuple[str, ...] = COLUMNS) -> Row:
    """Read a row that `format_row` wrote, strictly.

    Args:
        text: The line without its line end.
        path: File name for messages.
        line: Line number for messages.
        columns: What the header says, `COLUMNS` or `MARGIN_COLUMNS`.

    Returns:
        The row.

    Raises:
        LogError: If a field is missing, superfluous or malformed; it names file, line and field.
    """
    fields = text.split("\t")
    where = f"{path}, line {line}"
    if len(fields) != len(columns):
        raise LogError(f"{where}: expected {len(columns)} fields, got {len(fields)}: {text[:80]!r}")
    values = dict(zip(columns, fields, strict=True))

    def read(name: str, convert: Callable[[str], _Value], wanted: str) -> _Value:
        try:
            return convert(values[name])
        except (ValueError, TypeError) as error:
            detail = f" ({error})" if name in ("counts", "selection", "noise") else ""
            raise LogError(
                f"{where}, field {name}: expected {wanted}, got {values[name]!r}{detail}"
            ) from None

    plain = Row(
        index=read("idx", _natural, "an integer >= 0"),
        label=read("label", _natural, "a class >= 0"),
        predict=read("predict", parse_label, "a class, or -1"),
        radius=read("radius", _non_negative, "a finite number >= 0"),
        correct=read("correct", _bit, "0 or 1"),
        time=read("time", _non_negative, "seconds >= 0"),
        line=line,
        path=path,
    )
    if columns == MARGIN_COLUMNS:
        margin = Margin(
            scores=read("scores", parse_numbers, "finite numbers joined by commas"),
            lipschitz=read("lipschitz", parse_constants, "numbers >= 0 joined by commas"),
            slack=read("slack", _non_negative, "a finite number >= 0"),
            norm=read("norm", parse_norm, "l2, linf or l1"),
        )
        return dataclasses.replace(plain, margin=margin)
    return dataclasses.replace(
        plain,
        counts=read("counts", parse_counts, "class:count pairs"),
        samples=read("samples", _natural, "an integer >= 0"),
        alpha=read("alpha", _probability, "a number in (0, 1)"),
        noise=read("noise", _noise_text, "a noise such as gaussian(0.25)"),
        selection=read("selection", parse_counts, "class:count pairs"),
    )


def parse_label(text: str) -> int:
    """Read a predicted class, where -1 means that the classifier abstains."""
    return ABSTAIN if text == "-1" else _natural(text)


def _is_digits(text: str) -> bool:
    # str.isdigit alone accepts superscripts and other scripts' digits.
    return text.isascii() and text.isdigit()


def _natural(text: str) -> int:
    if not _is_digits(text):
        raise ValueError(text)
    return int(text)


def _bit(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(text)
    return text == "1"


def _non_negative(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(text)
    return value


@functools.lru_cache(maxsize=4096)
def parse_noise(text: str) -> smoothing.Noise:
    """Read a noise, remembering it: the rows of a run share theirs."""
    return smoothing.parse_noise(text)


def _noise_text(text: str) -> str:
    parse_noise(text)
    return text


def _probability(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise ValueError(text)
    return value
