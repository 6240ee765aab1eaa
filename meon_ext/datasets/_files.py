"""Finding the files of a data set, whatever the case of their names."""

from __future__ import annotations

import os
from pathlib import Path

from meon_ext._image_names import is_image_name, natural_key
from meon_ext.errors import DatasetError

_MAX_FILES = 1_000_000  # of one folder; a name takes about 200 bytes


class Folder:
    """The files of one folder, by name without regard to case.

    Official sets mix the two (``I01.BMP`` beside ``i02.bmp``), and so do the ways they are unpacked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, Path] = {}
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if len(self._files) == _MAX_FILES:
                        raise DatasetError(f"{path}: more than {_MAX_FILES} files in one folder; name the right folder")
                    self._files.setdefault(entry.name.casefold(), path / entry.name)
        except OSError as error:
            raise DatasetError(f"{path}: the folder cannot be listed ({error.strerror}); check the path") from error

    def find(self, name: str) -> Path | None:
        """The file of this name in whatever case, None if there is none."""
        return self._files.get(name.casefold())

    def pictures(self) -> list[Path]:
        """The pictures in this folder, hidden ones left out, in natural order."""
        names = (path for path in self._files.values() if is_image_name(path.name) and not path.name.startswith("."))
        return sorted((path for path in names if path.is_file()), key=lambda path: natural_key(path.name))


def pictures_below(root: Path) -> list[Path]:
    """All pictures in a folder and below, in natural order; hidden names and links to folders are passed over."""
    found: list[Path] = []
    for folder, folders, _ in os.walk(root, onerror=_cannot_list):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural_key)
        found += Folder(Path(folder)).pictures()
        if len(found) > _MAX_FILES:
            raise DatasetError(f"{root}: more than {_MAX_FILES} pictures; name a smaller folder")
    return found


def _cannot_list(error: OSError) -> None:
    raise DatasetError(f"{error.filename}: the folder cannot be listed ({error.strerror}); check the path") from error
