"""Reading numbers and names from MATLAB's .mat files, which come from anywhere."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meon_ext.errors import DatasetError

# The largest of the official files holds two numbers and a name for each of about a thousand pictures, 0.2 MB.
_MAX_BYTES = 4 * 1024 * 1024
_MAX_EXPANDED_BYTES = 64 * 1024 * 1024
_MAX_ELEMENTS = 1_000_000
_HEADER_BYTES = 128
# Of the MAT-file format, level 5: types of elements, and classes of arrays.
_MATRIX, _COMPRESSED = 14, 15
_CELL_CLASS, _CHAR_CLASS = 1, 4
_NUMBER_CLASSES = range(6, 16)  # any class may be marked as logical, which is then what is said of it
_COMPLEX = 0x800
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CODECS = {1: "ascii", 2: "ascii", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
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
            if path.stat().st_size > _MAX_BYTES or (matrices := _matrices(path.read_bytes())) is None:
                raise DatasetError(f"{path}: too large for the set's table; fetch the file again")
            described = whosmat(path)
        except DatasetError:
            raise
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read ({error.strerror}); check its mode and owner") from error
        except NotImplementedError as error:
            raise DatasetError(f"{path}: a MATLAB 7.3 file; save it again with -v7") from error
        except Exception as error:  # ValueError, TypeError, zlib.error, struct.error, MatReadError, ...
            raise self._damaged(error) from error
        if any(math.prod(shape) > _MAX_ELEMENTS for _, shape, _ in described):  # cells are allocated as declared
            raise DatasetError(f"{path}: an array of more than {_MAX_ELEMENTS} elements; fetch the file again")
        self._classes = {name: kind for name, _, kind in described}
        if len(self._classes) < len(described):  # the one that is described need not be the one that is read
            raise DatasetError(f"{path}: two variables of one name; fetch the file again")
        self._matrices: dict[str, _Matrix] = dict(zip(self._classes, matrices, strict=False))  # none in format 4

    def __contains__(self, name: str) -> bool:
        return name in self._classes

    def numbers(self, name: str) -> NDArray[np.float64]:
        """All numbers of a variable, in MATLAB's order, float64 (N,), all finite."""
        self._require(name, _NUMBERS, "numbers")
        try:
            matrix = self._matrices.get(name)
            values = matrix.numbers() if matrix is not None else self._load(name)
        except ValueError as error:
            raise DatasetError(f"{self.path}: {name} is not numbers, or damaged; fetch the file again") from error
        if not np.isfinite(values).all():
            raise DatasetError(f"{self.path}: {name} has values that are not finite; fetch the file again")
        return values

    def names(self, name: str) -> list[str]:
        """All texts of a cell array, in MATLAB's order."""
        self._require(name, {"cell"}, "a cell array of texts")
        try:
            return self._matrices[name].texts()
        except (KeyError, ValueError) as error:
            raise DatasetError(f"{self.path}: {name} is not a cell array of texts; fetch the file again") from error

    def _require(self, name: str, kinds: frozenset[str] | set[str], wanted: str) -> None:
        if name not in self._classes:
            held = ", ".join(self._classes) or "nothing"
            raise DatasetError(f"{self.path}: no variable {name} in it (it holds {held}); fetch the file again")
        if self._classes[name] not in kinds:
            raise DatasetError(f"{self.path}: {name} is of class {self._classes[name]}, not {wanted}")

    def _load(self, name: str) -> NDArray[np.float64]:
        """Of a file of format 4, which SciPy reads in Python."""
        from scipy.io import loadmat

        try:
            return np.asarray(loadmat(self.path, variable_names=[name])[name], np.float64).ravel(order="F")
        except Exception as error:  # as above
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DatasetError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return DatasetError(f"{self.path}: not a MATLAB file, or damaged ({reason}); fetch the file again")


class _Matrix:
    """A variable of a format 5 file, uncompressed. order: of its bytes, "<" or ">".

    SciPy's reader would do, but a type of element that there is not ends the process, as one array in another does,
    often enough; and within an array it allocates whatever is declared.
    """

    def __init__(self, data: bytes, order: str) -> None:
        self._data = data
        self._order = order

    def numbers(self) -> NDArray[np.float64]:
        """The numbers of a real array, in MATLAB's order. Raises ValueError for anything else."""
        elements = self._elements()
        flags, shape = self._array(elements)
        kind, data = _next(elements)
        if flags & 0xFF not in _NUMBER_CLASSES or flags & _COMPLEX or kind not in _DTYPES:
            raise ValueError("not an array of real numbers")
        values = np.frombuffer(data, f"{self._order}{_DTYPES[kind]}")
        if len(values) != math.prod(shape):
            raise ValueError("not as many numbers as the array's shape says")
        return values.astype(np.float64)

    def texts(self) -> list[str]:
        """The texts of a cell array of rows of characters. Raises ValueError for anything else."""
        elements = self._elements()
        flags, shape = self._array(elements)
        if flags & 0xFF != _CELL_CLASS:
            raise ValueError("not a cell array")
        return [self._text(elements) for _ in range(math.prod(shape))]

    def _text(self, elements: Iterator[tuple[int, bytes]]) -> str:
        if _next(elements)[0] != _MATRIX:
            raise ValueError("not an array in a cell")
        flags, shape = self._array(elements)
        kind, data = _next(elements)
        if flags & 0xFF != _CHAR_CLASS or kind not in _CODECS:
            raise ValueError("not text in a cell")
        codec = _CODECS[kind]
        text = data.decode(f"{codec}-{'le' if self._order == '<' else 'be'}" if kind in (4, 17, 18) else codec)
        if shape != (1, len(text)):
            raise ValueError("not one row of text in a cell")
        return text

    def _array(self, elements: Iterator[tuple[int, bytes]]) -> tuple[int, tuple[int, ...]]:
        """Flags, which hold the class, and shape, with which an array begins; its name is passed over."""
        (_, flags), (_, shape), _ = (_next(elements) for _ in range(3))
        if len(flags) != 8 or len(shape) % 4:
            raise ValueError("not the beginning of an array")
        (word,) = struct.unpack_from(f"{self._order}I", flags)
        return word, struct.unpack(f"{self._order}{len(shape) // 4}i", shape)

    def _elements(self) -> Iterator[tuple[int, bytes]]:
        """Type and content of one element after the other; what is in a matrix follows it, which has no content."""
        place = 0
        while place + 8 <= len(self._data):
            kind, size = struct.unpack_from(f"{self._order}II", self._data, place)
            start = place + 8
            if kind == _MATRIX:
                size = 0
            elif kind >> 16:  # up to four bytes stand in the tag
                kind, size, start = kind & 0xFFFF, min(kind >> 16, 4), place + 4
            yield kind, self._data[start : start + size]
            place = max(start + size + (-size % 8 if start == place + 8 else 0), place + 8)


def _next(elements: Iterator[tuple[int, bytes]]) -> tuple[int, bytes]:
    found = next(elements, None)
    if found is None:
        raise ValueError("the file ends")
    return found


def _matrices(data: bytes) -> list[_Matrix] | None:
    """The variables of a format 5 file, in order; none of format 4. None where they are too large, uncompressed.

    The reader allocates whatever a compressed variable expands to, which may be a thousand times its size.
    """
    if 0 in data[:4]:  # format 4, which compresses nothing
        return []
    order = "<" if data[126:128] == b"IM" else ">"  # whatever else it says: so the reader has it
    found: list[_Matrix] = []
    total, start = 0, _HEADER_BYTES
    while start + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, start)
        body = data[start + 8 : start + 8 + size]
        if kind == _COMPRESSED:
            body = zlib.decompressobj().decompress(body, _MAX_EXPANDED_BYTES + 1 - total)
        total += len(body)
        if total > _MAX_EXPANDED_BYTES:
            return None
        found.append(_Matrix(body[8:] if kind == _COMPRESSED else body, order))  # within which it has a tag again
        start += 8 + size
    return found
