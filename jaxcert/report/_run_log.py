"""The log of a run: rows appended durably, one at a time, by one process at a time."""

from __future__ import annotations

import contextlib
import os
import pathlib
import types

from ._rows import COLUMNS, LogError, Row, format_row, parse_row

try:
    import fcntl
except ImportError:  # Windows has no fcntl.
    fcntl = None  # type: ignore[assignment]


class RunLog:
    """An open log that rows are appended to; a context manager.

    Opening locks the file, checks the rows that it holds, and cuts off a last row that was torn
    by a kill or a full disk: a row counts once its line end is on the disk. Each append is
    written and flushed to the disk before the call returns. The lock is the operating system's
    (`flock`), which ends with the process; where there is none, as on Windows, nothing is locked.

    Args:
        path: Log file; made with its header when it does not exist.
        columns: Names of the fields, by default those of a row with votes.

    Raises:
        LogError: If a row other than a torn last one is malformed, or the header is another's.
        BlockingIOError: If another process has the log open.
        OSError: If the file cannot be opened or written.

    Example:
        >>> import tempfile
        >>> row = Row(index=0, label=7, predict=7, radius=0.5, correct=True, time=0.1,
        ...           counts={7: 100}, samples=100, alpha=0.001, noise="gaussian(0.25)",
        ...           selection={7: 10})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with RunLog(os.path.join(folder, "log.tsv")) as log:
        ...         log.append(row)
        ...     with RunLog(os.path.join(folder, "log.tsv")) as log:
        ...         [row.index for row in log.rows]
        [0]
    """

    def __init__(self, path: str | os.PathLike[str], *, columns: tuple[str, ...] = COLUMNS) -> None:
        self.path = pathlib.Path(path)
        self._columns = columns
        self._header = "\t".join(columns)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock()
            self.rows, self.dropped, self._end = self._read()
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and release its lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def append(self, row: Row) -> None:
        """Add a row; on return it is on the disk.

        Args:
            row: A row with what the columns of the log hold.

        Raises:
            OSError: If the disk is full or the write fails otherwise. The log then holds the
                rows before this one, whole, and the run can be resumed.
        """
        if self._end == 0:
            self._write(self._header + "\n", "the header")
            sync_folder(self.path.parent)
        self._write(format_row(row) + "\n", f"the row of image {row.index}")
        self.rows.append(row)

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            # The kernel drops this lock when the process ends, however it ends.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"{self.path} is in use by another process; wait for it or stop it"
            ) from None

    def _read(self) -> tuple[list[Row], bytes, int]:
        content = b""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        while block := os.read(self._descriptor, 1 << 20):
            content += block
        whole, line_end, torn = content.rpartition(b"\n")
        whole += line_end
        # Only a header of ours that a kill cut short may go; anything else is another's file.
        if not whole and not self._header.encode().startswith(torn):
            raise LogError(
                f"{self.path}, line 1: expected the header {self._header!r}, got {torn[:80]!r}"
            )
        rows = self._parse(whole)
        if torn:
            os.ftruncate(self._descriptor, len(whole))
            os.fsync(self._descriptor)
        return rows, torn, len(whole)

    def _parse(self, content: bytes) -> list[Row]:
        if not content:
            return []
        try:
            lines = content.decode("utf-8").split("\n")[:-1]
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise LogError(f"{self.path}, line {line}: not text: {error}") from None
        if lines[0] != self._header:
            raise LogError(
                f"{self.path}, line 1: expected the header {self._header!r}, got {lines[0][:120]!r}"
            )
        return [
            parse_row(text, path=str(self.path), line=number, columns=self._columns)
            for number, text in enumerate(lines[1:], start=2)
        ]

    def _write(self, text: str, what: str) -> None:
        data = text.encode("utf-8")
        try:
            os.lseek(self._descriptor, self._end, os.SEEK_SET)
            written = 0
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
            os.fsync(self._descriptor)
        except OSError as error:
            # Cutting back frees space and needs none; should it fail too, the next opening cuts.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
            raise OSError(
                error.errno,
                f"cannot write {what}: {os.strerror(error.errno or 0)}; the {len(self.rows)} rows "
                "before it are safe, and the same command resumes after them",
                str(self.path),
            ) from error
        self._end += len(data)


def sync_folder(folder: pathlib.Path) -> None:
    """Make a new or renamed file in a folder survive a power cut."""
    if os.name != "posix":  # Other systems cannot open a folder.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
