"""Names of picture files: which are taken from a folder, and in which order. Imports no NumPy."""

from __future__ import annotations

import re

# What is taken from a folder. HEIC is among them so that a phone's pictures are reported, not passed over.
IMAGE_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".tif", ".tiff", ".avif", ".gif", ".bmp"),
    *(".jp2", ".j2k", ".jpx", ".j2c", ".jpc", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi", ".sgi", ".heic", ".heif"),
)


def is_image_name(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sorts img2 before img10, and upper with lower case."""
    parts = re.split("([0-9]+)", name.casefold())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name
