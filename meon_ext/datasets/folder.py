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
    problems = Problems("folder", root, "Name a folder that holds pictures.")
    records = tuple(
        Record(path, distortion=distortion, group=path.relative_to(root).as_posix())
        for path in problems.read(lambda: pictures_below(root))
    )
    if not records:
        problems.add("no pictures in it or below")
    problems.raise_if_any()
    return Dataset("folder", root, records)
