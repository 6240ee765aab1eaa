"""The table of distortion types and the one way to apply them."""

from __future__ import annotations

import math
import operator
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meon_ext.distortions import _blur, _codecs, _local, _noise, _tone, _transmission
from meon_ext.errors import DistortionError, ImageError

Apply = Callable[[NDArray[np.uint8], float, np.random.Generator], "NDArray[np.uint8] | NDArray[np.float32]"]

LEVELS = (1, 2, 3, 4, 5)
LOWEST_LEVEL = 0.5  # of fractions, which lie between levels and below the first
CLASSIC = ("jpeg2000", "jpeg", "white_noise", "gaussian_blur")

_TID2013 = "Ponomarenko et al., Image database TID2013, Signal Processing: Image Communication 30, 2015"
_KADID10K = "Lin, Hosu and Saupe, KADID-10k, QoMEX 2019"
_OWN_LEVELS = "levels chosen here, so that damage grows evenly from slight to severe"
_TID2013_LEVELS = "levels at about the PSNR that TID2013 aims for"
_KADID10K_LEVELS = "levels of KADID-10k's published code"
_TID2013_LADDER = (33, 30, 27, 24, 21)
_PSNR = "PSNR before clipping, dB"
_ERRORS_PSNR = "PSNR of what the errors do, dB"


@dataclass(frozen=True)
class DistortionType:
    """One type of distortion.

    name: the house name. title: for people. tid2013, kadid10k: its number in these data sets, or None.
    source: where the definition and the level parameters come from. parameter: what a level's number is, with its unit.
    levels: the parameters of the levels 1 to 5. neutral: the parameter that changes nothing, of types some of whose
    levels lie on either side of it or where it is 1 for a factor that may be 0; None for the rest.
    """

    name: str
    title: str
    tid2013: int | None
    kadid10k: int | None
    source: str
    parameter: str
    levels: tuple[float, float, float, float, float]
    apply: Apply = field(repr=False, compare=False)
    neutral: float | None = None

    def parameter_at(self, level: float) -> float:
        """The parameter of a level from 0.5 to 5; a fraction lies in equal ratios between its neighbours, below 1 too.

        With a ``neutral`` it is the distance from that which does, on the side of the nearer level.
        """
        if level == int(level):
            return self.levels[int(level) - 1]
        low = min(int(level) or 1, len(self.levels) - 1)
        origin = self.neutral or 0.0
        a, b = (at - origin for at in self.levels[low - 1 : low + 1])
        nearer = a if level - low < 0.5 else b
        return origin + math.copysign(abs(a) * abs(b / a) ** (level - low), nearer)


def _table(*types: DistortionType) -> Mapping[str, DistortionType]:
    return MappingProxyType({type.name: type for type in types})


def _type_of(
    name: str,
    title: str,
    tid2013: int | None,
    kadid10k: int | None,
    parameter: str,
    levels: tuple[float, float, float, float, float],
    apply: Apply,
    levels_from: str = _OWN_LEVELS,
    neutral: float | None = None,
) -> DistortionType:
    sets = [f"{_TID2013}, type {tid2013}"] * (tid2013 is not None) + [f"{_KADID10K}, type {kadid10k}"] * (
        kadid10k is not None
    )
    definition = " and ".join(sets) or "the codec in Pillow"
    source = f"{definition}; {levels_from}"
    return DistortionType(name, title, tid2013, kadid10k, source, parameter, levels, apply, neutral)


TYPES: Mapping[str, DistortionType] = _table(
    _type_of("white_noise", "White noise", 1, 11, "standard deviation, grey levels", (6, 12, 24, 44, 80), _noise.white),
    _type_of("colour_noise", "Noise mostly in colour", 2, 12, _PSNR, _TID2013_LADDER, _noise.colour, _TID2013_LEVELS),
    _type_of(
        "correlated_noise",
        "Spatially correlated noise",
        3,
        None,
        _PSNR,
        _TID2013_LADDER,
        _noise.correlated,
        _TID2013_LEVELS,
    ),
    _type_of("masked_noise", "Masked noise", 4, None, _PSNR, _TID2013_LADDER, _noise.masked, _TID2013_LEVELS),
    _type_of(
        "high_frequency_noise", "High-frequency noise", 5, None, _PSNR, (33, 29, 25, 21, 17), _noise.high_frequency
    ),
    _type_of(
        "impulse_noise",
        "Impulse noise",
        6,
        13,
        "share of the samples",
        (0.004, 0.008, 0.016, 0.032, 0.064),
        _noise.impulse,
    ),
    _type_of("quantisation", "Quantisation", 7, 22, "values per channel", (20, 13, 9, 6, 4), _tone.quantise),
    _type_of(
        "gaussian_blur", "Gaussian blur", 8, 1, "standard deviation, pixels", (0.6, 1.1, 2.0, 3.6, 6.5), _blur.gaussian
    ),
    _type_of(
        "denoising",
        "Denoising",
        9,
        15,
        "standard deviation of the noise that was there, grey levels",
        (6.8, 10.8, 18, 33, 70),
        _noise.denoised,
    ),
    _type_of("jpeg", "JPEG", 10, 10, "quality", (60, 30, 15, 8, 4), _codecs.jpeg),
    _type_of("jpeg2000", "JPEG 2000", 11, 9, "compression ratio", (20, 40, 80, 160, 320), _codecs.jpeg2000),
    _type_of(
        "jpeg_transmission",
        "JPEG transmission errors",
        12,
        None,
        _ERRORS_PSNR,
        _TID2013_LADDER,
        _transmission.jpeg,
        _TID2013_LEVELS,
    ),
    _type_of(
        "jpeg2000_transmission",
        "JPEG 2000 transmission errors",
        13,
        None,
        _ERRORS_PSNR,
        _TID2013_LADDER,
        _transmission.jpeg2000,
        _TID2013_LEVELS,
    ),
    _type_of(
        "pattern_shift",
        "Non-eccentricity pattern",
        14,
        20,
        "patches of 16 x 16 on 512 x 384 pixels",
        (20, 40, 60, 80, 100),
        _local.pattern_shift,
        _KADID10K_LEVELS,
    ),
    _type_of(
        "local_blocks",
        "Local block-wise distortions",
        15,
        None,
        "grey levels",
        (15, 30, 50, 75, 110),
        _local.local_blocks,
    ),
    _type_of("mean_shift", "Mean shift", 16, 18, "grey levels", (-8, 14, -22, 32, -44), _tone.mean_shift, neutral=0),
    _type_of(
        "contrast_change", "Contrast change", 17, 25, "gain", (0.88, 1.2, 0.68, 1.55, 0.35), _tone.contrast, neutral=1
    ),
    _type_of(
        "saturation_change",
        "Change of saturation",
        18,
        None,
        "factor",
        (0.65, 0.5, 0.3, 0, -0.4),
        _tone.saturation,
        neutral=1,
    ),
    _type_of(
        "multiplicative_noise",
        "Multiplicative noise",
        19,
        14,
        "relative",
        (0.05, 0.08, 0.12, 0.18, 0.28),
        _noise.multiplicative,
    ),
    _type_of(
        "comfort_noise",
        "Comfort noise",
        20,
        None,
        "least coded at 3 pixels, grey levels",
        (6, 10, 15, 26, 52),
        _noise.comfort,
    ),
    _type_of(
        "noisy_compression",
        "Lossy compression of a noisy picture",
        21,
        None,
        "noise, grey levels",
        (4.5, 6.7, 10.3, 17, 30),
        _noise.compressed,
    ),
    _type_of(
        "colour_quantisation",
        "Colour quantisation with dither",
        22,
        6,
        "colours",
        (64, 32, 16, 8, 4),
        _tone.dithered_palette,
    ),
    _type_of(
        "chromatic_aberration",
        "Chromatic aberration",
        23,
        None,
        "displacement, pixels",
        (0.4, 0.8, 1.4, 2.4, 4),
        _tone.chromatic_aberration,
    ),
    _type_of(
        "sparse_sampling",
        "Sparse sampling and reconstruction",
        24,
        None,
        "share of the samples",
        (0.68, 0.53, 0.37, 0.25, 0.14),
        _local.sparse_sampling,
    ),
    _type_of("lens_blur", "Lens blur", None, 2, "radius, pixels", (1, 2, 4, 6, 8), _blur.lens, _KADID10K_LEVELS),
    _type_of("motion_blur", "Motion blur", None, 3, "length, pixels", (3, 6, 10, 15, 22), _blur.motion),
    _type_of("colour_diffusion", "Colour diffusion", None, 4, "amount", (1, 2, 3, 5, 8), _tone.colour_diffusion),
    _type_of("colour_shift", "Colour shift", None, 5, "pixels", (1, 3, 6, 8, 12), _tone.colour_shift, _KADID10K_LEVELS),
    _type_of(
        "desaturation",
        "Colour saturation 1 (HSV)",
        None,
        7,
        "factor",
        (0.6, 0.4, 0.2, 0, -0.4),
        _tone.hsv_saturation,
        neutral=1,
    ),
    _type_of("oversaturation", "Colour saturation 2 (Lab)", None, 8, "factor", (1.4, 2, 3, 5, 8), _tone.lab_saturation),
    _type_of("brighten", "Brighten", None, 16, "amount", (0.1, 0.2, 0.4, 0.7, 1.1), _tone.brightness, _KADID10K_LEVELS),
    _type_of(
        "darken", "Darken", None, 17, "amount", (-0.05, -0.1, -0.2, -0.4, -0.8), _tone.brightness, _KADID10K_LEVELS
    ),
    _type_of("jitter", "Jitter", None, 19, "pixels", (0.25, 0.5, 0.9, 1.5, 2.5), _blur.jitter),
    _type_of("pixelate", "Pixelate", None, 21, "side of the cells, pixels", (1.5, 2, 3, 5, 8), _blur.pixelate),
    _type_of(
        "colour_block",
        "Colour blocks",
        None,
        23,
        "blocks of 32 x 32 on 512 x 384 pixels",
        (2, 4, 6, 8, 10),
        _local.colour_blocks,
        _KADID10K_LEVELS,
    ),
    _type_of("sharpen", "Over-sharpening", None, 24, "amount", (0.5, 1, 2, 4, 10), _blur.sharpen),
    _type_of("webp", "WebP", None, None, "quality", (60, 35, 20, 10, 1), _codecs.webp),
    _type_of("avif", "AVIF", None, None, "quality", (50, 35, 22, 12, 4), _codecs.avif),
)

# What Pillow calls the codecs that it may lack.
_CODECS = {"jpeg2000": "jpg_2000", "webp": "webp", "avif": "avif"}


def available(name: str) -> bool:
    """Whether this Pillow can make the type: it may lack JPEG 2000, WebP or AVIF.

    Raises DistortionError for a name that is not in ``TYPES``.
    """
    codec = _CODECS.get(_type(name).name)
    if codec is None:
        return True
    from PIL import features

    known = codec in features.modules or codec in features.codecs  # an older Pillow warns of what it does not know
    return known and bool(features.check(codec))


def distort(image: NDArray[np.uint8], type: str, level: float, *, seed: int = 0) -> NDArray[np.uint8]:
    """The picture with the distortion.

    image: uint8 (H, W, 3), RGB, of any size from 1 x 1; it is left as it is. type: a name in ``TYPES``.
    level: 1 (slight) to 5 (severe); a fraction, from 0.5 on, lies between. seed: 0 or more.
    Returns a new uint8 array of the same shape, the same whenever image, type, level and seed are (for types that
    Pillow codes: with the same Pillow; on another kind of processor a few samples of some types may differ by 1).
    Raises ImageError for another kind of image, DistortionError for the rest, where Pillow lacks the codec, and where
    the codec takes no picture of this size.
    """
    pixels = _checked_image(image)
    described = _type(type)
    parameter = described.parameter_at(_level(level, len(described.levels)))
    random = np.random.default_rng([_whole(seed, "seed", 0, None), zlib.crc32(type.encode()), int(level)])
    if not available(type):
        raise DistortionError(f"{type}: this Pillow is built without the codec; install a wheel of Pillow that has it")
    made = described.apply(pixels, parameter, random)
    if made.dtype != np.uint8:
        made = np.clip(np.rint(made), 0, 255).astype(np.uint8)
    return np.require(made, np.uint8, ["C", "W"])  # what Pillow hands out is read-only


def _type(name: str) -> DistortionType:
    try:
        return TYPES[name]
    except (KeyError, TypeError):
        raise DistortionError(f"unknown type of distortion {name!r}; choose from {', '.join(TYPES)}") from None


def _level(level: Any, highest: int) -> float:
    if not isinstance(level, float | np.floating):
        return _whole(level, "level", 1, highest)
    if not LOWEST_LEVEL <= level <= highest:
        raise DistortionError(f"level is {level!r}; pass a number from {LOWEST_LEVEL} to {highest}")
    return float(level)


def _whole(number: Any, name: str, low: int, high: int | None) -> int:
    try:
        value = operator.index(number)
    except TypeError:
        value = low - 1
    if value < low or (high is not None and value > high) or isinstance(number, bool | np.bool_):
        wanted = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
        raise DistortionError(f"{name} is {number!r}; pass {wanted}")
    return value


def _checked_image(image: Any) -> NDArray[np.uint8]:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(
            f"the image is {kind}; pass a uint8 array (H, W, 3) in RGB, as meon_ext.images.load_image gives"
        )
    if image.size == 0:
        raise ImageError(f"the image has no pixels: its shape is {image.shape}")
    return np.ascontiguousarray(image)
