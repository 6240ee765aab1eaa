"""Noise: TID2013's types 1 to 6, 19, 20 and 21, and its removal, type 9."""

from __future__ import annotations

import math

import numpy as np

from meon_ext.distortions._planes import (
    Floats,
    Pixels,
    block_dct,
    blur,
    from_ycc,
    inverse_block_dct,
    pad_to_blocks,
    to_ycc,
)

# Of the high-pass filter, the picture less its blur: most of the noise left has periods under 4 pixels.
_HIGH_PASS_SIGMA = 0.8
# Activity is measured over about the size of a block of 8 pixels, as in the models of masking.
_ACTIVITY_WINDOW = 7
_CODING_BLOCK = 8
_DENOISING_BLOCK = 16
# Where the grids of blocks lie whose results are averaged, so that no block border remains.
_DENOISING_GRIDS = ((0, 0), (4, 12), (8, 8), (12, 4))
_DENOISING_THRESHOLD = 2.7  # in standard deviations: the usual one for hard thresholds in the DCT domain


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


def comfort(pixels: Pixels, step: float, random: np.random.Generator) -> Floats:
    """Coefficients too small to be coded are replaced by noise as strong as they were, block by block."""
    height, width = pixels.shape[:2]
    coefficients = block_dct(pad_to_blocks(to_ycc(pixels), _CODING_BLOCK), _CODING_BLOCK)
    coded = np.rint(coefficients / step) * step
    lost = coded == 0
    blocks = (3, coded.shape[1] // _CODING_BLOCK, _CODING_BLOCK, coded.shape[2] // _CODING_BLOCK, _CODING_BLOCK)
    energy = np.where(lost, coefficients * coefficients, 0).reshape(blocks).sum((2, 4), keepdims=True)
    count = np.maximum(lost.reshape(blocks).sum((2, 4), keepdims=True), 1)
    noise = _normal(blocks, 1, random) * np.sqrt(energy / count).astype(np.float32)
    made = np.where(lost, noise.reshape(coded.shape), coded)
    return from_ycc(inverse_block_dct(made, _CODING_BLOCK)[:, :height, :width])


def compressed(pixels: Pixels, sigma: float, random: np.random.Generator) -> Floats:
    """White noise, then DCT coding that keeps the strongest of it: a step of 3.5 standard deviations."""
    height, width = pixels.shape[:2]
    noisy = np.clip(white(pixels, sigma, random), 0, 255)
    coefficients = block_dct(pad_to_blocks(to_ycc(noisy), _CODING_BLOCK), _CODING_BLOCK)
    step = np.float32(3.5 * sigma)
    coded = np.rint(coefficients / step) * step
    return from_ycc(inverse_block_dct(coded, _CODING_BLOCK)[:, :height, :width])


def denoised(pixels: Pixels, sigma: float, random: np.random.Generator) -> Floats:
    """White noise, taken out again by hard thresholds in the DCT domain, channel by channel."""
    height, width = pixels.shape[:2]
    noisy = np.ascontiguousarray(np.moveaxis(np.clip(white(pixels, sigma, random), 0, 255), 2, 0))
    threshold = np.float32(_DENOISING_THRESHOLD * sigma)
    total = np.zeros_like(noisy)
    for top, left in _DENOISING_GRIDS:
        coefficients = block_dct(pad_to_blocks(noisy, _DENOISING_BLOCK, top, left), _DENOISING_BLOCK)
        means = coefficients[:, ::_DENOISING_BLOCK, ::_DENOISING_BLOCK].copy()
        coefficients *= np.abs(coefficients) >= threshold
        coefficients[:, ::_DENOISING_BLOCK, ::_DENOISING_BLOCK] = means
        total += inverse_block_dct(coefficients, _DENOISING_BLOCK)[:, top : top + height, left : left + width]
    total *= np.float32(1 / len(_DENOISING_GRIDS))
    return np.moveaxis(total, 0, 2)


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
