"""Compression with the codecs in Pillow."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from meon_ext.distortions._planes import Pixels

# Of AVIF's 0 (slow) to 10: a twentieth of the time of the default 6 for little less quality at equal size.
_AVIF_SPEED = 9
_JPEG2000_RESOLUTIONS = 6  # OpenJPEG's default


def jpeg(pixels: Pixels, quality: float, random: np.random.Generator) -> Pixels:
    return _coded(pixels, "JPEG", quality=int(quality))


def jpeg2000(pixels: Pixels, ratio: float, random: np.random.Generator) -> Pixels:
    # More resolutions than halvings of the shorter side are an error in OpenJPEG.
    resolutions = min(_JPEG2000_RESOLUTIONS, min(pixels.shape[:2]).bit_length())
    return _coded(
        pixels,
        "JPEG2000",
        quality_mode="rates",
        quality_layers=[ratio],
        irreversible=True,
        num_resolutions=resolutions,
    )


def webp(pixels: Pixels, quality: float, random: np.random.Generator) -> Pixels:
    return _coded(pixels, "WEBP", quality=int(quality))


def avif(pixels: Pixels, quality: float, random: np.random.Generator) -> Pixels:
    return _coded(pixels, "AVIF", quality=int(quality), speed=_AVIF_SPEED, max_threads=1)


def _coded(pixels: Pixels, format: str, **options: Any) -> Pixels:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return decoded(file)


def decoded(file: io.BytesIO) -> Pixels:
    from PIL import Image

    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))
