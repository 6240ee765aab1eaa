"""Compression with the codecs in Pillow."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from meon_ext.distortions._planes import Pixels
from meon_ext.errors import DistortionError

# From 0 (slow) to 10; training makes many pictures, and the default of 6 takes ten times as long.
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
        # Pillow's default codes red, green and blue apart, as no camera or converter does: colour noise all over.
        mct=1,
        num_resolutions=resolutions,
    )


def webp(pixels: Pixels, quality: float, random: np.random.Generator) -> Pixels:
    return _coded(pixels, "WEBP", quality=int(quality))


def avif(pixels: Pixels, quality: float, random: np.random.Generator) -> Pixels:
    return _coded(pixels, "AVIF", quality=int(quality), speed=_AVIF_SPEED, max_threads=1)


def _coded(pixels: Pixels, format: str, **options: Any) -> Pixels:
    return decoded(encoded(pixels, format, **options), pixels)


def encoded(pixels: Pixels, format: str, **options: Any) -> bytes:
    """Raises DistortionError where the codec takes no picture this long: JPEG 65500 pixels at most, WebP 16383."""
    from PIL import Image

    file = io.BytesIO()
    try:
        Image.fromarray(pixels).save(file, format, **options)
    except (OSError, ValueError, RuntimeError) as error:
        height, width = pixels.shape[:2]
        raise DistortionError(
            f"{format} cannot code a picture of {width} x {height} pixels ({error}); crop or shrink it"
        ) from error
    return file.getvalue()


def decoded(stream: bytes, pixels: Pixels) -> Pixels:
    """What the decoder makes of the stream of a picture of the size of pixels."""
    from PIL import Image

    from meon_ext._pillow import pillow_limit

    # The stream is our own: Pillow's guard against small files of huge pictures would only refuse large photographs.
    with pillow_limit(pixels.shape[0] * pixels.shape[1]), Image.open(io.BytesIO(stream)) as image:
        return np.asarray(image.convert("RGB"))
