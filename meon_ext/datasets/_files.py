"""Finding the files of a data set, whatever the case of their names and the format they were converted to."""

from __future__ import annotations

import itertools
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
        self._files: dict[str, Path] = {}
        self._pictures: dict[str, Path] = {}
        self._all_pictures: list[Path] = []
        try:
            with os.scandir(path) as entries:  # Path.iterdir makes a Path of each first, and knows no types
                is_file = {entry.name: _is_file(entry) for entry in itertools.islice(entries, _MAX_FILES + 1)}
        except OSError as error:
            raise _cannot_list(path, error) from error
        if len(is_file) > _MAX_FILES:
            raise DatasetError(f"{path}: more than {_MAX_FILES} files in one folder; name the right folder")
        for name in sorted(is_file):
            self._entries.setdefault(name.casefold(), path / name)
            if not is_file[name]:
                continue
            self._files.setdefault(name.casefold(), path / name)
            if is_image_name(name) and not name.startswith("."):
                self._pictures.setdefault(_stem(name), path / name)
                self._all_pictures.append(path / name)

    def find(self, *names: str) -> Path | None:
        """What has the first of these names that is there, in whatever case; None if none is."""
        return _first(self._entries, names)

    def file(self, *names: str) -> Path | None:
        """The same among regular files: no folder, no link to nowhere, no pipe, which whoever opens it waits for."""
        return _first(self._files, names)

    def picture(self, name: str) -> Path | None:
        """The picture of this name, in whatever case, or else of another suffix, as after conversion to PNG."""
        return self.file(name) or self._pictures.get(_stem(name))

    def pictures(self) -> list[Path]:
        """All pictures, hidden ones left out, in natural order."""
        return sorted(self._all_pictures, key=lambda path: natural_key(path.name))


def _first(paths: dict[str, Path], names: tuple[str, ...]) -> Path | None:
    return next((paths[name.casefold()] for name in names if name.casefold() in paths), None)


def _is_file(entry: os.DirEntry[str]) -> bool:
    # Asks the file system only of links.
    return entry.is_file(follow_symlinks=False) or (entry.is_symlink() and os.path.isfile(entry.path))  # noqa: PTH113


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
