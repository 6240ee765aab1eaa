"""From the numbers and words that data sets have for distortions to the names of ``meon_ext.distortions``."""

from __future__ import annotations

from typing import Literal

from meon_ext.distortions import TYPES

# Sets without numbers: their folders' or tables' words.
LIVE = {
    "jp2k": "jpeg2000",
    "jpeg": "jpeg",
    "wn": "white_noise",
    "gblur": "gaussian_blur",
    "fastfading": "jpeg2000_transmission",  # JPEG 2000 through a channel with fast fading
}
CSIQ = {
    "noise": "white_noise",
    "blur": "gaussian_blur",
    "contrast": "contrast_change",
    "fnoise": "pink_noise",  # 1/f noise; no type of TID2013 or KADID-10k
    "jpeg": "jpeg",
    "jpeg 2000": "jpeg2000",
}


def by_number(numbering: Literal["tid2013", "kadid10k"]) -> dict[int, str]:
    """The names of the types that a set numbers, by number."""
    numbers = {getattr(kind, numbering): name for name, kind in TYPES.items()}
    return {number: name for number, name in numbers.items() if number is not None}
