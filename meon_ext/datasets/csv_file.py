"""Pictures and scores that a CSV file names."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from meon_ext.datasets._problems import Problems
from meon_ext.datasets._records import Dataset, Record
from meon_ext.datasets._tables import Row, Table, listed, number, read_table

_PATH_COLUMNS = ("path", "name", "image", "image_name", "filename")
_SCORE_COLUMNS = {"score": None, "quality": True, "mos": True, "dmos": False}
_STD_COLUMNS = ("score_std", "mos_std", "dmos_std", "std", "sd")
_GROUP_COLUMNS = ("group", "content_group", "content")


def load(
    root: Path,
    *,
    images: Path | None = None,
    score_column: str | None = None,
    score_name: str | None = None,
    scale: tuple[float, float] | None = None,
    higher_is_better: bool | None = None,
) -> Dataset:
    """The pictures that a CSV file with a header names, with what else it says of them.

    root: the file. images: the folder that paths and references are relative to; by default that of the file.
    Columns, in any order and case: path (or name, image, image_name, filename); score (or mos, dmos, quality, or
        ``score_column``, which has to be given where there are two of them), distortion, level, reference, group (or
        content_group), score_std, all of which may be absent or have empty cells. Further columns are passed over.
        Without a group, a reference and the pictures of it share one, that of the first of them that has one, and a
        picture without a reference is one of its own. However a path is written, it is the same picture.
    score_name, scale, higher_is_better: of the scores; what is not given is read from comments before the header
        (``# score_name: DMOS``, ``# scale: 0 100``, ``# higher_is_better: no``), or else follows from the score
        column: for mos and quality higher is better, for dmos lower; the scale is then that of the scores there.

    Raises DatasetError with all that is wrong with the file and the pictures it names.
    """
    path = root
    problems = Problems("csv", path, "Mend the file, or name the right one.")
    table = problems.read(lambda: read_table(path))
    wanted = {"path": _PATH_COLUMNS} | ({"score": (score_column,)} if score_column else {})
    columns = problems.columns(table, **wanted)
    found = [column for name in _SCORE_COLUMNS if (column := table.column(name))]
    if len(found) > 1 and not score_column:
        problems.add(f"{listed(found)} may be the score; name it by score_column, or --score-column")
    scored = columns.get("score") or (found[0] if found else None)
    said = _comments(table, problems)
    records = _records(table, path.parent if images is None else images, columns["path"], scored, problems)
    scores = [r.score for r in records if r.score is not None]
    if higher_is_better is None:
        higher_is_better = said.higher_is_better
    if higher_is_better is None and scores:
        higher_is_better = _SCORE_COLUMNS.get((scored or "").casefold())
        if higher_is_better is None:
            problems.add(f"whether a higher {scored} is better is not said; give it, or write # higher_is_better: yes")
    scale = scale or said.scale or ((min(scores), max(scores)) if scores else (0.0, 100.0))
    for record in records:
        if record.score is not None and not scale[0] <= record.score <= scale[1]:
            problems.add(f"{record.path.name}: score {record.score:g} is outside {scale[0]:g} to {scale[1]:g}")
    problems.raise_if_any()
    name = score_name or said.score_name or ("MOS" if higher_is_better is not False else "DMOS")
    return Dataset(path.stem, path.parent, tuple(records), name, scale, higher_is_better is not False)


class _Said:
    """What the comments of a file say."""

    score_name: str | None = None
    scale: tuple[float, float] | None = None
    higher_is_better: bool | None = None


def _comments(table: Table, problems: Problems) -> _Said:
    said = _Said()
    for comment in table.comments:
        key, _, value = (part.strip() for part in comment.partition(":"))
        if key == "score_name":
            said.score_name = value
        elif key == "scale":
            ends = [number(end) for end in value.replace(",", " ").split()]
            if len(ends) == 2 and ends[0] is not None and ends[1] is not None and ends[0] < ends[1]:
                said.scale = (ends[0], ends[1])
            else:
                problems.add(f"comment {comment!r}: a scale is two numbers, the lower first")
        elif key == "higher_is_better":
            if value.casefold() not in ("yes", "no", "true", "false"):
                problems.add(f"comment {comment!r}: yes or no was expected")
            said.higher_is_better = value.casefold() in ("yes", "true")
    return said


def _records(
    table: Table, folder: Path, path_column: str, score_column: str | None, problems: Problems
) -> list[Record]:
    std_column, group_column = table.column(*_STD_COLUMNS), table.column(*_GROUP_COLUMNS)
    distortion_column, level_column = table.column("distortion"), table.column("level")
    reference_column = table.column("reference")

    def cell(row: Row, column: str | None) -> str:
        return row.values[column] if column else ""

    def value(row: Row, column: str | None) -> float | None:
        text = cell(row, column)
        found = number(text)
        if text and found is None:
            problems.add(f"line {row.number}: {column} {text!r} is not a number")
        return found

    records = []
    seen: dict[str, int] = {}
    contents: list[str] = []
    group_of: dict[str, str] = {}
    for row in table.rows:
        name = cell(row, path_column)
        if not name:
            problems.add(f"line {row.number}: no {path_column}")
            continue
        picture = _written_one_way(folder, name)
        if picture in seen:
            problems.add(f"line {row.number}: {name} stands in line {seen[picture]} already")
            continue
        seen[picture] = row.number
        reference = cell(row, reference_column)
        for file in (name, reference):
            if file and not os.path.isfile(folder / file):  # noqa: PTH113 - unlike Path's, False for too long a name
                problems.add(f"line {row.number}: {folder / file} is missing")
        level = value(row, level_column)
        if level is not None and level not in (1, 2, 3, 4, 5):
            problems.add(f"line {row.number}: {level_column} {level:g} is not one of 1 to 5")
        contents.append(_written_one_way(folder, reference) if reference else picture)
        if group := cell(row, group_column):
            group_of.setdefault(contents[-1], group)
        records.append(
            Record(
                folder / name,
                value(row, score_column),
                value(row, std_column),
                cell(row, distortion_column) or None,
                int(level) if level is not None else None,
                folder / reference if reference else None,
                group,
            )
        )
    if not records:
        problems.add("no rows")
    return [
        record if record.group else replace(record, group=group_of.get(content, content))
        for record, content in zip(records, contents, strict=True)
    ]


def _written_one_way(folder: Path, name: str) -> str:
    """A file's name as seen from the folder, so that ./a.png and its absolute path are a.png."""
    return Path(os.path.relpath(folder / name, folder)).as_posix()
