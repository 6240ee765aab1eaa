"""Loss and excess of sharpness: TID2013's type 8, KADID-10k's blurs, pixelation, jitter and over-sharpening."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from meon_ext.distortions._planes import Floats, Pixels, blur, convolve, from_lab, to_lab

_SHARPEN_SIGMA = 3
_SUBSAMPLES = 8


def gaussian(pixels: Pixels, sigma: float, random: np.random.Generator) -> Floats:
    return blur(pixels, sigma)


def lens(pixels: Pixels, radius: float, random: np.random.Generator) -> Floats:
    """The mean over a disk, as an unfocused lens of round aperture makes it."""
    return convolve(pixels, disk(radius))


def motion(pixels: Pixels, length: float, random: np.random.Generator) -> Floats:
    """The mean along a straight line whose direction the seed gives."""
    return convolve(pixels, line(length, random.uniform(0, math.pi)))


def jitter(pixels: Pixels, sigma: float, random: np.random.Generator) -> Floats:
    """Each pixel taken from a place nearby, at normal distances across and down, interpolated linearly."""
    from scipy.ndimage import map_coordinates

    height, width = pixels.shape[:2]
    places = np.indices((height, width), np.float32)
    places += np.float32(sigma) * random.standard_normal(places.shape, np.float32)
    channels = [
        map_coordinates(pixels[..., channel], places, np.float32, order=1, mode="nearest") for channel in range(3)
    ]
    return np.stack(channels, 2)


def pixelate(pixels: Pixels, side: float, random: np.random.Generator) -> Pixels:
    """Cells of this side filled with their mean."""
    from PIL import Image

    image = Image.fromarray(pixels)
    small = image.resize([max(1, round(whole / side)) for whole in image.size], Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.NEAREST))


def sharpen(pixels: Pixels, amount: float, random: np.random.Generator) -> Floats:
    """Unsharp masking of the lightness."""
    lab = to_lab(pixels)
    lab[0] += np.float32(amount) * (lab[0] - blur(lab[0], _SHARPEN_SIGMA))
    np.clip(lab[0], 0, 100, out=lab[0])
    return from_lab(lab)


def disk(radius: float) -> NDArray[np.float64]:
    """A kernel of odd side: how much of each pixel the disk covers, with sum 1."""
    reach = math.ceil(radius - 0.5)
    side = 2 * reach + 1
    place = (np.arange(side * _SUBSAMPLES) + 0.5) / _SUBSAMPLES - side / 2
    inside = place[:, None] ** 2 + place**2 <= radius**2
    share = inside.reshape(side, _SUBSAMPLES, side, _SUBSAMPLES).sum((1, 3))
    return np.asarray(share / share.sum())


def line(length: float, angle: float) -> NDArray[np.float64]:
    """A kernel of odd side: a line of this length in pixels through the middle, spread over its neighbours; sum 1."""
    reach = math.ceil(length / 2)
    side = 2 * reach + 3
    distance = np.linspace(-length / 2, length / 2, _SUBSAMPLES * math.ceil(length) + 1)
    y, x = reach + 1 - distance * math.sin(angle), reach + 1 + distance * math.cos(angle)
    row, column = np.floor(y).astype(int), np.floor(x).astype(int)
    kernel = np.zeros((side, side))
    for down in (0, 1):
        for right in (0, 1):
            weight = np.abs(1 - down - (y - row)) * np.abs(1 - right - (x - column))
            np.add.at(kernel, (row + down, column + right), weight)
    return np.asarray(kernel / kernel.sum())
