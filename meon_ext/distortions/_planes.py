"""What several distortions share: colour spaces, block DCT, filters; all in float32 on the scale 0 to 255."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (H, W, 3)
Floats = NDArray[np.float32]

# ITU-R BT.601, full range, as JPEG (JFIF) has it, without the offset of 128 on the chroma.
_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]],
    np.float32,
)
_FROM_YCC = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]], np.float32)

# sRGB (IEC 61966-2-1) to CIE XYZ relative to its white point D65.
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_TO_XYZ_WHITE = (_TO_XYZ / _TO_XYZ.sum(1, keepdims=True)).astype(np.float32)
_FROM_XYZ_WHITE = np.linalg.inv(_TO_XYZ_WHITE.astype(np.float64)).astype(np.float32)
_LAB_EDGE = 6 / 29


def to_ycc(pixels: NDArray[np.generic]) -> Floats:
    """RGB (H, W, 3), 0 to 255, to Y, Cb, Cr (3, H, W): Y 0 to 255, chroma about 0."""
    planes = np.moveaxis(pixels, 2, 0).reshape(3, -1).astype(np.float32)
    return np.asarray(_TO_YCC @ planes).reshape(3, *pixels.shape[:2])


def from_ycc(planes: Floats) -> Floats:
    """Y, Cb, Cr (3, H, W) to RGB (H, W, 3), not clipped."""
    rgb = (_FROM_YCC @ planes.reshape(3, -1)).reshape(planes.shape)
    return np.moveaxis(rgb, 0, 2)


def to_lab(pixels: Pixels) -> Floats:
    """sRGB (H, W, 3) to CIE L*a*b* (3, H, W), L* from 0 to 100."""
    planes = np.moveaxis(_linear_light()[pixels], 2, 0).reshape(3, -1)
    xyz = _TO_XYZ_WHITE @ planes
    f = np.where(xyz > _LAB_EDGE**3, np.cbrt(xyz), xyz / (3 * _LAB_EDGE**2) + 4 / 29)
    lab = np.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
    return lab.astype(np.float32, copy=False).reshape(3, *pixels.shape[:2])


def from_lab(lab: Floats) -> Floats:
    """CIE L*a*b* (3, H, W) to sRGB (H, W, 3), clipped to the gamut channel by channel."""
    lightness, a, b = lab.reshape(3, -1)
    y = (lightness + 16) / 116
    f = np.stack([y + a / 500, y, y - b / 200])
    xyz = np.where(f > _LAB_EDGE, f * f * f, 3 * _LAB_EDGE**2 * (f - 4 / 29)).astype(np.float32, copy=False)
    light = np.clip(_FROM_XYZ_WHITE @ xyz, 0, 1)
    rgb = 255 * np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)
    return np.moveaxis(rgb.astype(np.float32, copy=False).reshape(lab.shape), 0, 2)


@lru_cache(maxsize=1)
def _linear_light() -> Floats:
    value = np.arange(256) / 255
    light = np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)
    return np.asarray(light, np.float32)


@lru_cache(maxsize=4)
def _dct_matrix(size: int) -> Floats:
    """Rows are the orthonormal basis functions of the DCT-II."""
    frequency, place = np.mgrid[:size, :size]
    matrix = np.cos(np.pi * frequency * (2 * place + 1) / (2 * size)) * np.sqrt(2 / size)
    matrix[0] /= np.sqrt(2)
    return np.asarray(matrix, np.float32)


def block_dct(planes: Floats, size: int) -> Floats:
    """Orthonormal DCT of the blocks: (C, H, W), H and W multiples of size, each coefficient in its block's place."""
    return _block_product(planes, _dct_matrix(size))


def inverse_block_dct(coefficients: Floats, size: int) -> Floats:
    return _block_product(coefficients, _dct_matrix(size).T)


def _block_product(planes: Floats, matrix: Floats) -> Floats:
    channels, height, width = planes.shape
    size = len(matrix)
    columns = np.matmul(matrix, planes.reshape(channels, height // size, size, width))
    rows = columns.reshape(-1, size) @ matrix.T
    return np.asarray(rows).reshape(channels, height, width)


def pad_to_blocks(planes: Floats, size: int, top: int = 0, left: int = 0) -> Floats:
    """(C, H, W) mirrored outwards by top and left, and at the other ends up to multiples of size."""
    _, height, width = planes.shape
    bottom, right = -(top + height) % size, -(left + width) % size
    return np.pad(planes, ((0, 0), (top, bottom), (left, right)), "symmetric")


def with_blocks_changed(planes: Floats, size: int, grid: tuple[int, int], change: Callable[[Floats], Floats]) -> Floats:
    """(C, H, W) after a change to the coefficients of its blocks, whose grid begins so much above it and left of it."""
    (top, left), (_, height, width) = grid, planes.shape
    changed = change(block_dct(pad_to_blocks(planes, size, top, left), size))
    return inverse_block_dct(changed, size)[:, top : top + height, left : left + width]


# Where grids of blocks may begin, in quarters of a block: the first four, and all six, spread evenly.
GRIDS = ((0, 0), (2, 2), (1, 3), (3, 1), (0, 2), (2, 0))


def sparse(planes: Floats, threshold: float | Floats, blocks: Iterable[tuple[int, tuple[int, int]]]) -> Floats:
    """(C, H, W): the mean of what a hard threshold leaves in DCT blocks of each size and grid, which begins so many
    quarters of a block above the planes and left of them.

    The fewer coefficients a block keeps, the more it weighs, so edges are small blocks' more than large ones'.
    """
    _, height, width = planes.shape
    total, weights = np.zeros_like(planes), np.zeros_like(planes)
    for size, quarters in blocks:
        top, left = (size * quarter // 4 for quarter in quarters)
        coefficients = block_dct(pad_to_blocks(planes, size, top, left), size)
        coefficients *= np.abs(coefficients) >= threshold
        channels, down, across = coefficients.shape
        number = np.count_nonzero(coefficients.reshape(channels, down // size, size, across // size, size), (2, 4))
        weight = np.repeat(np.repeat(1 / (1 + number.astype(np.float32)), size, 1), size, 2)
        here = np.s_[:, top : top + height, left : left + width]
        total += (weight * inverse_block_dct(coefficients, size))[here]
        weights += weight[here]
    return total / weights


def blur(pixels: NDArray[np.generic], sigma: float) -> Floats:
    """Gaussian blur of (H, W, C) or (H, W), mirrored at the borders."""
    from scipy.ndimage import gaussian_filter

    sigmas = (sigma, sigma, 0)[: pixels.ndim]
    return np.asarray(gaussian_filter(pixels.astype(np.float32), sigmas))


def convolve(pixels: Pixels, kernel: NDArray[np.float64]) -> Floats:
    """Each channel with a kernel of odd sides, mirrored at the borders, by FFT: a large kernel costs no more."""
    from scipy.fft import irfft2, next_fast_len, rfft2

    above, before = kernel.shape[0] // 2, kernel.shape[1] // 2
    planes = np.moveaxis(pixels, 2, 0).astype(np.float32)
    padded = np.pad(planes, ((0, 0), (above, above), (before, before)), "symmetric")
    shape = [next_fast_len(side, real=True) for side in padded.shape[1:]]
    spectrum = rfft2(padded, shape) * rfft2(kernel.astype(np.float32), shape)
    whole = irfft2(spectrum, shape)
    height, width = pixels.shape[:2]
    valid = whole[:, 2 * above : 2 * above + height, 2 * before : 2 * before + width]
    return np.moveaxis(valid, 0, 2)
