"""The irreversible wavelet transform of JPEG 2000 (CDF 9/7, by lifting), for planes of any size."""

from __future__ import annotations

import numpy as np

from meon_ext.distortions._planes import Floats

# ISO/IEC 15444-1, table F.4.
_LIFTING = (-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971)
_SCALE = 1.230174104914001

Bands = tuple[Floats, Floats, Floats]  # along rows high, along columns high, both


def decompose(plane: Floats, levels: int) -> tuple[Floats, list[Bands]]:
    """The coarsest plane and, finest level first, the three bands of details; the arrays are new."""
    bands = []
    for _ in range(levels):
        if min(plane.shape) < 2:
            break
        low, high = _split(plane)
        (plane, across), (down, both) = (_split(half.T) for half in (low, high))
        bands.append((across.T, down.T, both.T))
        plane = plane.T
    return plane, bands


def recompose(plane: Floats, bands: list[Bands]) -> Floats:
    for across, down, both in reversed(bands):
        low = _merge(plane.T, across.T).T
        high = _merge(down.T, both.T).T
        plane = _merge(low, high)
    return plane


def _split(plane: Floats) -> tuple[Floats, Floats]:
    """Along the first axis: low-pass of the even places, high-pass of the odd ones."""
    even, odd = plane[::2].copy(), plane[1::2].copy()
    for place, weight in enumerate(_LIFTING):
        if place % 2 == 0:
            odd += np.float32(weight) * _beside_odd(even, len(odd))
        else:
            even += np.float32(weight) * _beside_even(odd, len(even))
    return even * np.float32(1 / _SCALE), odd * np.float32(_SCALE)


def _merge(low: Floats, high: Floats) -> Floats:
    even, odd = low * np.float32(_SCALE), high * np.float32(1 / _SCALE)
    for place, weight in reversed(tuple(enumerate(_LIFTING))):
        if place % 2 == 0:
            odd -= np.float32(weight) * _beside_odd(even, len(odd))
        else:
            even -= np.float32(weight) * _beside_even(odd, len(even))
    plane = np.empty((len(low) + len(high), low.shape[1]), np.float32)
    plane[::2], plane[1::2] = even, odd
    return plane


def _beside_odd(even: Floats, count: int) -> Floats:
    """For each odd place the sum of its two even neighbours; at the end, where there is only one, twice that."""
    if len(even) == count:
        even = np.concatenate([even, even[-1:]])
    return even[:-1] + even[1:]


def _beside_even(odd: Floats, count: int) -> Floats:
    first = odd[:1]
    after = odd if len(odd) == count else np.concatenate([odd, odd[-1:]])
    before = np.concatenate([first, odd])[:count]
    return np.asarray(before + after)
