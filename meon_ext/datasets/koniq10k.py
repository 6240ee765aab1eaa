"""KonIQ-10k (Hosu, Lin, Sziranyi and Saupe, IEEE TIP 2020)."""

from __future__ import annotations

from pathlib import Path

from meon_ext.datasets._files import Folder
from meon_ext.datasets._problems import Problems
from meon_ext.datasets._records import Dataset, Record
from meon_ext.datasets._tables import Table, number, read_table

_REMEDY = "KonIQ-10k is at https://database.mmsp-kn.de/koniq-10k-database.html"
_SETS = ("training", "validation", "test")


def load(root: Path, *, part: str | None = None) -> Dataset:
    """The photographs of KonIQ-10k with their MOS, higher is better; each is a group of its own.

    Layout: ``1024x768`` or else ``512x384`` (or ``koniq10k_1024x768``, ``koniq10k_512x384``), and
    ``koniq10k_distributions_sets.csv`` or else ``koniq10k_scores_and_distributions.csv``. Scores are on the scale 0 to
    100, MOS of the former and MOS_zscore of the latter; a table with neither gives MOS, 1 to 5, whose standard
    deviation (SD) is on that scale and is given only then.

    part: "training", "validation" or "test" for the authors' own split, which the former table has.

    Raises ValueError for another part, DatasetError with all that is missing or odd.
    """
    if part is not None and part not in _SETS:
        raise ValueError(f"part must be one of {', '.join(_SETS)}, got {part!r}")
    problems = Problems("koniq10k", root, _REMEDY)
    top = problems.read(lambda: Folder(root))
    sizes = ("1024x768", "512x384")
    images = problems.folder(top, *sizes, *(f"koniq10k_{size}" for size in sizes))
    path = problems.file(top, "koniq10k_distributions_sets.csv", "koniq10k_scores_and_distributions.csv")
    table = problems.read(lambda: read_table(path))
    score_column, scale = _scores(table)
    columns = problems.columns(table, name=("image_name",), score=(score_column,))
    std_column = table.column("SD") if scale == (1.0, 5.0) else None
    set_column = table.column("set")
    if part is not None and set_column is None:
        problems.add(f"{path}: no column set, so {part} is not known; use koniq10k_distributions_sets.csv")
    names = [row.values[columns["name"]] for row in table.rows]
    problems.no_duplicates(names)
    records = [
        Record(
            problems.picture(images, name),
            problems.score(f"{path}, line {row.number}", row.values[columns["score"]], scale),
            number(row.values[std_column]) if std_column else None,
            group=f"koniq10k/{name.casefold()}",
        )
        for name, row in zip(names, table.rows, strict=True)
        if part is None or (set_column is not None and row.values[set_column] == part)
    ]
    if not records:
        problems.add(f"{path}: no rows")
    problems.raise_if_any()
    return Dataset("koniq10k", root, tuple(records), "MOS", scale, higher_is_better=True)


def _scores(table: Table) -> tuple[str, tuple[float, float]]:
    if table.column("MOS_zscore"):
        return "MOS_zscore", (0.0, 100.0)
    return "MOS", ((0.0, 100.0) if table.column("set") else (1.0, 5.0))
