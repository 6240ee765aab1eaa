"""KADID-10k (Lin, Hosu and Saupe, QoMEX 2019)."""

from __future__ import annotations

import math
import re
from pathlib import Path

from meon_ext.datasets._files import Folder
from meon_ext.datasets._house_names import by_number
from meon_ext.datasets._problems import Problems
from meon_ext.datasets._records import Dataset, Record
from meon_ext.datasets._tables import number, read_table

_REMEDY = "KADID-10k is at https://database.mmsp-kn.de/kadid-10k-database.html"
_SCALE = (1.0, 5.0)
_NAME = re.compile(r"(i\d\d)_(\d\d)_0([1-5])\.\w+", re.IGNORECASE)


def load(root: Path) -> Dataset:
    """The distorted pictures of KADID-10k with their scores, 1 to 5.

    The set calls them DMOS, but 5 is a difference that nobody sees: higher is better. Layout: ``images``, which also
    holds the references, and ``dmos.csv`` (dist_img, ref_img, dmos, var).

    Raises DatasetError with all that is missing or odd.
    """
    problems = Problems("kadid10k", root, _REMEDY)
    top = problems.read(lambda: Folder(root))
    images = problems.folder(top, "images")
    path = problems.file(top, "dmos.csv")
    table = problems.read(lambda: read_table(path))
    columns = problems.columns(table, name=("dist_img",), reference=("ref_img",), score=("dmos",), var=("var",))
    names = by_number("kadid10k")
    records = []
    for row in table.rows:
        name, reference, score, var = (row.values[columns[key]] for key in ("name", "reference", "score", "var"))
        where = f"{path}, line {row.number}"
        match = _NAME.fullmatch(name)
        if match is None or int(match[2]) not in names:
            problems.add(f"{where}: {name!r} is not the name of a picture of this set, such as I01_01_01.png")
            continue
        variance = number(var)
        if variance is None or variance < 0:
            problems.add(f"{where}: var {var!r} is not a variance")
        records.append(
            Record(
                problems.picture(images, name),
                problems.score(where, score, _SCALE),
                math.sqrt(max(variance or 0.0, 0.0)),
                names[int(match[2])],
                int(match[3]),
                problems.picture(images, reference),
                f"kadid10k/{match[1].casefold()}",
            )
        )
    problems.no_duplicates(row.values[columns["name"]] for row in table.rows)
    problems.no_others(images, [p for r in records for p in (r.path, r.reference) if p is not None])
    if not records:
        problems.add(f"{path}: no rows")
    problems.raise_if_any()
    return Dataset("kadid10k", root, tuple(records), "DMOS", _SCALE, higher_is_better=True)
