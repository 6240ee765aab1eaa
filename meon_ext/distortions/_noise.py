"""Noise: TID2013's types 1 to 6, 19, 20 and 21, and its removal, type 9."""

from __future__ import annotations

import math
from itertools import product

import numpy as np

from meon_ext.distortions._planes import (
    GRIDS,
    Floats,
    Pixels,
    blur,
    from_ycc,
    sparse,
    to_ycc,
    with_blocks_changed,
)

# Of the high-pass filter, the picture less its blur: most of the noise left has periods under 4 pixels.
_HIGH_PASS_SIGMA = 0.8
# Activity is measured over about the size of a block of 8 pixels, as in the models of masking.
_ACTIVITY_WINDOW = 7
_COMFORT_BLOCK = 32
_CODING_BLOCKS = (16, 32)
_CODING_STEPS = np.array([4.6, 3.2, 3.2], np.float32)[:, np.newaxis, np.newaxis]  # in standard deviations of the noise
_DENOISING_BLOCKS = (8, 16, 32)
_DENOISING_GRIDS = GRIDS[:4]
_DENOISING_THRESHOLD = 2.9  # in standard deviations of the noise


def sigma_of(psnr: float) -> float:
    """The standard deviation, in grey levels, of an error with this peak signal-to-noise ratio in dB."""
    return 255 * 10 ** (-psnr / 20)


def white(pixels: Pixels, sigma: float, random: np.random.Generator) -> Floats:
    return pixels + _normal(pixels.shape, sigma, random)


def colour(pixels: Pixels, psnr: float, random: np.random.Generator) -> Floats:
    """In Y, Cb and Cr, with twice the deviation in the chroma."""
    noise = _normal((3, *pixels.shape[:2]), 1, random)
    noise[1:] *= 2
    return pixels + _scaled(from_ycc(noise), psnr)


def correlated(pixels: Pixels, psnr: float, random: np.random.Generator) -> Floats:
    """White noise averaged over 3 x 3 pixels."""
    from scipy.ndimage import uniform_filter

    noise = _normal(pixels.shape, 1, random)
    return pixels + _scaled(uniform_filter(noise, (3, 3, 1)), psnr)


def masked(pixels: Pixels, psnr: float, random: np.random.Generator) -> Floats:
    """High-pass noise whose deviation follows the root of the local one, so that texture hides a part of it."""
    from scipy.ndimage import uniform_filter

    luma = to_ycc(pixels)[0]
    mean = uniform_filter(luma, _ACTIVITY_WINDOW)
    deviation = np.sqrt(np.maximum(uniform_filter(luma * luma, _ACTIVITY_WINDOW) - mean * mean, 0))
    weight = np.sqrt(deviation + 1)  # a flat picture has noise too
    return pixels + _scaled(_high_pass(pixels.shape, random) * weight[..., None], psnr)


def high_frequency(pixels: Pixels, psnr: float, random: np.random.Generator) -> Floats:
    return pixels + _scaled(_high_pass(pixels.shape, random), psnr)


def impulse(pixels: Pixels, share: float, random: np.random.Generator) -> Pixels:
    """Samples, each channel by itself, replaced by uniform random values."""
    noisy = pixels.copy()
    hit = random.random(pixels.shape, np.float32) < share
    noisy[hit] = random.integers(0, 256, int(hit.sum()), np.uint8)
    return noisy


def multiplicative(pixels: Pixels, sigma: float, random: np.random.Generator) -> Floats:
    return pixels * (1 + _normal(pixels.shape, sigma, random))


def comfort(pixels: Pixels, least: float, random: np.random.Generator) -> Floats:
    """DCT coefficients too small to be coded have their sign changed: noise as strong as they were, where they were.

    least: what is coded at a period of 3 pixels; half of it at one of 6, and so on.
    """
    down, across = (_block_frequencies(side) for side in pixels.shape[:2])
    uncoded = np.float32(3 * least) * np.hypot(down[:, np.newaxis], across)

    def negate_small(coefficients: Floats) -> Floats:
        return np.where(np.abs(coefficients) < uncoded, -coefficients, coefficients)

    return from_ycc(with_blocks_changed(to_ycc(pixels), _COMFORT_BLOCK, (0, 0), negate_small))


def _block_frequencies(side: int) -> Floats:
    """In periods per pixel, of the coefficients along a side that is continued to whole blocks."""
    blocks = -(-side // _COMFORT_BLOCK)
    return np.tile(np.arange(_COMFORT_BLOCK, dtype=np.float32) / (2 * _COMFORT_BLOCK), blocks)


def compressed(pixels: Pixels, sigma: float, random: np.random.Generator) -> Floats:
    """White noise, then DCT coding that keeps the strongest of it, of the chroma more.

    Blocks are of one size or another, and their borders do not show, as with coders that take those out: blocks of two
    grids fade into each other.
    """
    planes = to_ycc(np.clip(white(pixels, sigma, random), 0, 255))
    size = int(random.choice(_CODING_BLOCKS))
    step = np.float32(sigma) * _CODING_STEPS
    total, weights = np.zeros_like(planes), np.zeros(planes.shape[1:], np.float32)
    for start in (0, size // 2):
        coded = with_blocks_changed(planes, size, (start, start), lambda found: np.rint(found / step) * step)
        down, across = (_fade(side, start, size) for side in planes.shape[1:])
        weight = np.outer(down, across)
        total += weight * coded
        weights += weight
    return from_ycc(total / weights)


def _fade(side: int, start: int, size: int) -> Floats:
    """Along a side whose grid of blocks begins so much before it: near 0 at their borders, near 1 in their middle."""
    place = (np.arange(side) + start) % size
    return np.asarray(np.sin(np.pi * (place + 0.5) / size) ** 2, np.float32)


def denoised(pixels: Pixels, sigma: float, random: np.random.Generator) -> Floats:
    """White noise, taken out again channel by channel by hard thresholds in DCT blocks of several sizes."""
    noisy = np.ascontiguousarray(np.moveaxis(np.clip(white(pixels, sigma, random), 0, 255), 2, 0))
    means = noisy.mean((1, 2), keepdims=True)
    blocks = product(_DENOISING_BLOCKS, _DENOISING_GRIDS)
    return np.moveaxis(sparse(noisy - means, _DENOISING_THRESHOLD * sigma, blocks) + means, 0, 2)


def _normal(shape: tuple[int, ...], sigma: float, random: np.random.Generator) -> Floats:
    noise = random.standard_normal(shape, np.float32)
    noise *= np.float32(sigma)
    return noise


def _high_pass(shape: tuple[int, ...], random: np.random.Generator) -> Floats:
    noise = _normal(shape, 1, random)
    return noise - blur(noise, _HIGH_PASS_SIGMA)


def _scaled(noise: Floats, psnr: float) -> Floats:
    """The noise at exactly this ratio over the whole picture, as long as nothing is clipped."""
    power = float(np.mean(np.square(noise), dtype=np.float64))
    return noise * np.float32(sigma_of(psnr) / math.sqrt(max(power, 1e-12)))
