"""Collecting what is wrong with a data set, so that one error says all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from meon_ext.datasets._files import Folder
from meon_ext.datasets._tables import Table, listed, number
from meon_ext.errors import DatasetError

T = TypeVar("T")


class Problems:
    """What is wrong with a data set so far.

    name: of the set. root: its folder or file. remedy: the last sentence of the error, such as where to get the set.
    """

    def __init__(self, name: str, root: Path, remedy: str) -> None:
        self._name = name
        self._root = root
        self._remedy = remedy
        self.lines: dict[str, None] = {}  # in order, each once: many records may share a missing reference

    def add(self, line: str) -> None:
        """Note one problem."""
        self.lines[line] = None

    def read(self, function: Callable[[], T]) -> T:
        """What ``function`` returns. Where it raises DatasetError, that and all before it is the error to raise."""
        try:
            return function()
        except DatasetError as error:
            self.add(str(error))
            raise self.error() from error

    def folder(self, parent: Folder, *names: str) -> Folder:
        """The folder in ``parent`` that has the first of these names that is there. Raises the error if none is."""
        path = parent.find(*names)
        if path is None or not path.is_dir():
            self.add(f"{parent.path / listed(names)}: no such folder")
            raise self.error()
        return self.read(lambda: Folder(path))

    def file(self, parent: Folder, *names: str) -> Path:
        """The file in ``parent`` that has the first of these names that is there. Raises the error if none is."""
        path = parent.file(*names)
        if path is None:
            self.add(f"{parent.path / listed(names)}: no such file")
            raise self.error()
        return path

    def columns(self, table: Table, **wanted: tuple[str, ...]) -> dict[str, str]:
        """For each key, the first of its names that is a column of the table. Raises the error for one without."""
        found = {key: table.column(*names) for key, names in wanted.items()}
        for key, names in wanted.items():
            if found[key] is None:
                self.add(f"{table.path}: no column {listed(names)}; the columns are {', '.join(table.columns)}")
        if None in found.values():
            raise self.error()
        return {key: column for key, column in found.items() if column is not None}

    def picture(self, folder: Folder, name: str) -> Path:
        """The picture of this name; a missing one is noted, and its path given all the same."""
        found = folder.picture(name)
        if found is None:
            self.add(f"{folder.path / name}: missing")
        return found or folder.path / name

    def score(self, where: str, text: str, scale: tuple[float, float]) -> float:
        """The number that a text gives; one that is none, or outside the scale, is noted."""
        value = number(text)
        if value is None:
            self.add(f"{where}: {text!r} is not a number")
        elif not scale[0] <= value <= scale[1]:
            self.add(f"{where}: {value:g} is outside {scale[0]:g} to {scale[1]:g}")
        return value or 0.0

    def no_others(self, folder: Folder, known: Iterable[Path]) -> None:
        """Note every picture in the folder that is not among the known ones."""
        for path in sorted(set(folder.pictures()) - set(known)):
            self.add(f"{path}: a picture that the scores do not name; move it away")

    def no_duplicates(self, names: Iterable[str]) -> None:
        """Note every name that comes more than once."""
        seen: set[str] = set()
        for name in names:
            if name.casefold() in seen:
                self.add(f"{name}: named more than once")
            seen.add(name.casefold())

    def error(self) -> DatasetError:
        """All of it as an error."""
        noun = "problem" if len(self.lines) == 1 else "problems"
        head = f"{self._name} in {self._root}: {len(self.lines)} {noun}"
        return DatasetError("\n".join([head, *(f"  {line}" for line in self.lines), self._remedy]))

    def raise_if_any(self) -> None:
        """Raise the error if a problem was noted."""
        if self.lines:
            raise self.error()
