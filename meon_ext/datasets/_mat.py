"""Reading numbers and names from MATLAB's .mat files, which come from anywhere."""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meon_ext.errors import DatasetError

# The largest of the official files holds two numbers and a name for each of about a thousand pictures, 0.2 MB.
_MAX_BYTES = 4 * 1024 * 1024
_MAX_EXPANDED_BYTES = 64 * 1024 * 1024
_MAX_ELEMENTS = 1_000_000
_HEADER_BYTES = 128
_COMPRESSED = 15  # miCOMPRESSED of the MAT-file format, level 5
_NUMBERS = frozenset(
    {"double", "single", "logical"} | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)


class MatFile:
    """A .mat file of format 4 or 5 (MATLAB's ``-v4``, ``-v6`` and ``-v7``): its arrays of numbers, its cells of text.

    Objects, function handles and the like are refused. Raises DatasetError for a file that is no such thing.
    """

    def __init__(self, path: Path) -> None:
        from scipy.io import whosmat

        self.path = path
        try:
            size = path.stat().st_size
            if size > _MAX_BYTES or (size > _HEADER_BYTES and _expanded_bytes(path.read_bytes()) > _MAX_EXPANDED_BYTES):
                raise DatasetError(f"{path}: too large for the set's table; fetch the file again")
            described = whosmat(path)
        except DatasetError:
            raise
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read ({error.strerror}); check its mode and owner") from error
        except NotImplementedError as error:
            raise DatasetError(f"{path}: a MATLAB 7.3 file; save it again with -v7") from error
        except (
            Exception
        ) as error:  # the reader raises ValueError, TypeError, zlib.error, struct.error, MatReadError, ...
            raise self._damaged(error) from error
        if any(math.prod(shape) > _MAX_ELEMENTS for _, shape, _ in described):  # cells are allocated as declared
            raise DatasetError(f"{path}: an array of more than {_MAX_ELEMENTS} elements; fetch the file again")
        self._classes = {name: kind for name, _, kind in described}

    def __contains__(self, name: str) -> bool:
        return name in self._classes

    def numbers(self, name: str) -> NDArray[np.float64]:
        """All numbers of a variable, in MATLAB's order, float64 (N,), all finite."""
        self._require(name, _NUMBERS, "numbers")
        values = np.asarray(self._load(name), np.float64).ravel(order="F")
        if not np.isfinite(values).all():
            raise DatasetError(f"{self.path}: {name} has values that are not finite; fetch the file again")
        return values

    def names(self, name: str) -> list[str]:
        """All texts of a cell array, in MATLAB's order."""
        self._require(name, {"cell"}, "a cell array of texts")
        cells = self._load(name).ravel(order="F")
        texts = [cell.ravel() for cell in cells]
        if not all(text.dtype.kind == "U" and len(text) == 1 for text in texts):
            raise DatasetError(f"{self.path}: {name} is not a cell array of texts; fetch the file again")
        return [str(text[0]) for text in texts]

    def _require(self, name: str, kinds: frozenset[str] | set[str], wanted: str) -> None:
        if name not in self._classes:
            held = ", ".join(self._classes) or "nothing"
            raise DatasetError(f"{self.path}: no variable {name} in it (it holds {held}); fetch the file again")
        if self._classes[name] not in kinds:
            raise DatasetError(f"{self.path}: {name} is of class {self._classes[name]}, not {wanted}")

    def _load(self, name: str) -> NDArray[Any]:
        from scipy.io import loadmat

        try:
            return np.asarray(loadmat(self.path, variable_names=[name])[name])
        except Exception as error:  # as above
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DatasetError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return DatasetError(f"{self.path}: not a MATLAB file, or damaged ({reason}); fetch the file again")


def _expanded_bytes(data: bytes) -> int:
    """How large the variables of a format 5 file are, uncompressed; stops counting past the limit.

    The reader allocates whatever a compressed variable expands to, which may be a thousand times its size.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    total, start = 0, _HEADER_BYTES
    while order and start + 8 <= len(data) and total <= _MAX_EXPANDED_BYTES:
        kind, size = struct.unpack_from(f"{order}II", data, start)
        body = data[start + 8 : start + 8 + size]
        if kind == _COMPRESSED:
            total += len(zlib.decompressobj().decompress(body, _MAX_EXPANDED_BYTES + 1 - total))
        else:
            total += len(body)
        start += 8 + size
    return total
