"""TID2013 (Ponomarenko et al., Signal Processing: Image Communication 2015)."""

from __future__ import annotations

import re
from pathlib import Path

from meon_ext.datasets._files import Folder
from meon_ext.datasets._house_names import by_number
from meon_ext.datasets._problems import Problems
from meon_ext.datasets._records import Dataset, Record
from meon_ext.datasets._tables import number, read_table, read_text

_REMEDY = "TID2013 is at https://www.ponomarenko.info/tid2013.htm"
_SCALE = (0.0, 9.0)
_NAME = re.compile(r"(i\d\d)_(\d\d)_([1-5])\.\w+", re.IGNORECASE)


def load(root: Path) -> Dataset:
    """The distorted pictures of TID2013 with their MOS, 0 to 9, higher is better.

    Official layout: ``reference_images``, ``distorted_images``, ``mos_with_names.txt`` and ``mos_std.txt``. Names are
    found in whatever case, since the set mixes the two. Also a folder with ``mos.csv`` (name, reference, mos, mos_std)
    and the pictures beside it, as for a part of the set.

    Raises DatasetError with all that is missing or odd.
    """
    problems = Problems("tid2013", root, _REMEDY)
    top = problems.read(lambda: Folder(root))
    if top.file("mos_with_names.txt") is None and (table := top.file("mos.csv")) is not None:
        rows = _rows_of_table(table, problems)
        distorted = references = top
    else:
        path = problems.file(top, "mos_with_names.txt")
        rows = _rows_of_text(path, top, problems)
        distorted, references = problems.folder(top, "distorted_images"), problems.folder(top, "reference_images")
    names = by_number("tid2013")
    records = []
    for where, name, score, std in rows:
        match = _NAME.fullmatch(name)
        if match is None or int(match[2]) not in names:
            problems.add(f"{where}: {name!r} is not the name of a picture of this set, such as I01_01_1.bmp")
            continue
        records.append(
            Record(
                problems.picture(distorted, name),
                problems.score(where, score, _SCALE),
                number(std),
                names[int(match[2])],
                int(match[3]),
                problems.picture(references, f"{match[1]}.bmp"),
                f"tid2013/{match[1].casefold()}",
            )
        )
    problems.no_duplicates(name for _, name, _, _ in rows)
    problems.no_others(distorted, [p for r in records for p in (r.path, r.reference) if p is not None])
    if not records:
        problems.add("no scores")
    problems.raise_if_any()
    return Dataset("tid2013", root, tuple(records), "MOS", _SCALE, higher_is_better=True)


def _rows_of_text(path: Path, top: Folder, problems: Problems) -> list[tuple[str, str, str, str]]:
    """Where each score stands, the picture's name, the score, and its standard deviation ("" if unknown)."""
    lines = problems.read(lambda: read_text(path)).split("\n")
    rows = []
    for place, line in enumerate(lines, 1):
        words = line.split()
        if len(words) == 2:
            rows.append((f"{path}, line {place}", words[1], words[0]))
        elif words:
            problems.add(f"{path}, line {place}: {line.strip()!r} is not a score and a name")
    deviations = [""] * len(rows)
    if (std_path := top.file("mos_std.txt")) is not None:
        deviations = problems.read(lambda: read_text(std_path)).split()
        if len(deviations) != len(rows):
            problems.add(f"{std_path}: {len(deviations)} values for {len(rows)} scores")
            deviations = [""] * len(rows)
    return [(*row, std) for row, std in zip(rows, deviations, strict=True)]


def _rows_of_table(path: Path, problems: Problems) -> list[tuple[str, str, str, str]]:
    table = problems.read(lambda: read_table(path))
    columns = problems.columns(table, name=("name",), mos=("mos",))
    std = table.column("mos_std")
    return [
        (
            f"{path}, line {row.number}",
            row.values[columns["name"]],
            row.values[columns["mos"]],
            row.values[std] if std else "",
        )
        for row in table.rows
    ]
