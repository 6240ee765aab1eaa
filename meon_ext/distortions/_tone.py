"""Brightness, contrast and colour: TID2013's types 7, 16 to 18, 22 and 23, and KADID-10k's further ones."""

from __future__ import annotations

import math

import numpy as np

from meon_ext.distortions._planes import Floats, Pixels, blur, from_lab, from_ycc, to_lab, to_ycc

_EDGE_SIGMA = 4  # of the map of edges along which colour shifts
_FRINGE_BLUR = 0.3  # deviation of the outer channels' blur, in parts of their displacement


def quantise(pixels: Pixels, values: float, random: np.random.Generator) -> Pixels:
    """Each channel rounded to this many evenly spaced values from 0 to 255."""
    steps = round(values) - 1
    table = np.rint(np.rint(np.arange(256) * (steps / 255)) * (255 / steps))
    return np.asarray(table.astype(np.uint8)[pixels])


def mean_shift(pixels: Pixels, shift: float, random: np.random.Generator) -> Floats:
    return pixels + np.float32(shift)


def contrast(pixels: Pixels, gain: float, random: np.random.Generator) -> Floats:
    """Differences from the picture's mean luma, in all channels, by this gain."""
    middle = to_ycc(pixels)[0].mean(dtype=np.float64)
    return (pixels - np.float32(middle)) * np.float32(gain) + np.float32(middle)


def saturation(pixels: Pixels, factor: float, random: np.random.Generator) -> Floats:
    """Cb and Cr by this factor; a negative one turns colours into their complements."""
    planes = to_ycc(pixels)
    planes[1:] *= np.float32(factor)
    return from_ycc(planes)


def hsv_saturation(pixels: Pixels, factor: float, random: np.random.Generator) -> Floats:
    """The S of HSV by this factor: channels move towards the largest of the three."""
    value = pixels.max(2, keepdims=True).astype(np.float32)
    return np.asarray(value - (value - pixels) * np.float32(factor))


def lab_saturation(pixels: Pixels, factor: float, random: np.random.Generator) -> Floats:
    """a* and b* of CIE L*a*b* by this factor."""
    lab = to_lab(pixels)
    lab[1:] *= np.float32(factor)
    return from_lab(lab)


def colour_diffusion(pixels: Pixels, amount: float, random: np.random.Generator) -> Floats:
    """a* and b* blurred with a deviation of 1.5 amount + 2 pixels, and times the amount."""
    lab = to_lab(pixels)
    for plane in lab[1:]:
        plane[...] = blur(plane, 1.5 * amount + 2) * np.float32(amount)
    return from_lab(lab)


def brightness(pixels: Pixels, amount: float, random: np.random.Generator) -> Floats:
    """L* along the parabola through black, white and a middle that is raised by half the amount of the whole range."""
    lab = to_lab(pixels)
    lightness = lab[0] / 100
    lab[0] = 100 * np.clip(lightness + np.float32(2 * amount) * lightness * (1 - lightness), 0, 1)
    return from_lab(lab)


def colour_shift(pixels: Pixels, distance: float, random: np.random.Generator) -> Floats:
    """Green displaced in a direction that the seed gives, where there are edges."""
    from scipy.ndimage import shift

    luma = to_ycc(pixels)[0]
    slopes = [np.diff(luma, axis=axis, append=luma.take([-1], axis)) for axis in (0, 1)]
    edges = blur(np.hypot(*slopes), _EDGE_SIGMA)
    low, high = np.percentile(edges, (1, 99))
    share = np.clip((edges - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    made = pixels.astype(np.float32)
    green = made[..., 1]
    moved = shift(green, _displacement(distance, random.uniform(0, 2 * math.pi)), order=1, mode="nearest")
    made[..., 1] += share * (moved - green)
    return made


def chromatic_aberration(pixels: Pixels, distance: float, random: np.random.Generator) -> Floats:
    """Red and blue displaced in opposite directions and blurred, green left as it is."""
    from scipy.ndimage import shift

    made = pixels.astype(np.float32)
    down, right = _displacement(distance, random.uniform(0, 2 * math.pi))
    for channel, sign in ((0, 1), (2, -1)):
        moved = shift(made[..., channel], (sign * down, sign * right), order=1, mode="nearest")
        made[..., channel] = blur(moved, _FRINGE_BLUR * distance)
    return made


def dithered_palette(pixels: Pixels, colours: float, random: np.random.Generator) -> Pixels:
    """A palette by median cut, and Floyd and Steinberg's error diffusion."""
    from PIL import Image

    image = Image.fromarray(pixels)
    palette = image.quantize(int(colours), Image.Quantize.MEDIANCUT)
    return np.asarray(image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).convert("RGB"))


def _displacement(distance: float, angle: float) -> tuple[float, float]:
    return distance * math.sin(angle), distance * math.cos(angle)
