"""The pictures that are scored. No torch: the process whose memory is measured imports this too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage
from numpy.typing import NDArray
from PIL import Image

from meon_ext._native import core
from meon_ext.weights_io import CROP_SIZE

SMALL = (512, 384)  # width, height
LARGE = (4000, 3000)  # 12 megapixels
HUGE = (12000, 8400)  # 100 megapixels


def photograph(width: int, height: int) -> NDArray[np.uint8]:
    """A picture (height, width, 3) with the detail of a photograph, mirrored to size, never scaled.

    As a JPEG of quality 90 it takes about 2.6 bits a pixel, as photographs from cameras do.
    """
    file = Path(skimage.__path__[0]) / "data" / "motorcycle_left.png"
    with Image.open(file) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    high, wide = pixels.shape[:2]
    # Filled in place: np.pad's copies would be in the peak of the process's memory.
    out = np.empty((height, width, 3), np.uint8)
    for i, top in enumerate(range(0, height, high)):
        for j, left in enumerate(range(0, width, wide)):
            tile = out[top : top + high, left : left + wide]
            mirrored = pixels[:: -1 if i % 2 else 1, :: -1 if j % 2 else 1]
            tile[:] = mirrored[: tile.shape[0], : tile.shape[1]]
    return out


def grid(image: NDArray[np.uint8], stride: int = 128) -> NDArray[np.int64]:
    """Boxes (K, 4) of MEON's crops."""
    boxes: NDArray[np.int64] = core().crop_grid(*image.shape[:2], CROP_SIZE, stride)
    return boxes
