"""CSIQ (Larson and Chandler, Journal of Electronic Imaging 2010)."""

from __future__ import annotations

from pathlib import Path

from meon_ext.datasets._files import Folder
from meon_ext.datasets._house_names import CSIQ
from meon_ext.datasets._problems import Problems
from meon_ext.datasets._records import Dataset, Record
from meon_ext.datasets._tables import number, read_table
from meon_ext.datasets._xlsx import read_sheet

_REMEDY = "CSIQ is at https://s2.smu.edu/~eclarson/csiq.html (src_imgs.zip, dst_imgs.zip, csiq.DMOS.xlsx)"
_SHEET = "all_by_image"
_COLUMNS = ("image", "dst_type", "dst_lev", "dmos_std", "dmos")
_SCALE = (0.0, 1.0)
# Folder, and what stands for the type in a file's name.
_FILES = {
    "noise": ("awgn", "AWGN"),
    "blur": ("blur", "BLUR"),
    "contrast": ("contrast", "contrast"),
    "fnoise": ("fnoise", "fnoise"),
    "jpeg": ("jpeg", "JPEG"),
    "jpeg 2000": ("jpeg2000", "jpeg2000"),
}


def load(root: Path) -> Dataset:
    """The distorted pictures of CSIQ with their DMOS, 0 to 1, lower is better.

    Layout: ``src_imgs``, ``dst_imgs`` with a folder for each type, and the scores: ``csiq.DMOS.csv``, that is the sheet
    all_by_image exported as CSV, or else ``csiq.DMOS.xlsx`` itself.

    Raises DatasetError with all that is missing or odd.
    """
    problems = Problems("csiq", root, _REMEDY)
    top = problems.read(lambda: Folder(root))
    references = problems.folder(top, "src_imgs")
    distorted = problems.folder(top, "dst_imgs")
    folders = {kind: problems.folder(distorted, folder) for kind, (folder, _) in _FILES.items()}
    path = problems.file(top, "csiq.DMOS.csv", "csiq.DMOS.xlsx")
    records = []
    for where, row in _rows(path, problems):
        # Excel makes a number of the name 1600, and of that 1600.0.
        image = row["image"].removesuffix(".0")
        kind = row["dst_type"].casefold()
        level = number(row["dst_lev"])
        if kind not in _FILES or level not in (1, 2, 3, 4, 5):
            problems.add(f"{where}: no picture of type {row['dst_type']!r} and level {row['dst_lev']!r} is known")
            continue
        records.append(
            Record(
                problems.picture(folders[kind], f"{image}.{_FILES[kind][1]}.{level:.0f}.png"),
                problems.score(where, row["dmos"], _SCALE),
                number(row["dmos_std"]),
                CSIQ[kind],
                int(level),
                problems.picture(references, f"{image}.png"),
                f"csiq/{image.casefold()}",
            )
        )
    problems.no_duplicates(str(record.path) for record in records)
    for kind in _FILES:
        problems.no_others(folders[kind], [record.path for record in records])
    if not records:
        problems.add(f"{path}: no rows")
    problems.raise_if_any()
    return Dataset("csiq", root, tuple(records), "DMOS", _SCALE, higher_is_better=False)


def _rows(path: Path, problems: Problems) -> list[tuple[str, dict[str, str]]]:
    """Where each row stands, and its values by column."""
    if path.suffix.casefold() == ".csv":
        table = problems.read(lambda: read_table(path))
        columns = problems.columns(table, **{name: (name,) for name in _COLUMNS})
        return [
            (f"{path}, line {row.number}", {name: row.values[columns[name]] for name in _COLUMNS}) for row in table.rows
        ]
    sheet = problems.read(lambda: read_sheet(path, _SHEET))
    start = next((i for i, row in enumerate(sheet) if set(_COLUMNS) <= set(row.values())), None)
    if start is None:
        problems.add(f"{path}: no row with {', '.join(_COLUMNS)} in the sheet {_SHEET}")
        raise problems.error()
    letters = {name: letter for letter, name in sheet[start].items()}
    return [
        (f"{path}, picture {i}", {name: row.get(letters[name], "") for name in _COLUMNS})
        for i, row in enumerate(sheet[start + 1 :], 1)
        if row.get(letters["image"])
    ]
