"""BIQ2021 (Ahmed and Asif, Journal of Electronic Imaging 2022)."""

from __future__ import annotations

from pathlib import Path

from meon_ext.datasets._files import Folder
from meon_ext.datasets._problems import Problems
from meon_ext.datasets._records import Dataset, Record
from meon_ext.datasets._tables import read_table

_REMEDY = "BIQ2021 is at https://github.com/nisarahmedrana/BIQ2021"
_SCALE = (0.0, 1.0)
_TABLES = {"train": "Train (Images and MOS).csv", "test": "Test (Images and MOS).csv"}


def load(root: Path, *, part: str | None = None) -> Dataset:
    """The photographs of BIQ2021 with their MOS, 0 to 1, higher is better.

    Official layout: ``Images``, and ``Train (Images and MOS).csv`` and ``Test (Images and MOS).csv`` (Image Name, MOS).
    Also ``Images`` with one ``mos.csv`` (name, mos and, if known, content_group). Without that column, or where it is
    empty, a picture is a group of its own.

    part: "train" or "test" for one of the two official tables.

    Raises ValueError for another part, DatasetError with all that is missing or odd.
    """
    if part is not None and part not in _TABLES:
        raise ValueError(f"part must be one of {', '.join(_TABLES)}, got {part!r}")
    problems = Problems("biq2021", root, _REMEDY)
    top = problems.read(lambda: Folder(root))
    images = problems.folder(top, "Images")
    if part is None and (single := top.file("mos.csv")) is not None:
        paths = [single]
    else:
        paths = [problems.file(top, name) for key, name in _TABLES.items() if part in (None, key)]
    records = []
    for path in paths:
        records += _records(path, images, problems)
    problems.no_duplicates(record.path.name for record in records)
    if not records:
        problems.add("no scores")
    problems.raise_if_any()
    return Dataset("biq2021", root, tuple(records), "MOS", _SCALE, higher_is_better=True)


def _records(path: Path, images: Folder, problems: Problems) -> list[Record]:
    table = problems.read(lambda: read_table(path))
    columns = problems.columns(table, name=("Image Name", "name"), mos=("MOS",))
    group = table.column("content_group")
    return [
        Record(
            problems.picture(images, row.values[columns["name"]]),
            problems.score(f"{path}, line {row.number}", row.values[columns["mos"]], _SCALE),
            group=f"biq2021/{(row.values[group] if group else '') or row.values[columns['name']]}",
        )
        for row in table.rows
    ]
