"""Errors in the transmission of coded pictures: TID2013's types 12 and 13."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from meon_ext.distortions._codecs import decoded, encoded
from meon_ext.distortions._planes import (
    Floats,
    Pixels,
    block_dct,
    from_ycc,
    inverse_block_dct,
    pad_to_blocks,
    to_ycc,
)
from meon_ext.distortions._wavelets import decompose, recompose

_JPEG_QUALITY = 90
_UNIT = 16  # pixels on a side of a unit of JPEG's coding, with chroma at half size as is Pillow's default
_RESTART_INTERVAL = 4  # in units: how far an error reaches at most
_PROGRESSIVE_SHARE = 0.5
_CODED_BLOCK = 8
_FREQUENCY = np.add.outer(np.arange(_CODED_BLOCK), np.arange(_CODED_BLOCK))
_DETAILS = (_FREQUENCY > 2, _FREQUENCY > 0)  # all but the first 6 coefficients of the zigzag order, all but the mean
_MOST_ERRORS = 4
_SLIPS = (-1, -1, -1, -2, 1)  # by how many blocks the details come from farther on; most often from before
_GIVING_UP_SHARE = 0.2
_TRIALS = 10
_WAVELET_LEVELS = 5
_CODE_BLOCK = 64  # as in OpenJPEG's default
_PLANES_AT_RISK = 5  # an error strikes one of a code block's uppermost bit planes
_ENERGIES = (1.05, 1.05, 0.27)  # what a coefficient of 1 adds to the picture, in each band; four times at each level
_NEARLY = 0.9  # of the squared error that is asked for: under half a decibel less
_ABOUT = 0.7  # one and a half


def jpeg(pixels: Pixels, psnr: float, random: np.random.Generator) -> Pixels | Floats:
    """What errors in a JPEG stream do, as many as bring it to about that PSNR in dB against what was sent.

    Every other time the stream is a progressive one, if that PSNR can be had from it, else a baseline one.
    """
    for details in _DETAILS if random.random() < _PROGRESSIVE_SHARE else ():
        if (made := _progressive(pixels, psnr, details, random)) is not None:
            return made
    return _baseline(pixels, psnr, random)


def _progressive(pixels: Pixels, psnr: float, details: NDArray[np.bool_], random: np.random.Generator) -> Floats | None:
    """Errors in the scan of a progressive stream that brings these coefficients of the luminance's blocks, or None if
    no place of the first brings about that PSNR.

    The decoder soon finds its way again in the bits, but a block too far or too near: from there on each block has the
    details of another, or none if the decoder gave up, while all coded in other scans stays in its place.
    """
    planes = to_ycc(decoded(encoded(pixels, "JPEG", quality=_JPEG_QUALITY), pixels))
    luminance = block_dct(pad_to_blocks(planes[:1], _CODED_BLOCK), _CODED_BLOCK)
    rows, columns = (side // _CODED_BLOCK for side in luminance.shape[1:])
    blocks = luminance.reshape(rows, _CODED_BLOCK, columns, _CODED_BLOCK).swapaxes(1, 2)  # a view
    sent = blocks[..., details].reshape(rows * columns, -1)
    further = np.sort(random.random(random.integers(_MOST_ERRORS)))
    slips = np.append(0, np.cumsum(random.choice(_SLIPS, len(further) + 1)))
    gives_up = random.random() < _GIVING_UP_SHARE

    def received(first: float) -> Floats:
        place = np.arange(len(sent))
        errors = len(sent) * np.append(first, first + (1 - first) * further)
        before = np.searchsorted(errors, place, "right")  # how many of them lie before each block
        came: Floats = sent[np.clip(place + slips[before], 0, len(sent) - 1)]
        if gives_up:
            came[before == len(errors)] = 0
        return came

    wanted = _squared_error(pixels, psnr)
    low, high, best, closest = 0.0, 1.0, None, _ABOUT * wanted
    for _ in range(_TRIALS):
        first = (low + high) / 2
        made = received(first)
        error = 3 * float(((made - sent) ** 2).sum(dtype=np.float64))  # the same one in red, green and blue
        if closest <= error <= wanted:
            best, closest = made, error
            if error >= _NEARLY * wanted:
                break
        low, high = (first, high) if error > wanted else (low, first)
    if best is None:
        return None
    blocks[..., details] = best.reshape(rows, columns, -1)
    planes[:1] = inverse_block_dct(luminance, _CODED_BLOCK)[:, : pixels.shape[0], : pixels.shape[1]]
    return from_ycc(planes)


def _squared_error(pixels: Pixels, psnr: float) -> float:
    """Summed over the samples of a picture of this size, at that PSNR in dB."""
    return pixels.size * 255**2 / 10 ** (psnr / 10)


def _baseline(pixels: Pixels, psnr: float, random: np.random.Generator) -> Pixels:
    """Bits flipped in some of the restart intervals of a baseline stream, at least in one.

    Markers are neither hit nor made, so the decoder finds each restart marker and goes on behind it; what it makes of
    the interval until then is up to the bits. So one stream with all of them hit shows what each hit does.
    """
    sent = encoded(pixels, "JPEG", quality=_JPEG_QUALITY, restart_marker_blocks=_RESTART_INTERVAL)
    intervals = [slice(*ends) for ends in _restart_intervals(sent)]
    clean, struck = np.frombuffer(sent, np.uint8).copy(), np.frombuffer(sent, np.uint8).copy()
    for interval in intervals:
        _flip_a_bit(struck[interval], random)
    difference = decoded(struck.tobytes(), pixels).astype(np.float32) - decoded(sent, pixels)
    errors = _interval_sums((difference**2).sum(2), len(intervals))
    for hit in _chosen(errors, psnr, pixels, random):
        clean[intervals[hit]] = struck[intervals[hit]]
    return decoded(clean.tobytes(), pixels)


def _interval_sums(plane: Floats, count: int) -> NDArray[np.float64]:
    """The sum over each restart interval's pixels."""
    rows, columns = (-(-side // _UNIT) for side in plane.shape)
    padded = np.pad(plane, [(0, -side % _UNIT) for side in plane.shape])
    units = padded.reshape(rows, _UNIT, columns, _UNIT).sum((1, 3), dtype=np.float64).ravel()
    return np.asarray(np.bincount(np.arange(len(units)) // _RESTART_INTERVAL, units, count), np.float64)


def _chosen(errors: NDArray[np.float64], psnr: float, pixels: Pixels, random: np.random.Generator) -> list[int]:
    """Which of the possible errors, each of this squared sum, strike: in random order those that still fit, until the
    PSNR in dB is nearly reached; at least the least of them."""
    wanted = _squared_error(pixels, psnr)
    chosen, total = [], 0.0
    for place in random.permutation(len(errors)):
        if errors[place] > 0 and total + errors[place] <= wanted:
            chosen.append(int(place))
            total += errors[place]
            if total >= _NEARLY * wanted:
                break
    felt = np.flatnonzero(errors)
    return chosen or felt[np.argsort(errors[felt])[:1]].tolist()


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


def jpeg2000(pixels: Pixels, psnr: float, random: np.random.Generator) -> Floats:
    """What bit errors do to some of a JPEG 2000 stream's code blocks, to as many as bring it to about that PSNR in dB
    before clipping, at least to one.

    A code block is coded bit plane by bit plane, and from the bit in error on the arithmetic decoder reads nonsense:
    the block's coefficients keep their upper bit planes and have random lower ones. The coarsest coefficients and the
    chroma are taken to be protected, as the stream's headers must be.
    """
    planes = to_ycc(pixels)
    coarse, bands = decompose(planes[0], _WAVELET_LEVELS)
    blocks = [
        (weight * 4**level, band[top : top + _CODE_BLOCK, left : left + _CODE_BLOCK])
        for level, three in enumerate(bands)
        for weight, band in zip(_ENERGIES, three, strict=True)
        for top in range(0, band.shape[0], _CODE_BLOCK)
        for left in range(0, band.shape[1], _CODE_BLOCK)
    ]
    garbled = [_garbled(block, random) for _, block in blocks]
    # An error of the luminance is one of red, green and blue alike.
    errors = [3 * w * float(((new - old) ** 2).sum()) for new, (w, old) in zip(garbled, blocks, strict=True)]
    for hit in _chosen(np.array(errors), psnr, pixels, random):
        blocks[hit][1][...] = garbled[hit]
    planes[0] = recompose(coarse, bands)
    return from_ycc(planes)


def _garbled(block: Floats, random: np.random.Generator) -> Floats:
    """With all bits under a random one of the uppermost bit planes replaced."""
    top = int(np.floor(np.log2(max(float(np.abs(block).max()), 1))))
    unit = np.float32(2.0 ** max(0, top - int(random.integers(_PLANES_AT_RISK))))
    kept = np.trunc(block / unit)
    sign = np.where(kept == 0, random.choice(np.array([-1, 1], np.float32), block.shape), np.sign(block))
    return np.asarray((kept + sign * random.random(block.shape, np.float32)) * unit)
