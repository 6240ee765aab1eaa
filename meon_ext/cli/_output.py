"""Where rows go: standard output, a file that grows row by row, or a file that appears whole."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal

from meon_ext._image_names import is_image_name
from meon_ext.cli._rows import Write
from meon_ext.cli._terminal import terminal_width
from meon_ext.errors import MeonError

_FORMAT_OF_SUFFIX = {".csv": "csv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl"}


@dataclass(frozen=True)
class Sink:
    """Takes bytes; each call is flushed.

    width: of the terminal in columns, None where there is none. is_file: whether the rows go to a file, out of sight.
    """

    write: Write
    width: int | None = None
    encoding: str = "utf-8"
    is_file: bool = True


def format_of(path: str | None, given: str | None) -> str:
    """The format: as given, else by the suffix of the output file, else a table."""
    return given or _FORMAT_OF_SUFFIX.get(Path(path or "").suffix.lower(), "table")


@contextlib.contextmanager
def open_sink(path: str | None, format: str, *, whole: bool = False) -> Iterator[Sink]:
    """Standard output for None, else the file.

    JSON lines and CSV go straight to the file, so that rows are there as they are made, whatever happens. A table or a
    JSON array, and with ``whole`` any, is written beside it and put in its place at the end.
    Raises MeonError when the file cannot be written.
    """
    if path is None:
        yield _standard_output()
        return
    if is_image_name(path):
        raise MeonError(f"-o {path}: this is a picture's name; name a .csv, .jsonl or .json file")
    try:
        target = Path(path)
        special = target.exists() and not target.is_file()  # a device or pipe: written to, never replaced
        if not special:
            target = target.resolve()  # a link stays a link
    except (OSError, RuntimeError) as error:  # a name that is too long, a link to itself
        raise _unwritable(path, error) from error
    if special or (format in ("jsonl", "csv") and not whole):
        with _opened(target, "wb", path) as file:
            yield Sink(_writer(file, path))
        return
    # Not by the process's number: in a container that is the same in every run.
    temporary = target.with_name(f".{target.name[:64]}.{os.urandom(8).hex()}.tmp")
    file = _opened(temporary, "xb", path)
    try:
        with file:
            yield Sink(_writer(file, path))
        try:
            temporary.replace(target)
        except OSError as error:
            raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _opened(file: Path, mode: Literal["wb", "xb"], path: str) -> FileIO:
    try:
        return file.open(mode, buffering=0)  # a buffer would fail once more, on closing, where the disk is full
    except OSError as error:
        raise _unwritable(path, error) from error


def _writer(file: FileIO, path: str) -> Write:
    def write(data: bytes) -> None:
        try:
            while data:
                data = data[file.write(data) :]
        except BrokenPipeError:  # -o /dev/stdout, and nobody reads on
            raise
        except OSError as error:
            raise _unwritable(path, error) from error

    return write


def _unwritable(path: str, error: OSError | RuntimeError) -> MeonError:
    reason = getattr(error, "strerror", None) or error
    return MeonError(f"-o {path}: cannot be written ({reason}); choose another place")


def _standard_output() -> Sink:
    stream = sys.stdout
    if stream is None:  # its descriptor was closed before the process began
        raise MeonError("standard output is closed; open it, or name a file with -o")
    stream.flush()
    encoding = stream.encoding or "utf-8"
    buffer = getattr(stream, "buffer", None)
    if buffer is None:  # something that only looks like a file, such as io.StringIO

        def write(data: bytes) -> None:
            stream.write(data.decode(encoding, "replace"))

        return Sink(write, encoding=encoding, is_file=False)

    def write_through(data: bytes) -> None:
        buffer.write(data)
        buffer.flush()

    try:
        is_file = stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except OSError:  # io.UnsupportedOperation among them: no file beneath
        is_file = False
    return Sink(write_through, terminal_width() if stream.isatty() else None, encoding, is_file)
