"""Damage in places, TID2013's types 14 and 15 and KADID-10k's colour blocks, and sparse sampling, TID2013's type 24."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import numpy as np

from meon_ext.distortions._planes import GRIDS, Floats, Pixels, from_ycc, sparse, to_ycc

_TID2013_AREA = 512 * 384  # numbers of patches are meant for pictures of this size
_PATCH = 16
_BLOCK = 32
_BLOCKS = 8
_NEAR = 20  # how far, in pixels, a patch may come from


def pattern_shift(pixels: Pixels, number: float, random: np.random.Generator) -> Pixels:
    """Patches replaced by what lies nearby."""
    made = pixels.copy()
    for top, left, height, width in _places(pixels, number, _PATCH, random):
        down, right = random.integers(-_NEAR, _NEAR + 1, 2)
        from_top = int(np.clip(top + down, 0, pixels.shape[0] - height))
        from_left = int(np.clip(left + right, 0, pixels.shape[1] - width))
        made[top : top + height, left : left + width] = pixels[
            from_top : from_top + height, from_left : from_left + width
        ]
    return made


def local_blocks(pixels: Pixels, intensity: float, random: np.random.Generator) -> Pixels:
    """Blocks filled with their mean colour, made brighter or darker by this much."""
    made = pixels.copy()
    for top, left, height, width in _places(pixels, _BLOCKS, _BLOCK, random):
        block = made[top : top + height, left : left + width]
        mean = block.mean((0, 1))
        sign = 1 if mean.mean() < 127.5 else -1  # towards the side where there is room
        block[...] = np.clip(np.rint(mean + sign * intensity), 0, 255).astype(np.uint8)
    return made


def colour_blocks(pixels: Pixels, number: float, random: np.random.Generator) -> Pixels:
    """Blocks of random colours."""
    made = pixels.copy()
    for top, left, height, width in _places(pixels, number, _BLOCK, random):
        made[top : top + height, left : left + width] = random.integers(0, 256, 3, np.uint8)
    return made


def _places(
    pixels: Pixels, number: float, side: int, random: np.random.Generator
) -> Iterator[tuple[int, int, int, int]]:
    """Top, left, height and width of squares: so many on 512 x 384 pixels, more or fewer by area, at least one."""
    height, width = min(side, pixels.shape[0]), min(side, pixels.shape[1])
    for _ in range(max(1, round(number * pixels.shape[0] * pixels.shape[1] / _TID2013_AREA))):
        top = int(random.integers(0, pixels.shape[0] - height + 1))
        left = int(random.integers(0, pixels.shape[1] - width + 1))
        yield top, left, height, width


# Of the reconstruction from samples: thresholds fall to the last iteration, which goes over all blocks and grids.
_ITERATIONS = 24
_HIGHEST_THRESHOLD = 120
_LUMINANCE_THRESHOLD = 6  # the lowest, over the share of the samples: the fewer, the more noise remains
_CHROMA_THRESHOLD = 10
_SIZES = (32, 16, 8)  # of blocks, by turns


def sparse_sampling(pixels: Pixels, share: float, random: np.random.Generator) -> Floats:
    """Only so many samples as this share of the pixels are kept, fewer of the chroma, each of them a sum of all pixels
    with random signs; the picture is found again from them by iterated DCT thresholds, and keeps a fine grain.

    The samples are Fourier coefficients of the picture with every pixel's sign changed at random, so that what is
    unknown is spread over all places and frequencies.
    """
    from scipy.fft import irfft2, rfft2

    height, width = pixels.shape[:2]
    planes = to_ycc(pixels)
    means = planes.mean((1, 2), keepdims=True)
    signs = random.choice(np.array([-1, 1], np.float32), (height, width))
    known = rfft2((planes - means) * signs)
    shares = np.array([share, math.sqrt(share) / 2, math.sqrt(share) / 2])
    kept = random.random(known.shape[1:]) < shares[:, np.newaxis, np.newaxis]

    def agreeing(guess: Floats) -> Floats:
        return np.asarray(irfft2(np.where(kept, known, rfft2(guess * signs)), (height, width)) * signs)

    guess = np.zeros_like(planes)
    lowest = [_LUMINANCE_THRESHOLD / share, _CHROMA_THRESHOLD, _CHROMA_THRESHOLD]
    thresholds = np.geomspace(_HIGHEST_THRESHOLD, lowest, _ITERATIONS, dtype=np.float32)
    for step, threshold in enumerate(thresholds[..., np.newaxis, np.newaxis]):
        last = step == _ITERATIONS - 1
        blocks = product(_SIZES, GRIDS) if last else [(_SIZES[step % len(_SIZES)], GRIDS[step % len(GRIDS)])]
        guess = sparse(agreeing(guess), threshold, blocks)
    guess[0] += np.float32(0.8 * share**2) * (agreeing(guess)[0] - guess[0])
    return from_ycc(guess + means)
