"""Decoded and distorted pictures on disk, bounded in size, shared by any number of processes."""

from __future__ import annotations

import fcntl
import io
import math
import os
import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from meon_ext.errors import TrainingError

_LEDGER = "bytes-in-use"
_SUFFIX = ".npy"
_OWN_NAME = re.compile(r"(?P<key>[0-9a-f]{40})\.npy|\.[0-9a-f]{40}\.\d+\.tmp")
_ABANDONED_SECONDS = 3600.0


class PictureCache:
    """A folder of uint8 (H, W, 3) arrays as .npy files, by key: 40 hexadecimal digits.

    folder: made where it is missing; what else lies in it is left alone and not counted. limit_bytes: the files are
    never more than this together; 0 keeps nothing.

    What is full stays as it is: training goes through its pictures in a random order again and again, where dropping
    one to keep another gains nothing. Files appear whole, so that a process killed while writing does no harm.
    Raises TrainingError when the folder cannot be used.
    """

    def __init__(self, folder: str | os.PathLike[str], limit_bytes: int) -> None:
        self._folder = Path(folder)
        self._limit = limit_bytes
        if limit_bytes > 0:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                with self._ledger():
                    pass
            except OSError as error:
                raise TrainingError(
                    f"{folder}: cannot hold the cache of pictures ({error.strerror or error}); set cache to a folder "
                    "that can be written, or cache_gib to 0"
                ) from error

    def get(self, key: str) -> NDArray[np.uint8] | None:
        """The picture kept under this key, or None. It is read anew each time, from the system's own cache as a rule:
        a map of each file would be faster to use, but tens of thousands of small objects that stay keep the heap from
        reusing the place of each batch's tensors, gigabytes in an epoch."""
        if self._limit <= 0:
            return None
        path = self._path(key)
        try:
            return _read(path)
        except OSError:
            return None
        except ValueError:  # cut short by a crash of the machine
            path.unlink(missing_ok=True)
            return None

    def put(self, key: str, pixels: NDArray[np.uint8]) -> None:
        """Keep a picture, if there is room. A disk that is full is the same as a cache that is."""
        if self._limit <= 0:
            return
        stream = io.BytesIO()
        np.save(stream, pixels, allow_pickle=False)
        size = stream.getbuffer().nbytes
        temporary = self._folder / f".{key}.{os.getpid()}.tmp"
        with suppress(OSError):
            if not self._reserve(key, size):
                return
            kept = False
            try:
                temporary.write_bytes(stream.getbuffer())
                with self._ledger():
                    # Another process may have made the same in the meantime.
                    if not self._path(key).exists():
                        temporary.replace(self._path(key))
                        kept = True
            finally:
                if not kept:
                    temporary.unlink(missing_ok=True)
                    with self._ledger() as ledger:
                        _write_count(ledger, max(0, _read_count(ledger) - size))

    def _reserve(self, key: str, size: int) -> bool:
        """Count so many bytes more as in use, if they are within the limit and the key is not there yet."""
        with self._ledger() as ledger:
            used = _read_count(ledger) + size
            if used > self._limit or self._path(key).exists():
                return False
            _write_count(ledger, used)
        return True

    def make_room(self, keys: Collection[str], bytes_each: int) -> None:
        """Before a run: drop pictures that it does not need, the oldest first, until its own fit, and count anew.

        keys: of the pictures it needs; bytes_each: about how large one is.
        """
        if self._limit <= 0:
            return
        with self._ledger() as ledger:
            kept, others = 0, []
            missing = len(keys)
            for entry in os.scandir(self._folder):
                if (own := _OWN_NAME.fullmatch(entry.name)) is None:
                    continue
                try:
                    status = entry.stat()
                except FileNotFoundError:  # a temporary file, which another process has just finished
                    continue
                if own["key"] is None and time.time() - status.st_mtime > _ABANDONED_SECONDS:
                    Path(entry.path).unlink(missing_ok=True)
                elif own["key"] in keys:
                    kept += status.st_size
                    missing -= 1
                else:
                    others.append((status.st_mtime, status.st_size, entry.path))
            room = self._limit - kept - missing * bytes_each
            others.sort(reverse=True)
            rest = sum(size for _, size, _ in others)
            while others and rest > room:
                _, size, path = others.pop()
                Path(path).unlink(missing_ok=True)
                rest -= size
            _write_count(ledger, kept + rest)

    @contextmanager
    def _ledger(self) -> Iterator[IO[bytes]]:
        """The file that says how many bytes are in use, locked against other processes."""
        with (self._folder / _LEDGER).open("a+b") as ledger:
            fcntl.flock(ledger, fcntl.LOCK_EX)
            yield ledger

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_SUFFIX}"


def _read_count(ledger: IO[bytes]) -> int:
    ledger.seek(0)
    text = ledger.read(32)
    return int(text) if text.strip().isdigit() else 0


def _write_count(ledger: IO[bytes], count: int) -> None:
    ledger.truncate(0)  # it was opened for appending
    ledger.write(b"%d" % count)
    ledger.flush()


def _read(path: Path) -> NDArray[np.uint8]:
    """A .npy file of a picture. Raises OSError, or ValueError where it holds anything else."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError("not written by this cache")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        start, size = file.tell(), os.fstat(file.fileno()).st_size
        count = math.prod(shape)
        if dtype != np.uint8 or fortran_order or len(shape) != 3 or shape[2] != 3 or size != start + count:
            raise ValueError("not a whole picture")
        pixels = np.fromfile(file, np.uint8, count)
    if len(pixels) != count:
        raise ValueError("not a whole picture")
    return pixels.reshape(shape)
