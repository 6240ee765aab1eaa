"""The row of an image, and writing rows as a table, JSON, JSON lines or CSV."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from meon_ext.scoring import Score
    from meon_ext.weights_io import WeightsFile

FORMATS = ("table", "json", "jsonl", "csv")
COLUMNS = (
    "path",
    "width",
    "height",
    "quality",
    "quality_std",
    "word",
    "raw",
    "distortion",
    "probabilities",
    "crops",
    "padded",
    "model",
    "error",
)
_DECIMALS = 6  # beyond what float32 arithmetic gives

Row: TypeAlias = dict[str, Any]
Write: TypeAlias = Callable[[bytes], None]


def score_row(path: str, score: Score) -> Row:
    """The row of an image that was scored."""
    return {
        "path": path,
        "width": score.meta["width"],
        "height": score.meta["height"],
        "quality": round(score.quality, _DECIMALS),
        "quality_std": round(score.quality_std, _DECIMALS),
        "word": score.word,
        "raw": round(score.raw, _DECIMALS),
        "distortion": score.distortion,
        "probabilities": {name: round(p, _DECIMALS) for name, p in score.probabilities.items()},
        "crops": score.meta["crops"],
        "padded": score.meta["padded"],
        "model": score.meta["model"],
        "error": None,
    }


def error_row(path: str, model: str, error: str) -> Row:
    """The row of an input that could not be scored."""
    return {**dict.fromkeys(COLUMNS), "path": path, "model": model, "error": error}


class RowWriter(Protocol):
    """Writes rows in one format. ``finish`` makes what was written so far complete; it is called once, at the end."""

    def row(self, row: Row) -> None: ...
    def finish(self) -> None: ...


def make_writer(
    format: str,
    write: Write,
    *,
    width: int | None,
    encoding: str,
    weights: WeightsFile | None = None,
) -> RowWriter:
    """A writer that passes bytes to ``write``, each row whole.

    width: columns of the terminal for the table, None for no limit. encoding: of the table; the rest is UTF-8.
    weights: whose distortion types and words for quality the table has columns for.
    """
    if format == "json":
        return JsonWriter(write)
    if format == "jsonl":
        return JsonLinesWriter(write)
    if format == "csv":
        return CsvWriter(write)
    classes, words = (weights.classes, dict(weights.words)) if weights is not None else ((), ())
    return TableWriter(write, width, encoding, classes, words)


def _json(value: object) -> str:
    # ASCII only: a file name that is not UTF-8 holds lone surrogates, which only the escaped form can carry.
    return json.dumps(value, allow_nan=False)


class JsonLinesWriter:
    """One JSON object a line."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def row(self, row: Row) -> None:
        self._write(_json(row).encode() + b"\n")

    def finish(self) -> None:
        pass


class JsonWriter:
    """One JSON array, one object a line."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._separator = b""
        write(b"[")

    def row(self, row: Row) -> None:
        self._write(self._separator + b"\n" + _json(row).encode())
        self._separator = b","

    def finish(self) -> None:
        # The same whatever was written: an interrupt may have come between a row and the note that it was written.
        self._write(b"\n]\n")


class CsvWriter:
    """RFC 4180 with a header, save that lines end in a plain newline; file names keep their bytes."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._line(COLUMNS)

    def row(self, row: Row) -> None:
        self._line(tuple(self._text(row[column]) for column in COLUMNS))

    def finish(self) -> None:
        pass

    def _line(self, fields: tuple[str, ...]) -> None:
        line = ",".join(self._quoted(field) for field in fields)
        self._write(line.encode("utf-8", "surrogateescape") + b"\n")

    @staticmethod
    def _text(value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, str):
            return value
        return _json(value)  # numbers, true and false, and the probabilities as an object

    @staticmethod
    def _quoted(field: str) -> str:
        if any(sign in field for sign in '",\r\n') or field != field.strip():
            return '"' + field.replace('"', '""') + '"'
        return field


class TableWriter:
    """Columns for people. The path comes last, so that a row can be written before the next one is known."""

    _ERROR_INDENT = "  failed  "

    def __init__(
        self, write: Write, width: int | None, encoding: str, classes: Iterable[str], words: Iterable[str]
    ) -> None:
        self._write = write
        self._width = width
        self._encoding = encoding
        self._kind_width = _column_width("distortion", classes)
        self._word_width = _column_width("word", words)
        self._line(self._columns("quality", "+/-", "word", "distortion", "prob", "size") + "path")

    def row(self, row: Row) -> None:
        if row["error"] is not None:
            self._failed(printable(row["error"]))
            return
        kind = row["distortion"] or ""
        start = self._columns(
            f"{row['quality']:.2f}",
            f"{row['quality_std']:.2f}",
            row["word"] or "",
            kind,
            f"{row['probabilities'].get(kind, 0):.2f}",
            f"{row['width']}x{row['height']}",
        )
        end = "  (padded)" if row["padded"] else ""
        room = None if self._width is None else self._width - len(start) - len(end)
        self._line(start + shortened(printable(row["path"]), room) + end)

    def finish(self) -> None:
        pass

    def _columns(self, quality: str, std: str, word: str, kind: str, probability: str, size: str) -> str:
        words = f"  {word:<{self._word_width}}" if self._word_width else ""
        kinds = f"  {kind:<{self._kind_width}}  {probability:>4}" if self._kind_width else ""
        return f"{quality:>7}  {std:>5}{words}{kinds}  {size:>9}  "

    def _failed(self, message: str) -> None:
        indent = self._ERROR_INDENT
        if self._width is None or len(indent) + len(message) <= self._width:
            self._line(indent + message)
            return
        import textwrap

        room = max(self._width, 40)
        for line in textwrap.wrap(message, room, initial_indent=indent, subsequent_indent=" " * len(indent)):
            self._line(line)

    def _line(self, line: str) -> None:
        self._write(line.rstrip().encode(self._encoding, "backslashreplace") + b"\n")


def _column_width(heading: str, entries: Iterable[str]) -> int:
    """Of a column with these entries; 0 where there are none, and it is left out."""
    lengths = [len(entry) for entry in entries]
    return max(len(heading), *lengths) if lengths else 0


def printable(text: str) -> str:
    """With control characters, and whatever else a terminal may act on, as escapes: names come from strangers."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def shortened(text: str, room: int | None) -> str:
    """The end of a path, cut before a folder if it can be, in so many columns of a terminal; at least 12."""
    if room is None or len(text) * 2 <= room:
        return text
    import unicodedata

    room = max(room, 12)
    columns = [2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text]
    total = sum(columns)
    if total <= room:
        return text
    start = 0
    while total > room - 1:
        total -= columns[start]
        start += 1
    folder = text.find("/", start)
    return "…" + text[folder if folder >= 0 else start :]
