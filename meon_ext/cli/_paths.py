"""From the PATH arguments of a command, or a list on standard input, to the pictures they mean."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from meon_ext._image_names import is_image_name, natural_key

_READ_SIZE = 1 << 16


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
    import glob

    seen = set()
    matches = glob.glob(pattern, recursive=True)  # noqa: PTH207  Path.glob takes no absolute patterns
    for match in sorted(matches, key=natural_key):
        for found in expand(match):
            if found.path not in seen:  # "**" matches folders as well as what is in them
                seen.add(found.path)
                yield found
    if not seen:
        yield Input(pattern, f"{pattern}: nothing matches this pattern; check the path")


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
