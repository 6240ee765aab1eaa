"""Errors in the transmission of coded pictures: TID2013's types 12 and 13."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from meon_ext.distortions._codecs import decoded, encoded
from meon_ext.distortions._planes import Floats, Pixels, from_ycc, to_ycc
from meon_ext.distortions._wavelets import decompose, recompose

_JPEG_QUALITY = 90
_RESTART_INTERVAL = 4  # in units of 16 x 16 pixels: how far an error reaches at most
_WAVELET_LEVELS = 5
_CODE_BLOCK = 64  # as in OpenJPEG's default
_PLANES_AT_RISK = 5  # an error strikes one of a code block's uppermost bit planes


def jpeg(pixels: Pixels, share: float, random: np.random.Generator) -> Pixels:
    """Bits flipped in this share of the restart intervals of a JPEG stream, at least in one.

    Markers are neither hit nor made, so the decoder finds each restart marker and goes on behind it; what it makes of
    the interval until then is up to the bits.
    """
    sent = encoded(pixels, "JPEG", quality=_JPEG_QUALITY, restart_marker_blocks=_RESTART_INTERVAL)
    stream = np.frombuffer(sent, np.uint8).copy()
    intervals = list(_restart_intervals(sent))
    hits = random.choice(len(intervals), max(1, round(share * len(intervals))), replace=False)
    for hit in np.sort(hits):
        _flip_a_bit(stream[slice(*intervals[hit])], random)
    return decoded(stream.tobytes(), pixels)


def _restart_intervals(stream: bytes) -> Iterator[tuple[int, int]]:
    """Where the entropy-coded bytes between the markers of a baseline JPEG stream of one scan begin and end."""
    scan = stream.index(b"\xff\xda")
    start = scan + 2 + int.from_bytes(stream[scan + 2 : scan + 4], "big")
    for marker in re.compile(b"\xff[\xd0-\xd7\xd9]").finditer(stream, start):
        yield start, marker.start()
        start = marker.end()


def _flip_a_bit(interval: NDArray[np.uint8], random: np.random.Generator) -> None:
    """In place, in a byte that is not 0xFF, stuffed after one, or about to become one."""
    bits = np.uint8(1) << random.permutation(8).astype(np.uint8)
    for bit in bits:
        free = (interval != 0xFF) & (interval ^ bit != 0xFF)
        free[1:] &= interval[:-1] != 0xFF
        if places := np.flatnonzero(free).tolist():
            interval[places[int(random.integers(len(places)))]] ^= bit
            return


def jpeg2000(pixels: Pixels, share: float, random: np.random.Generator) -> Floats:
    """What bit errors do to this share of a JPEG 2000 stream's code blocks, at least to one.

    A code block is coded bit plane by bit plane, and from the bit in error on the arithmetic decoder reads nonsense:
    the block's coefficients keep their upper bit planes and have random lower ones. The coarsest coefficients and the
    chroma are taken to be protected, as the stream's headers must be.
    """
    planes = to_ycc(pixels)
    coarse, bands = decompose(planes[0], _WAVELET_LEVELS)
    blocks = [
        band[top : top + _CODE_BLOCK, left : left + _CODE_BLOCK]
        for level in bands
        for band in level
        for top in range(0, band.shape[0], _CODE_BLOCK)
        for left in range(0, band.shape[1], _CODE_BLOCK)
    ]
    if blocks:
        for hit in random.choice(len(blocks), max(1, round(share * len(blocks))), replace=False):
            _garble(blocks[hit], random)
    planes[0] = recompose(coarse, bands)
    return from_ycc(planes)


def _garble(block: Floats, random: np.random.Generator) -> None:
    """In place: all bits under a random one of the uppermost bit planes."""
    top = int(np.floor(np.log2(max(float(np.abs(block).max()), 1))))
    unit = np.float32(2.0 ** max(0, top - int(random.integers(_PLANES_AT_RISK))))
    kept = np.trunc(block / unit)
    sign = np.where(kept == 0, random.choice(np.array([-1, 1], np.float32), block.shape), np.sign(block))
    block[...] = (kept + sign * random.random(block.shape, np.float32)) * unit
