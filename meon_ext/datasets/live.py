"""LIVE Image Quality Assessment Database, release 2 (Sheikh, Sabir and Bovik, IEEE TIP 2006)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePath

from meon_ext.datasets import _house_names
from meon_ext.datasets._files import Folder
from meon_ext.datasets._mat import MatFile
from meon_ext.datasets._problems import Problems
from meon_ext.datasets._records import Dataset, Record
from meon_ext.datasets._tables import number, read_table, read_text

_REMEDY = "LIVE release 2 is at https://live.ece.utexas.edu/research/Quality/subjective.htm"
# Wider than any DMOS that was published for it, realigned or not.
_TABLE_SCALE = (-50.0, 150.0)
# Pictures in each folder; the scores of the .mat files come in this order of folders, img1 first.
_OFFICIAL = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
_INFO_LINE = re.compile(r"(\S+)\s+(img(\d+)\.\w+)\s+\S+")
_NAME_COLUMNS = ("name", "live_name", "path")
_WORDS = {**_house_names.LIVE, "wnoise": "white_noise"}


def load(root: Path, *, table: Path | None = None, references: Path | None = None) -> Dataset:
    """The distorted pictures of LIVE with their DMOS: lower is better, 0 is that of a reference.

    Official layout: ``refimgs``, ``jp2k``, ``jpeg``, ``wn``, ``gblur`` and ``fastfading`` (each with ``info.txt``),
    ``refnames_all.mat``, ``dmos.mat`` and, where it is there, ``dmos_realigned.mat``, whose scores are then taken: they
    are realigned for bias between sessions and come with standard deviations. The copies of references among the
    pictures (orgs = 1) are left out.

    table: a CSV file for pictures in another layout, by default ``dmos.csv`` in ``root`` where there are no .mat files.
        Columns: name or live_name (in ``root`` or ``root/distorted``; the suffix may differ), distortion or type,
        reference, dmos or dmos_realigned, and dmos_std if known.
    references: the folder of the references that a table names; by default ``root/refimgs`` or ``root/reference``.

    Raises DatasetError with all that is missing or odd.
    """
    problems = Problems("live", root, _REMEDY)
    top = problems.read(lambda: Folder(root))
    if table is None and top.file("dmos.mat", "dmos_realigned.mat") is None:
        table = top.file("dmos.csv")
    if table is None:
        return _official(top, problems)
    path = table
    return _from_table(root, problems, path, references or top.find("refimgs", "reference"))


@dataclass
class _Scores:
    dmos: list[float]
    std: list[float | None]
    copies: list[bool]
    references: list[str]


def _official(top: Folder, problems: Problems) -> Dataset:
    references = problems.folder(top, "refimgs")
    folders = {kind: problems.folder(top, kind) for kind in _OFFICIAL}
    scores = _scores(top, problems)
    counts, infos = _OFFICIAL, dict[str, dict[int, str]]()
    if len(scores.dmos) != sum(_OFFICIAL.values()) or not scores.references:
        infos = {kind: _info(folder, problems) for kind, folder in folders.items()}
        if all(infos.values()):
            counts = {kind: len(info) for kind, info in infos.items()}
    total = sum(counts.values())
    if not scores.references:
        scores.references = [info.get(n, "") for kind, info in infos.items() for n in range(1, counts[kind] + 1)]
    for what, values in (("scores", scores.dmos), ("orgs", scores.copies), ("reference names", scores.references)):
        if len(values) != total:
            problems.add(f"{len(values)} {what} for {total} pictures ({counts})")
    problems.raise_if_any()
    records, place = [], 0
    for kind, folder in folders.items():
        pictures = []
        for n in range(1, counts[kind] + 1):
            pictures.append(problems.picture(folder, f"img{n}.bmp"))
            name = scores.references[place]
            if kind in infos and infos[kind].get(n, name).casefold() != name.casefold():
                problems.add(f"{pictures[-1]}: refnames_all.mat says {name}, info.txt {infos[kind][n]}")
            if not scores.copies[place]:
                records.append(
                    Record(
                        pictures[-1],
                        scores.dmos[place],
                        scores.std[place],
                        _house_names.LIVE[kind],
                        reference=problems.picture(references, name),
                        group=_group(name),
                    )
                )
            place += 1
        problems.no_others(folder, pictures)
    problems.raise_if_any()
    return _dataset(top.path, records)


def _dataset(root: Path, records: list[Record]) -> Dataset:
    # Realigned scores are not bounded: the official ones go from -2.6 to 111.8.
    values = [record.score for record in records if record.score is not None]
    scale = (min([0.0, *values]), max([100.0, *values]))
    return Dataset("live", root, tuple(records), "DMOS", scale, higher_is_better=False)


def _group(reference: str) -> str:
    return f"live/{PurePath(reference).stem.casefold()}"  # tables may have it with its folder, or without suffix


def _info(folder: Folder, problems: Problems) -> dict[int, str]:
    """From the number of a picture to its reference; empty where the release came without the file."""
    path = folder.file("info.txt")
    if path is None:
        return {}
    found: dict[int, str] = {}
    for place, line in enumerate(problems.read(lambda: read_text(path)).splitlines(), 1):
        if match := _INFO_LINE.fullmatch(line.strip()):
            found[int(match[3])] = match[1]
        elif line.strip():
            problems.add(f"{path}, line {place}: {line.strip()!r} is not a reference, a picture and a number")
    if sorted(found) != list(range(1, len(found) + 1)):
        problems.add(f"{path}: the pictures in it are not img1 to img{len(found)}, each once")
    return found


def _scores(top: Folder, problems: Problems) -> _Scores:
    path = problems.file(top, "dmos_realigned.mat", "dmos.mat")
    mat = problems.read(lambda: MatFile(path))
    name = "dmos_new" if "dmos_new" in mat else "dmos"
    dmos = [float(value) for value in problems.read(lambda: mat.numbers(name))]
    std: list[float | None] = [None] * len(dmos)
    if "dmos_std" in mat:
        std = [float(value) for value in problems.read(lambda: mat.numbers("dmos_std"))]
        if len(std) != len(dmos):
            problems.add(f"{path}: {len(std)} values of dmos_std for {len(dmos)} of {name}")
    if "orgs" in mat:
        with_copies = mat
    else:
        plain = problems.file(top, "dmos.mat")
        with_copies = problems.read(lambda: MatFile(plain))
    copies = [bool(value) for value in problems.read(lambda: with_copies.numbers("orgs"))]
    names: list[str] = []
    if (names_path := top.file("refnames_all.mat")) is not None:
        names_file = problems.read(lambda: MatFile(names_path))
        names = problems.read(lambda: names_file.names("refnames_all"))
    problems.raise_if_any()
    return _Scores(dmos, std, copies, names)


def _from_table(root: Path, problems: Problems, path: Path, references: Path | None) -> Dataset:
    table = problems.read(lambda: read_table(path))
    columns = problems.columns(
        table,
        name=_NAME_COLUMNS,
        type=("type", "distortion"),
        reference=("reference",),
        dmos=("dmos_realigned", "dmos"),
    )
    std = table.column("dmos_std")
    folders: dict[Path, Folder] = {}

    def folder(parent: Path) -> Folder | None:
        if parent not in folders and os.path.isdir(parent):  # noqa: PTH112 - unlike Path's, False for too long a name
            folders[parent] = problems.read(lambda: Folder(parent))
        return folders.get(parent)

    if references is not None and folder(references) is None:
        problems.add(f"{references}: no such folder")
    records = []
    problems.no_duplicates(row.values[columns["name"]] for row in table.rows)
    for row in table.rows:
        name, kind, reference = (row.values[columns[key]] for key in ("name", "type", "reference"))
        where = f"{path}, line {row.number}"
        if kind.casefold() not in _WORDS:
            problems.add(f"{where}: type {kind!r} is none of {', '.join(_WORDS)}")
        if not reference:
            problems.add(f"{where}: no reference, by which a split tells contents apart")
        candidates = [folder((base / name).parent) for base in (root, root / "distorted")]
        found = next((p for c in candidates if c is not None and (p := c.picture(Path(name).name))), None)
        if found is None:
            problems.add(f"{root / name}: missing")
        source = folder(references) if references is not None else None
        records.append(
            Record(
                found or root / name,
                problems.score(where, row.values[columns["dmos"]], _TABLE_SCALE),
                number(row.values[std]) if std else None,
                _WORDS.get(kind.casefold()),
                reference=problems.picture(source, reference) if source is not None else None,
                group=_group(reference),
            )
        )
    problems.raise_if_any()
    return _dataset(root, records)
