"""Full-reference metrics: how far a picture is from the one it was made of, with NumPy and SciPy.

Those in ``METRICS``, of the luminance, decide which pairs of pictures the P-test asks about
(``meon_ext.evaluation.waterloo_tests``); ``mdsi`` and ``haarpsi``, which see colour too, teach where nobody has judged
a picture (``meon_ext.training.teacher``). Pictures are uint8 ``(H, W, 3)`` RGB of one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from meon_ext.errors import ImageError
from meon_ext.metrics import LogisticFit

__all__ = ["METRICS", "MIN_SIDE", "gmsd", "haarpsi", "mdsi", "ms_ssim", "quality", "vif"]

Array = NDArray[np.float64]
Picture = NDArray[np.uint8]

MIN_SIDE = 176
"""Of a picture in pixels: the window of MS-SSIM, 11, at its fifth scale."""

_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_GMS_CONSTANT = 170.0
_VIF_NOISE = 2.0
LUMA: Array = np.array([0.299, 0.587, 0.114])
"""Luminance of R, G and B, ITU-R BT.601."""
# To luminance and the two chromaticity channels of MDSI, from R, G and B in the rows.
_MDSI_CHANNELS = np.array([[0.2989, 0.30, 0.34], [0.5870, 0.04, -0.60], [0.1140, -0.35, 0.17]])

_YIQ: Array = np.array([[0.299, 0.596, 0.211], [0.587, -0.274, -0.523], [0.114, -0.322, 0.312]])
_HAAR_CONSTANT, _HAAR_SLOPE = 30.0, 4.2


def ms_ssim(reference: Picture, distorted: Picture) -> float:
    """Multi-scale structural similarity (Wang, Simoncelli and Bovik, Asilomar 2003), 0 to 1 for equal pictures.

    Five scales, Gaussian window of 11 and sigma 1.5 without padding; a contrast term below 0 counts as 0.
    Raises ImageError for shapes that differ or a side under MIN_SIDE.
    """
    x, y = _luminance(reference, distorted)
    window = _gaussian(11, 1.5)
    result = 1.0
    for scale, weight in enumerate(_SSIM_WEIGHTS):
        moments = _Moments.of(x, y, window)
        contrast = (2 * moments.covariance + _C2) / (moments.x_variance + moments.y_variance + _C2)
        if scale == len(_SSIM_WEIGHTS) - 1:
            squares = moments.x_mean**2 + moments.y_mean**2
            contrast = contrast * (2 * moments.x_mean * moments.y_mean + _C1) / (squares + _C1)
        result *= max(float(contrast.mean()), 0.0) ** weight
        x, y = _halved(x), _halved(y)
    return result


def gmsd(reference: Picture, distorted: Picture) -> float:
    """Gradient magnitude similarity deviation (Xue, Zhang, Mou and Bovik, IEEE TIP 2014), 0 for equal pictures.

    Raises ImageError as ``ms_ssim`` does.
    """
    x, y = (_gradient(_halved(plane)) for plane in _luminance(reference, distorted))
    return float(_similarity(x, y, _GMS_CONSTANT).std())


def vif(reference: Picture, distorted: Picture) -> float:
    """Visual information fidelity in the pixel domain (Sheikh and Bovik, IEEE TIP 2006), 1 for equal pictures.

    Four scales, Gaussian windows of 17, 9, 5 and 3 with a sigma of a fifth, noise variance 2.
    Raises ImageError as ``ms_ssim`` does.
    """
    x, y = _luminance(reference, distorted)
    kept = whole = 0.0
    for scale in range(4):
        size = 2 ** (4 - scale) + 1
        window = _gaussian(size, size / 5)
        if scale:
            x, y = (_filtered(plane, window)[::2, ::2] for plane in (x, y))
        moments = _Moments.of(x, y, window)
        x_variance = np.where(moments.x_variance < 1e-10, 0, moments.x_variance)  # flat, but for rounding
        gain = np.maximum(moments.covariance / (x_variance + 1e-10), 0)  # what is reversed tells nothing
        noise = np.maximum(moments.y_variance - gain * moments.covariance, 1e-10)
        kept += float(np.log2(1 + gain**2 * x_variance / (noise + _VIF_NOISE)).sum())
        whole += float(np.log2(1 + x_variance / _VIF_NOISE).sum())
    return kept / whole if whole else 1.0


def mdsi(reference: Picture, distorted: Picture) -> float:
    """Mean deviation similarity index (Ziaei Nafchi, Shahkolaei, Hedjam and Cheriet, IEEE Access 2016), 0 for equal.

    Gradients of the luminance, also against the mean of both pictures, and two chromaticity channels, with the paper's
    constants, on means of 2 x 2 pixels: what its rule for the size gives for shorter sides of 384 to 639.
    Raises ImageError as ``ms_ssim`` does.
    """
    _check(reference, distorted)
    planes = [_halved_channels(picture) @ _MDSI_CHANNELS for picture in (reference, distorted)]
    (lx, hx, mx), (ly, hy, my) = (np.moveaxis(plane, 2, 0) for plane in planes)
    gx, gy, g_mean = (_gradient(plane) for plane in (lx, ly, (lx + ly) / 2))
    gradients = (
        _similarity(gx, gy, 140.0) + _similarity(gy, g_mean, 55.0) - _similarity(gx, g_mean, 55.0)
    )  # the paper's (8): what the distortion added and what it took away weigh differently
    chroma = (2 * (hx * hy + mx * my) + 550.0) / (hx**2 + hy**2 + mx**2 + my**2 + 550.0)
    # A negative similarity has a complex fourth root, as in the paper's own program.
    root = np.emath.power(0.6 * gradients + 0.4 * chroma, 0.25)
    return float(np.abs(root - root.mean()).mean() ** 0.25)


def haarpsi(reference: Picture, distorted: Picture) -> float:
    """Haar wavelet-based perceptual similarity index, 0 to 1 for equal pictures.

    Reisenhofer, Bosse, Kutyniok and Wiegand, Signal Processing: Image Communication 61, 2018.
    Details of two scales across and down and two chromaticity channels, on means of 2 x 2 pixels, each place with the
    weight of the details that the third scale sees there; with the paper's constants.
    Raises ImageError as ``ms_ssim`` does.
    """
    _check(reference, distorted)
    (lx, ix, qx), (ly, iy, qy) = (
        np.moveaxis(_halved_channels(picture) @ _YIQ, 2, 0) for picture in (reference, distorted)
    )
    alike, weights = [], []
    for axis in (0, 1):
        fine, finer, coarse = ((np.abs(_haar(lx, size, axis)), np.abs(_haar(ly, size, axis))) for size in (2, 4, 8))
        alike.append((_similarity(*fine, _HAAR_CONSTANT) + _similarity(*finer, _HAAR_CONSTANT)) / 2)
        weights.append(np.maximum(*coarse))
    chroma = [(np.abs(_boxed(x)), np.abs(_boxed(y))) for x, y in ((ix, iy), (qx, qy))]
    alike.append(np.mean([_similarity(*planes, _HAAR_CONSTANT) for planes in chroma], axis=0))
    weights.append((weights[0] + weights[1]) / 2)
    total = float(np.sum(weights))
    if not total:
        return 1.0  # nothing anywhere, and so no difference
    felt = float(sum((weight / (1 + np.exp(-_HAAR_SLOPE * a))).sum() for a, weight in zip(alike, weights, strict=True)))
    share = felt / total
    return float((np.log(share / (1 - share)) / _HAAR_SLOPE) ** 2)


METRICS: Mapping[str, Callable[[Picture, Picture], float]] = MappingProxyType(
    {"ms_ssim": ms_ssim, "gmsd": gmsd, "vif": vif}
)
"""The three, by name."""

# MS-SSIM and GMSD need only the bend at one end of their curves, so the other end lies far outside.
_TO_DMOS: Mapping[str, LogisticFit] = MappingProxyType(
    {
        "ms_ssim": LogisticFit((-500455.523259598, 87.73755121260545, 1.734715976611213, 0.08358550839265888)),
        "gmsd": LogisticFit((116.97043467646711, -168930.82598862873, -1.4306972470405794, 0.19392658363651089)),
        "vif": LogisticFit((-1.6552772418432866, 161.2858968452842, 0.1416787700996265, 0.24251147452100552)),
    }
)


def quality(name: str, value: float) -> float:
    """A metric's value as quality, 0 to 100, higher better, so that the three can be compared.

    Four-parameter logistics fitted to the DMOS of LIVE (JPEG 2000, JPEG, white noise and blur); quality is 100 - DMOS.
    ``python/fit_full_reference.py`` makes them.
    """
    return float(np.clip(100 - _TO_DMOS[name](value), 0, 100))


def _check(reference: Picture, distorted: Picture) -> None:
    if reference.shape != distorted.shape:
        raise ImageError(f"a reference of shape {reference.shape} has nothing to say of a picture {distorted.shape}")
    if min(reference.shape[:2]) < MIN_SIDE:
        raise ImageError(f"full-reference metrics need sides of at least {MIN_SIDE} pixels, got {reference.shape[:2]}")


def _luminance(reference: Picture, distorted: Picture) -> tuple[Array, Array]:
    _check(reference, distorted)
    return reference @ LUMA, distorted @ LUMA


def _gaussian(size: int, sigma: float) -> Array:
    x = np.arange(size) - (size - 1) / 2
    weights = np.exp(-(x**2) / (2 * sigma**2))
    return np.asarray(weights / weights.sum())


def _filtered(plane: Array, window: Array) -> Array:
    """Filtered along both axes, without the border that the window would leave."""
    from scipy.ndimage import correlate1d

    rim = len(window) // 2
    along_rows = correlate1d(plane, window, axis=1)[:, rim : plane.shape[1] - rim]
    return np.asarray(correlate1d(along_rows, window, axis=0)[rim : plane.shape[0] - rim])


def _halved(plane: Array) -> Array:
    """Means of 2 x 2 pixels; an odd last row or column is dropped."""
    height, width = (side // 2 * 2 for side in plane.shape)
    blocks = plane[:height, :width].reshape(height // 2, 2, width // 2, 2)
    return np.asarray(blocks.mean(axis=(1, 3)))


def _halved_channels(picture: Picture) -> Array:
    """Means of 2 x 2 pixels of each channel, (H // 2, W // 2, 3)."""
    height, width = (side // 2 * 2 for side in picture.shape[:2])
    blocks = picture[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    return np.asarray(blocks.sum(axis=(1, 3), dtype=np.uint16) / 4.0)


def _similarity(x: Array, y: Array, constant: float) -> Array:
    return np.asarray((2 * x * y + constant) / (x**2 + y**2 + constant))


def _gradient(plane: Array) -> Array:
    """Magnitude of Prewitt's gradient, a third of the differences' sums; nothing beyond the border."""
    difference, sum_ = np.array([-1.0, 0.0, 1.0]), np.ones(3) / 3
    rows, columns = (_correlated(plane, difference, sum_, axis) for axis in (0, 1))
    return np.asarray(np.hypot(rows, columns))


def _haar(plane: Array, size: int, axis: int) -> Array:
    """Haar's wavelet of this many pixels: along the axis the far half less the near one, across it the sum."""
    half = np.ones(size // 2)
    return _correlated(plane, np.concatenate([-half, half]) / size, np.ones(size), axis, origin=-1)


def _boxed(plane: Array) -> Array:
    """Means of each pixel, the next, and the two below."""
    mean = np.full(2, 1 / 2)
    return _correlated(plane, mean, mean, axis=0, origin=-1)


def _correlated(plane: Array, along: Array, across: Array, axis: int, origin: int = 0) -> Array:
    """With one window along the axis, then with the other across it; nothing beyond the border.

    origin: -1 for windows of an even size, which then have one more place on the far side.
    """
    from scipy.ndimage import correlate1d

    first = correlate1d(plane, along, axis=axis, mode="constant", origin=origin)
    return np.asarray(correlate1d(first, across, axis=1 - axis, mode="constant", origin=origin))


class _Moments:
    """Local means, variances and covariance of two planes under a window."""

    def __init__(self, x_mean: Array, y_mean: Array, x_variance: Array, y_variance: Array, covariance: Array) -> None:
        self.x_mean, self.y_mean = x_mean, y_mean
        self.x_variance, self.y_variance, self.covariance = x_variance, y_variance, covariance

    @classmethod
    def of(cls, x: Array, y: Array, window: Array) -> _Moments:
        x_mean, y_mean = _filtered(x, window), _filtered(y, window)
        return cls(
            x_mean,
            y_mean,
            _filtered(x * x, window) - x_mean**2,
            _filtered(y * y, window) - y_mean**2,
            _filtered(x * y, window) - x_mean * y_mean,
        )
