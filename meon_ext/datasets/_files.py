"""Finding the files of a data set, whatever the case of their names and the format they were converted to."""

from __future__ import annotations

import os
from pathlib import Path

from meon_ext._image_names import is_image_name, natural_key
from meon_ext.errors import DatasetError

_MAX_FILES = 1_000_000  # of one folder; a name takes some 300 bytes here


class Folder:
    """The files and folders in one folder, found by name without regard to case.

    Official sets mix the two (``I01.BMP`` beside ``i02.bmp``), and so do the ways they are unpacked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, Path] = {}
        try:
            names = os.listdir(path)  # noqa: PTH208  Path.iterdir makes a Path of each first
        except OSError as error:
            raise _cannot_list(path, error) from error
        if len(names) > _MAX_FILES:
            raise DatasetError(f"{path}: more than {_MAX_FILES} files in one folder; name the right folder")
        self._names = sorted(names)
        self._pictures: dict[str, Path] = {}
        for name in self._names:
            self._entries.setdefault(name.casefold(), path / name)
            if is_image_name(name) and not name.startswith("."):
                self._pictures.setdefault(_stem(name), path / name)

    def find(self, *names: str) -> Path | None:
        """What has the first of these names that is there, in whatever case; None if none is."""
        return next((self._entries[name.casefold()] for name in names if name.casefold() in self._entries), None)

    def picture(self, name: str) -> Path | None:
        """The picture of this name, in whatever case, or else of another suffix, as after conversion to PNG."""
        return self.find(name) or self._pictures.get(_stem(name))

    def pictures(self) -> list[Path]:
        """All pictures, hidden ones left out, in natural order."""
        pictures = (self.path / name for name in self._names if is_image_name(name) and not name.startswith("."))
        return sorted((path for path in pictures if path.is_file()), key=lambda path: natural_key(path.name))


def _stem(name: str) -> str:
    return name.rpartition(".")[0].casefold()


def pictures_below(root: Path) -> list[Path]:
    """All pictures in a folder and below, in natural order; hidden names and links to folders are passed over."""
    found: list[Path] = []
    for folder, folders, _ in os.walk(root, onerror=_raise):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural_key)
        found += Folder(Path(folder)).pictures()
        if len(found) > _MAX_FILES:
            raise DatasetError(f"{root}: more than {_MAX_FILES} pictures; name a smaller folder")
    return found


def _raise(error: OSError) -> None:
    raise _cannot_list(error.filename, error) from error


def _cannot_list(path: object, error: OSError) -> DatasetError:
    return DatasetError(f"{path}: the folder cannot be listed ({error.strerror}); check the path")
