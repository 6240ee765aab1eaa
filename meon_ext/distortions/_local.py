"""Damage in places, TID2013's types 14 and 15 and KADID-10k's colour blocks, and sparse sampling, TID2013's type 24."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from meon_ext.distortions._planes import Floats, Pixels, at_least, from_ycc, to_ycc, with_blocks_changed

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


# Of the reconstruction: thresholds fall from the first to the last iteration, which goes over all grids.
_THRESHOLDS = tuple(np.geomspace(120, 8, 24).tolist())
_GRIDS = ((0, 0), (8, 8), (4, 12), (12, 4), (0, 8), (8, 0))
_RECONSTRUCTION_BLOCK = 16


def sparse_sampling(pixels: Pixels, share: float, random: np.random.Generator) -> Floats:
    """Only this share of the Fourier coefficients is kept, at random, of the low ones more, as along radial lines; the
    rest is found again by iterated DCT thresholds."""
    from scipy.fft import irfft2, rfft2

    height, width = pixels.shape[:2]
    planes = to_ycc(pixels)
    known = rfft2(planes)
    down, across = np.fft.fftfreq(height)[:, np.newaxis], np.fft.rfftfreq(width)
    kept = random.random(known.shape[1:]) < _radial_density(np.hypot(down, across), share)
    kept[0, 0] = True
    guess = irfft2(np.where(kept, known, 0), (height, width))
    for step, threshold in enumerate(_THRESHOLDS):
        if step:
            guess = irfft2(np.where(kept, known, rfft2(guess)), (height, width))
        last = step == len(_THRESHOLDS) - 1
        grids = _GRIDS if last else _GRIDS[step % len(_GRIDS) :][:1]
        change = partial(at_least, threshold)
        guess = np.mean([with_blocks_changed(guess, _RECONSTRUCTION_BLOCK, grid, change) for grid in grids], axis=0)
    return from_ycc(guess)


def _radial_density(frequency: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Inverse to the frequency, at most 1, and this share on average."""
    falling = 1 / np.maximum(frequency, 1e-9)
    low, high = 0.0, 2.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(1, middle * falling).mean() < share else (low, middle)
    return np.minimum(1, high * falling)
