"""From the PATH arguments of a command, or a list on standard input, to the pictures they mean."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from meon_ext._image_names import is_image_name, natural_key

_READ_SIZE = 1 << 16
_ANY_FOLDERS = "**"  # as a part of a pattern by itself: any number of folders


@dataclass(frozen=True)
class Input:
    """One picture to score, or, with ``error``, a PATH that gives none."""

    path: str
    error: str | None = None


def expand(path: str) -> Iterator[Input]:
    """The pictures that one PATH means: itself, those in a folder, or those that match a pattern."""
    if os.path.isdir(path):  # noqa: PTH112  Path("") would be the current folder
        yield from _in_folder(path)
    elif any(sign in path for sign in "*?[") and not os.path.lexists(path):
        yield from _matching(path)
    else:
        yield Input(path)


def _in_folder(folder: str) -> Iterator[Input]:
    found = False
    for found_input in _walk(folder):
        found = True
        yield found_input
    if not found:
        yield Input(folder, f"{folder}: no pictures in this folder; name the files if they have unusual suffixes")


def _walk(folder: str) -> Iterator[Input]:
    """The folder's own pictures, then those of its folders, each in natural order; hidden names are passed over."""
    left = [folder]
    while left:  # no recursion, which deep folders would exhaust
        folder = left.pop()
        try:
            with os.scandir(folder) as listing:
                entries = sorted((e for e in listing if not e.name.startswith(".")), key=lambda e: natural_key(e.name))
        except OSError as error:
            yield Input(folder, f"{folder}: the folder cannot be listed ({error.strerror}); check its mode and owner")
            continue
        folders = []
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):  # a link to a folder may lead back here
                folders.append(entry.path)
            elif is_image_name(entry.name):
                yield Input(entry.path)
        left += reversed(folders)


def _matching(pattern: str) -> Iterator[Input]:
    seen = set()
    anywhere = _ANY_FOLDERS in pattern.split("/")
    for match in sorted(set(_glob(pattern)), key=natural_key):
        if anywhere and os.path.islink(match) and os.path.isdir(match):  # noqa: PTH112, PTH114  as in a folder
            continue
        for found in expand(match):
            if found.path not in seen:  # "**" matches folders as well as what is in them
                seen.add(found.path)
                yield found
    if not seen:
        yield Input(pattern, f"{pattern}: nothing matches this pattern; check the path")


def _glob(pattern: str) -> Iterator[str]:
    """What matches, as glob.glob has it, save that ** goes through no links to folders: two that lead back to a folder
    above are enough for glob.glob never to end."""
    import glob

    parts = pattern.split("/")
    if _ANY_FOLDERS not in parts:
        yield from glob.glob(pattern)  # noqa: PTH207  Path.glob takes no absolute patterns
        return
    place = parts.index(_ANY_FOLDERS)
    rest = "/".join(parts[place + 1 :]) or "*"
    start = "".join(f"{part}/" for part in parts[:place])
    for top in glob.glob(start) if start else ("",):  # noqa: PTH207
        for folder in _folders(top):
            yield from _glob(glob.escape(folder) + rest)


def _folders(top: str) -> Iterator[str]:
    """The folder, "" for the current one, and all below it that are no links, each with a slash at its end."""
    left = [top]
    while left:
        folder = left.pop()
        yield folder
        with suppress(OSError), os.scandir(folder or ".") as listing:
            below = (entry for entry in listing if not entry.name.startswith("."))
            left += [f"{folder}{entry.name}/" for entry in below if entry.is_dir(follow_symlinks=False)]


def read_list(descriptor: int, separator: bytes) -> Iterator[list[str]]:
    """Names from a pipe or file as they arrive: all that are complete after each read, at least one."""
    rest = b""
    while block := os.read(descriptor, _READ_SIZE):
        *complete, rest = (rest + block).split(separator)
        if names := _names(complete, separator):
            yield names
    if names := _names([rest], separator):
        yield names


def _names(lines: Sequence[bytes], separator: bytes) -> list[str]:
    if separator == b"\n":
        lines = [line.removesuffix(b"\r") for line in lines]  # a list written on Windows
    return [os.fsdecode(line) for line in lines if line]
