"""Collecting what is wrong with a data set, so that one error says all of it."""

from __future__ import annotations

from pathlib import Path

from meon_ext.errors import DatasetError

_SHOWN = 20  # lines in the message; the error holds all of them


class Problems:
    """What is wrong with a data set so far.

    name: of the set. root: its folder. remedy: the last sentence of the error, such as where to get the set.
    """

    def __init__(self, name: str, root: Path, remedy: str) -> None:
        self._name = name
        self._root = root
        self._remedy = remedy
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        """Note one problem."""
        self.lines.append(line)

    def stop(self, line: str) -> DatasetError:
        """The error to raise where nothing more can be read after this problem."""
        self.add(line)
        return self.error()

    def error(self) -> DatasetError:
        """All of it as an error."""
        count = len(self.lines)
        shown = [f"  {line}" for line in self.lines[:_SHOWN]]
        if count > _SHOWN:
            shown.append(f"  and {count - _SHOWN} more")
        noun = "problem" if count == 1 else "problems"
        return DatasetError("\n".join([f"{self._name} in {self._root}: {count} {noun}", *shown, self._remedy]))

    def raise_if_any(self) -> None:
        """Raises DatasetError if a problem was noted."""
        if self.lines:
            raise self.error()
