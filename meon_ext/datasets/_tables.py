"""Reading tables that come from anywhere: limits first, and every fault with its line."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meon_ext.errors import DatasetError

MAX_TABLE_BYTES = 256 * 1024 * 1024
MAX_ROWS = 2_000_000
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)?")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table. number: its line in the file, from 1. values: by column, without space around them."""

    number: int
    values: dict[str, str]


@dataclass(frozen=True)
class Table:
    """A table with a header.

    comments: the lines before the header that begin with #, without it and what spreadsheets put behind them.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    comments: tuple[str, ...] = ()

    def column(self, *names: str) -> str | None:
        """The first of these names that is a column, in whatever case; None if none is."""
        by_name = {column.casefold(): column for column in reversed(self.columns)}
        return next((by_name[name.casefold()] for name in names if name.casefold() in by_name), None)


def read_text(path: Path, limit: int = MAX_TABLE_BYTES) -> str:
    """A text file, as UTF-8 (a byte order mark is dropped). Raises DatasetError for anything else."""
    try:
        if not path.is_file():
            raise DatasetError(f"{path}: no such file")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); check its mode and owner") from error
    if len(data) > limit:
        raise DatasetError(f"{path}: larger than {limit} bytes; this cannot be the set's table")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not text in UTF-8; save it as CSV in UTF-8") from error


def read_table(path: Path) -> Table:
    """A CSV file with a header; commas, semicolons or tabs, whichever the header has.

    Raises DatasetError for a file that is no such table, naming every line with too many or too few values.
    """
    text = read_text(path)
    comments, passed, start = [], 0, 0
    while line := _line(text, start):
        content = line.strip(" ,;\t\r\n")  # spreadsheets write a delimiter for each cell that such a line has not
        if line.startswith("#"):
            comments.append(content[1:].lstrip())
        elif content:
            break
        passed += 1
        start += len(line)
    header = _line(text, start)
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text[start:], newline=""), delimiter=delimiter, strict=True)
    faults: list[str] = []
    rows: list[Row] = []
    try:
        columns = tuple(name.strip() for name in next(reader, []))
        if not any(columns):
            raise DatasetError(f"{path}: empty; a header and rows were expected")
        named = [column.casefold() for column in columns if column]
        if len(set(named)) < len(named):
            raise DatasetError(f"{path}: two columns of one name in the header ({', '.join(columns)})")
        for values in reader:
            number = passed + reader.line_num
            if not any(value.strip() for value in values):
                continue
            if len(values) != len(columns):
                faults.append(f"line {number}: {len(values)} values for {len(columns)} columns")
            elif len(rows) == MAX_ROWS:
                raise DatasetError(f"{path}: more than {MAX_ROWS} rows; this cannot be the set's table")
            else:
                rows.append(Row(number, dict(zip(columns, map(str.strip, values), strict=True))))
    except csv.Error as error:
        raise DatasetError(f"{path}: line {passed + reader.line_num}: not CSV ({error})") from error
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise DatasetError(f"{path}: {'; '.join(faults[:5])}{more}")
    return Table(path, columns, tuple(rows), tuple(comments))


def _line(text: str, start: int) -> str:
    """The line that begins there, with its end: that of Unix, Windows or the old Mac, as ``csv`` takes them."""
    found = _LINE.match(text, start)
    return found.group() if found else ""


def number(text: str) -> float | None:
    """A finite number, None if the text is anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def listed(names: Sequence[str]) -> str:
    """Names for a message: a, b or c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
