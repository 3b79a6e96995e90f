"""Reading logs: ours, and those of the field's other tools."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from ._rows import (
    COLUMNS,
    HEADER,
    MARGIN_COLUMNS,
    MARGIN_HEADER,
    LogError,
    Row,
    parse_label,
    parse_row,
)

LOG_NAME = "log.tsv"
_SHARD_NAMES = "log-*.tsv"

# Other tools' names for the same thing.
_ALIASES = {
    "original_idx": "idx",
    "index": "idx",
    "prediction": "predict",
    "sta_correct": "correct",
    "time_forward": "time",
}
_REQUIRED = ("idx", "label", "predict", "radius")
_PLAIN = COLUMNS[:6]
# The field's logs share six of our eleven columns; with two more, a header is ours, if damaged.
_OWN_COLUMNS = 8
_CLOCK = re.compile(r"(?:(\d+) days?, )?(\d+):(\d\d):(\d\d(?:\.\d+)?)")


@dataclasses.dataclass(frozen=True)
class Log:
    """The rows of one certification log.

    Attributes:
        path: The file, or the run folder when several processes wrote a file each.
        rows: Its rows in file order, or in the order of their images when there are several files.
        notes: What a reader should know: a torn last row, lines that are not rows.
    """

    path: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """A short name for tables: the run folder's, or the file's without its ending."""
        path = pathlib.Path(self.path)
        if path.is_dir():
            return path.resolve().name
        return path.resolve().parent.name if path.name == LOG_NAME else path.stem

    @property
    def radii(self) -> np.ndarray:
        """Radius of each row, float64 `[rows]`."""
        return np.array([row.radius for row in self.rows], dtype=np.float64)

    @property
    def is_right(self) -> np.ndarray:
        """Whether each row answers, and answers the true class, bool `[rows]`."""
        return np.array([row.is_right for row in self.rows], dtype=bool)


def read_log(path: str | os.PathLike[str]) -> Log:
    r"""Read a certification log, ours or another tool's.

    Our own logs are read strictly: files named `log.tsv` or `log-*.tsv`, and all whose header is
    ours or nearly ours. Others may separate fields by one or more tabs or by commas,
    lack the header when their columns are `idx label predict radius correct time`, order and
    name columns differently, begin with a line of arguments, end with a summary, write times as
    seconds or as `0:00:13.7`, and `correct` as 0, 1, True or False.

    Args:
        path: A log, or a run folder; the files of several processes are merged.

    Returns:
        The log. A torn last row, as a kill leaves behind, is left out and noted.

    Raises:
        LogError: If a row is malformed; the message names file, line and field.
        OSError: If the file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "published")
        ...     _ = path.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
        ...                         "20\t7\t7\t0.0734\t1\t0:00:13.771528\n")
        ...     row, = read_log(path).rows
        >>> row.radius, row.resolution, row.time
        (0.0734, 5e-05, 13.771528)
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        return _read_file(path)
    logs = [_read_file(one) for one in log_files(path)]
    if not logs:
        return _read_file(path / LOG_NAME)
    if len(logs) == 1:
        return logs[0]
    rows = sorted((row for log in logs for row in log.rows), key=lambda row: row.index)
    notes = [f"{pathlib.Path(log.path).name}, {note}" for log in logs for note in log.notes]
    return Log(str(path), tuple(rows), tuple(notes))


def log_name(process: int, num_processes: int) -> str:
    """Name of the log that one of several processes writes."""
    return LOG_NAME if num_processes == 1 else f"log-{process:05d}.tsv"


def log_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The logs of a run folder that hold anything, whatever processes wrote them."""
    found = [*folder.glob(LOG_NAME), *sorted(folder.glob(_SHARD_NAMES))]
    return [path for path in found if path.stat().st_size]


def _read_file(path: pathlib.Path) -> Log:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise LogError(f"{path}, line {line}: not text: {error}") from None
    if not text:
        raise LogError(f"{path} is empty: not even a header")
    lines = text.split("\n")
    torn = lines.pop()
    # A header cut short by a kill is all that there is; nothing else starts like it.
    for columns, header in ((COLUMNS, HEADER), (MARGIN_COLUMNS, MARGIN_HEADER)):
        if lines and lines[0] == header:
            return _read_own(str(path), lines, torn, columns)
    if not lines and (HEADER.startswith(torn) or MARGIN_HEADER.startswith(torn)):
        return Log(str(path), (), (f"the header is torn: {torn!r}",))
    lines = [*lines, torn] if torn else lines
    if path.name == LOG_NAME or path.match(_SHARD_NAMES):
        raise _wrong_header(
            str(path), 1, lines[0], "; a log of another tool needs another file name"
        )
    return _read_other(str(path), lines)


def _wrong_header(path: str, line: int, text: str, advice: str = "") -> LogError:
    return LogError(
        f"{path}, line {line}: expected the header {HEADER!r} as line 1, got {text[:120]!r}{advice}"
    )


def _is_nearly_header(text: str) -> bool:
    names = re.split(r"[^a-z]+", text.lower())
    return sum(name in names for name in COLUMNS) >= _OWN_COLUMNS


def _read_own(path: str, lines: Sequence[str], torn: str, columns: tuple[str, ...]) -> Log:
    rows = [
        parse_row(text, path=path, line=n, columns=columns)
        for n, text in enumerate(lines[1:], start=2)
    ]
    notes = [f"line {len(lines) + 1}: a torn last row was left out"] if torn else []
    return Log(path, tuple(rows), tuple(notes))


def _read_other(path: str, lines: Sequence[str]) -> Log:
    columns: Sequence[str] | None = None
    rows: list[Row] = []
    printed: list[str] = []
    notes: list[str] = []
    after: list[int] = []
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        # Without its counts a log of ours would pass every check, so a damaged header is an error.
        if not rows and _is_nearly_header(text):
            raise _wrong_header(path, number, text)
        fields = _split(text)
        header = [_ALIASES.get(name.lower(), name.lower()) for name in fields]
        if columns is None and all(name in header for name in _REQUIRED):
            columns = header
            continue
        # Rows begin with an image number; a summary or a line of arguments does not.
        if not re.fullmatch(r"\d+", fields[0]) or len(fields) < 4:
            if rows:
                after.append(number)
            else:
                notes.append(f"line {number} before the rows was left out: {text[:60]!r}")
            continue
        if after:
            raise LogError(f"{path}, line {after[0]}: not a row: {lines[after[0] - 1][:80]!r}")
        if columns is None:
            if len(fields) != len(_PLAIN):
                raise LogError(
                    f"{path}, line {number}: without a header the columns must be "
                    f"{' '.join(_PLAIN)}, got {len(fields)} fields: {text[:80]!r}"
                )
            columns = _PLAIN
        rows.append(_parse_other(fields, columns, path=path, line=number))
        printed.append(fields[columns.index("radius")])
    if not rows and columns is None:
        raise LogError(f"{path} holds no rows of idx, label, predict, radius")
    if after:
        notes.append(f"{len(after)} lines after the rows were left out")
    rows = [
        dataclasses.replace(row, resolution=half_unit)
        for row, half_unit in zip(rows, _half_units(printed), strict=True)
    ]
    return Log(path, tuple(rows), tuple(notes))


def _split(text: str) -> list[str]:
    if "\t" in text:
        return [field.strip() for field in re.split(r"\t+", text.strip())]
    return [field.strip() for field in text.split(",")]


def _parse_other(fields: Sequence[str], columns: Sequence[str], *, path: str, line: int) -> Row:
    where = f"{path}, line {line}"
    if len(fields) != len(columns):
        raise LogError(
            f"{where}: expected {len(columns)} fields ({' '.join(columns)}), got {len(fields)}"
        )
    values = dict(zip(columns, fields, strict=True))

    def fail(name: str, wanted: str) -> LogError:
        return LogError(f"{where}, field {name}: expected {wanted}, got {values[name]!r}")

    classes = {}
    for name in ("idx", "label", "predict"):
        try:
            classes[name] = parse_label(values[name])
        except ValueError:
            raise fail(name, "an integer") from None
    if classes["label"] < 0:
        raise fail("label", "a class >= 0")
    try:
        radius = float(values["radius"])
    except ValueError:
        raise fail("radius", "a number") from None
    if not math.isfinite(radius):
        raise fail("radius", "a finite number")
    right = classes["predict"] == classes["label"]
    correct = {"0": False, "1": True, "false": False, "true": True, "": right}.get(
        values.get("correct", "").lower()
    )
    if correct is None:
        raise fail("correct", "0, 1, True or False")
    seconds = _seconds(values["time"]) if values.get("time") else math.nan
    if seconds is None:
        raise fail("time", "seconds or h:mm:ss")
    return Row(
        index=classes["idx"],
        label=classes["label"],
        predict=classes["predict"],
        radius=radius,
        correct=correct,
        time=seconds,
        line=line,
        path=path,
        extra={name: value for name, value in values.items() if name not in _PLAIN},
    )


def _seconds(text: str) -> float | None:
    match = _CLOCK.fullmatch(text)
    if match:
        days, hours, minutes, seconds = match.groups(default="0")
        return 86_400 * int(days) + 3_600 * int(hours) + 60 * int(minutes) + float(seconds)
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _half_units(printed: Sequence[str]) -> list[float]:
    """Half a unit in the last place of each printed radius: how far rounding may have moved it.

    The field prints `{:.3f}` or `{:.4f}`, where all rows have the same number of decimals, or
    `{:.3}`, three significant digits whose trailing zeros are left out (`1.0` stands for 1.00).
    """
    parts = [re.fullmatch(r"[+-]?(\d*)\.?(\d*)(?:[eE]([+-]?\d+))?", text) for text in printed]
    decimals = {len(part[2]) for part in parts if part}
    is_fixed = len(decimals) == 1 and all(part and not part[3] for part in parts)
    half_units = []
    for part in parts:
        digits = (part[1] + part[2]).lstrip("0") if part else ""
        if not (part and digits):
            half_units.append(0.0)
            continue
        hidden = 0 if is_fixed else max(0, 3 - len(digits))
        half_units.append(0.5 * 10.0 ** (int(part[3] or 0) - len(part[2]) - hidden))
    return half_units
