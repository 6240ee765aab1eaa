"""A folder of pictures without scores."""

from __future__ import annotations

from pathlib import Path

from meon_ext.datasets._files import pictures_below
from meon_ext.datasets._problems import Problems
from meon_ext.datasets._records import Dataset, Record


def load(root: Path, *, distortion: str | None = None) -> Dataset:
    """All pictures in ``root`` and below, in natural order, each a group of its own.

    distortion: what all of them are, such as "pristine"; None where that is not known.
    Raises DatasetError where there are none.
    """
    records = []
    for path in pictures_below(root):
        records.append(Record(path, distortion=distortion, group=path.relative_to(root).as_posix()))
    if not records:
        raise Problems("folder", root, "Name a folder that holds pictures.").stop("no pictures in it or below")
    return Dataset("folder", root, tuple(records))
