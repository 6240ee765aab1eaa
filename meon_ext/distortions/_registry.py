"""The table of distortion types and the one way to apply them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

LEVELS = (1, 2, 3, 4, 5)
CLASSIC = ("jpeg2000", "jpeg", "white_noise", "gaussian_blur")


@dataclass(frozen=True)
class DistortionType:
    """One type of distortion.

    name: the house name. title: for people. tid2013, kadid10k: its number in these data sets, or None.
    source: where the definition and the level parameters come from. parameter: what a level's number is, with its unit.
    levels: the parameters of the levels 1 to 5.
    """

    name: str
    title: str
    tid2013: int | None
    kadid10k: int | None
    source: str
    parameter: str
    levels: tuple[float, float, float, float, float]


_ROWS: tuple[tuple[str, str, int | None, int | None], ...] = (
    ("white_noise", "White noise", 1, 11),
    ("colour_noise", "Noise mostly in colour", 2, 12),
    ("correlated_noise", "Spatially correlated noise", 3, None),
    ("masked_noise", "Masked noise", 4, None),
    ("high_frequency_noise", "High-frequency noise", 5, None),
    ("impulse_noise", "Impulse noise", 6, 13),
    ("quantisation", "Quantisation", 7, 22),
    ("gaussian_blur", "Gaussian blur", 8, 1),
    ("denoising", "Denoising", 9, 15),
    ("jpeg", "JPEG", 10, 10),
    ("jpeg2000", "JPEG 2000", 11, 9),
    ("jpeg_transmission", "JPEG transmission errors", 12, None),
    ("jpeg2000_transmission", "JPEG 2000 transmission errors", 13, None),
    ("pattern_shift", "Non-eccentricity pattern", 14, 20),
    ("local_blocks", "Local block-wise distortions", 15, None),
    ("mean_shift", "Mean shift", 16, 18),
    ("contrast_change", "Contrast change", 17, 25),
    ("saturation_change", "Change of saturation", 18, None),
    ("multiplicative_noise", "Multiplicative noise", 19, 14),
    ("comfort_noise", "Comfort noise", 20, None),
    ("noisy_compression", "Lossy compression of a noisy picture", 21, None),
    ("colour_quantisation", "Colour quantisation with dither", 22, 6),
    ("chromatic_aberration", "Chromatic aberration", 23, None),
    ("sparse_sampling", "Sparse sampling and reconstruction", 24, None),
    ("lens_blur", "Lens blur", None, 2),
    ("motion_blur", "Motion blur", None, 3),
    ("colour_diffusion", "Colour diffusion", None, 4),
    ("colour_shift", "Colour shift", None, 5),
    ("desaturation", "Colour saturation 1 (HSV)", None, 7),
    ("oversaturation", "Colour saturation 2 (Lab)", None, 8),
    ("brighten", "Brighten", None, 16),
    ("darken", "Darken", None, 17),
    ("jitter", "Jitter", None, 19),
    ("pixelate", "Pixelate", None, 21),
    ("colour_block", "Colour blocks", None, 23),
    ("sharpen", "Over-sharpening", None, 24),
    ("webp", "WebP", None, None),
    ("avif", "AVIF", None, None),
)
TYPES: Mapping[str, DistortionType] = MappingProxyType(
    {
        name: DistortionType(name, title, tid, kadid, "interim", "interim", (1, 2, 3, 4, 5))
        for name, title, tid, kadid in _ROWS
    }
)


def available(name: str) -> bool:
    """Whether this Pillow can make the type (AVIF, WebP and JPEG 2000 may be missing)."""
    return name in TYPES


def distort(image: NDArray[np.uint8], type: str, level: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """The picture with the distortion: uint8 (H, W, 3) RGB, level 1 (slight) to 5 (severe), the same for equal arguments."""
    random = np.random.default_rng([seed, list(TYPES).index(type), level])
    return np.clip(np.rint(image + random.normal(0, 6 * level, image.shape)), 0, 255).astype(np.uint8)
