"""The texts and numbers of one sheet of an Excel workbook, with the standard library alone."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from meon_ext.errors import DatasetError

# CSIQ's workbook has 0.2 MB, and no part of it 1 MB. An element takes some 200 bytes once it is read, and may take 4 in
# the part, where a thousand of them compress to few bytes.
_MAX_BYTES = 32 * 1024 * 1024
_MAX_PART_BYTES = 8 * 1024 * 1024
_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_PACKAGE = "{http://schemas.openxmlformats.org/package/2006/relationships}"


def read_sheet(path: Path, sheet: str) -> list[dict[str, str]]:
    """The rows of a sheet, each from column letters to the text of its cells; empty cells are left out.

    Raises DatasetError for a file that is no workbook, or one without that sheet.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:  # the archive's directory is read whole
            raise DatasetError(f"{path}: larger than {_MAX_BYTES} bytes; this cannot be the set's workbook")
        with zipfile.ZipFile(path) as book:
            shared = _shared_texts(book) if "xl/sharedStrings.xml" in book.namelist() else []
            return list(_rows(_part(book, _sheet_name(book, path, sheet)), shared))
    except DatasetError:
        raise
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (
        Exception
    ) as error:  # BadZipFile, ParseError, KeyError, IndexError, ValueError, RuntimeError (encrypted), ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(
            f"{path}: not an Excel workbook, or damaged ({reason}); fetch it again or export the sheet {sheet} as CSV"
        ) from error


def _part(book: zipfile.ZipFile, name: str) -> ElementTree.Element:
    with book.open(name) as file:
        # As text, since of bytes the parser takes whatever encoding they declare, in which this would look otherwise.
        text = _bounded(file, name).decode("utf-8-sig")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # a workbook has none; entities can expand without end
        raise ValueError(f"{name} declares entities")
    return ElementTree.fromstring(text)


def _bounded(file: IO[bytes], name: str) -> bytes:
    data = file.read(_MAX_PART_BYTES + 1)  # what the archive's directory says of the size need not be true
    if len(data) > _MAX_PART_BYTES:
        raise ValueError(f"{name} is larger than {_MAX_PART_BYTES} bytes")
    return data


def _sheet_name(book: zipfile.ZipFile, path: Path, sheet: str) -> str:
    sheets = {
        str(entry.get("name")): entry.get(_RELATION) for entry in _part(book, "xl/workbook.xml").iter(f"{_MAIN}sheet")
    }
    if sheet not in sheets:
        raise DatasetError(f"{path}: no sheet {sheet} in it; the sheets are {', '.join(sheets) or 'none'}")
    relations = _part(book, "xl/_rels/workbook.xml.rels").iter(f"{_PACKAGE}Relationship")
    target = next(str(entry.get("Target")) for entry in relations if entry.get("Id") == sheets[sheet])
    return target.lstrip("/") if target.startswith("/") else f"xl/{target}"


def _shared_texts(book: zipfile.ZipFile) -> list[str]:
    return [_text(entry) for entry in _part(book, "xl/sharedStrings.xml").iter(f"{_MAIN}si")]


def _text(entry: ElementTree.Element) -> str:
    """The text of an entry, which may be in pieces of several fonts."""
    return "".join(piece.text or "" for piece in entry.iter(f"{_MAIN}t"))


def _rows(root: ElementTree.Element, shared: list[str]) -> Iterator[dict[str, str]]:
    for row in root.iter(f"{_MAIN}row"):
        cells: dict[str, str] = {}
        for cell in row.iter(f"{_MAIN}c"):
            value = cell.find(f"{_MAIN}v")
            if cell.get("t") == "inlineStr":
                text = _text(cell)
            elif value is None or value.text is None:
                continue
            else:
                text = shared[int(value.text)] if cell.get("t") == "s" else value.text
            column = re.match("[A-Z]+", cell.get("r", ""))
            if column is None:
                raise ValueError("a cell without its place")
            cells[column.group()] = text.strip()
        yield cells
