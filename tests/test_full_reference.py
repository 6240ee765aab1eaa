"""Full-reference metrics against another package's figures and plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import convolve2d

from meon_ext import full_reference
from meon_ext.errors import ImageError
from meon_ext.full_reference import METRICS, gmsd, haarpsi, mdsi, ms_ssim, quality, vif

Picture = NDArray[np.uint8]
Plane = NDArray[np.float64]


@pytest.fixture(scope="module")
def pair() -> tuple[Picture, Picture]:
    """A pattern, and the same quantised with a checkerboard over it; 192 x 256."""
    y, x = np.mgrid[0:192, 0:256]
    planes = [
        127 + 60 * np.sin(x / 7 + y / 11) + (x * y % 61),
        120 + 50 * np.cos(x / 5 - y / 13) + (x + 3 * y) % 47,
        100 + 70 * np.sin(x * y / 900),
    ]
    reference = np.stack(planes, axis=-1).astype(np.uint8)
    distorted = (reference // 24) * 24 + 12 * ((x // 8 + y // 8) % 2)[..., None]
    return reference, distorted.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    # piq 0.8.0 gave these in float64 for the luminance of the same pair: multi_scale_ssim, gmsd, vif_p. Its constant
    # against division by zero differs in vif_p, which shows in the tenth decimal.
    ("metric", "expected", "tolerance"),
    [(ms_ssim, 0.949631734739398, 1e-13), (gmsd, 0.06980050944266465, 1e-13), (vif, 0.42993786629177483, 1e-9)],
)
def test_as_another_package_has_it(
    pair: tuple[Picture, Picture], metric: object, expected: float, tolerance: float
) -> None:
    assert metric(*pair) == pytest.approx(expected, abs=tolerance)  # type: ignore[operator]


def test_haarpsi_as_another_package_has_it(pair: tuple[Picture, Picture]) -> None:
    """piq 0.8.0 in float64, colour; its constants against division by zero show in the seventh decimal."""
    assert haarpsi(*pair) == pytest.approx(0.852208961167047, abs=1e-6)
    assert haarpsi(pair[0], pair[0]) == pytest.approx(1, abs=1e-12)
    assert haarpsi(*pair) == haarpsi(*pair[::-1])
    black = np.zeros((200, 200, 3), np.uint8)
    assert haarpsi(black, black) == 1  # which has no details to be weighed
    with pytest.raises(ImageError):
        haarpsi(pair[0], pair[1][:, :-1])


def test_haarpsi_by_its_definition(pair: tuple[Picture, Picture]) -> None:
    def small(plane: Plane) -> Plane:
        return convolve2d(plane, np.full((2, 2), 0.25), "valid")[::2, ::2]

    def ended(plane: Plane, kernel: Plane) -> Plane:
        """Correlation with zeros beyond the border, of which the far side has one more than the near one."""
        below, behind = (side // 2 - 1 for side in kernel.shape)
        padded = np.pad(plane, ((below, kernel.shape[0] // 2), (behind, kernel.shape[1] // 2)))
        return convolve2d(padded, kernel[::-1, ::-1], "valid")

    def alike(x: Plane, y: Plane) -> Plane:
        return np.asarray((2 * x * y + 30) / (x * x + y * y + 30))

    matrix = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    first, second = (
        [sum(row[i] * small(picture[..., i].astype(float)) for i in range(3)) for row in matrix] for picture in pair
    )
    above = weight = 0.0
    weights = []
    for turn in (np.asarray, np.transpose):
        wavelets = [turn(np.repeat([-1.0, 1.0], size // 2)[:, None] * np.ones(size) / size) for size in (2, 4, 8)]
        x, y = ([np.abs(ended(planes[0], wavelet)) for wavelet in wavelets] for planes in (first, second))
        weights.append(np.maximum(x[2], y[2]))
        values = (alike(x[0], y[0]) + alike(x[1], y[1])) / 2
        above, weight = above + (weights[-1] / (1 + np.exp(-4.2 * values))).sum(), weight + weights[-1].sum()
    box = np.full((2, 2), 0.25)
    colour = sum(alike(np.abs(ended(first[i], box)), np.abs(ended(second[i], box))) for i in (1, 2)) / 2
    mean = sum(weights) / 2
    share = (above + (mean / (1 + np.exp(-4.2 * colour))).sum()) / (weight + mean.sum())
    assert haarpsi(*pair) == pytest.approx((np.log(share / (1 - share)) / 4.2) ** 2, rel=1e-12)


def luminance(picture: Picture) -> Plane:
    return np.asarray(0.299 * picture[..., 0] + 0.587 * picture[..., 1] + 0.114 * picture[..., 2])


def test_gmsd_by_its_definition(pair: tuple[Picture, Picture]) -> None:
    def gradient(plane: Plane) -> Plane:
        small = convolve2d(plane, np.full((2, 2), 0.25), "valid")[::2, ::2]
        prewitt = np.array([[1, 0, -1]] * 3) / 3
        return np.asarray(np.sqrt(convolve2d(small, prewitt, "same") ** 2 + convolve2d(small, prewitt.T, "same") ** 2))

    x, y = (gradient(luminance(picture)) for picture in pair)
    expected = np.std((2 * x * y + 170) / (x * x + y * y + 170))
    assert gmsd(*pair) == pytest.approx(expected, rel=1e-12)


def test_mdsi_by_its_definition(pair: tuple[Picture, Picture]) -> None:
    def planes(picture: Picture) -> list[Plane]:
        r, g, b = (convolve2d(picture[..., i], np.full((2, 2), 0.25), "valid")[::2, ::2] for i in range(3))
        luma = 0.2989 * r + 0.5870 * g + 0.1140 * b
        return [luma, 0.30 * r + 0.04 * g - 0.35 * b, 0.34 * r - 0.60 * g + 0.17 * b]

    def gradient(plane: Plane) -> Plane:
        prewitt = np.array([[1, 0, -1]] * 3) / 3
        return np.asarray(np.sqrt(convolve2d(plane, prewitt, "same") ** 2 + convolve2d(plane, prewitt.T, "same") ** 2))

    def alike(x: Plane, y: Plane, c: float) -> Plane:
        return np.asarray((2 * x * y + c) / (x * x + y * y + c))

    def index(first: Picture, second: Picture) -> float:
        (l1, h1, m1), (l2, h2, m2) = planes(first), planes(second)
        g1, g2, g = gradient(l1), gradient(l2), gradient((l1 + l2) / 2)
        structure = alike(g1, g2, 140) + alike(g2, g, 55) - alike(g1, g, 55)
        chroma = (2 * (h1 * h2 + m1 * m2) + 550) / (h1**2 + h2**2 + m1**2 + m2**2 + 550)
        root = (0.6 * structure + 0.4 * chroma).astype(complex) ** 0.25
        return float(np.mean(np.abs(root - root.mean())) ** 0.25)

    reference, distorted = pair
    # Opposite colours make similarities negative, and their roots complex.
    opposite = np.where((np.arange(256) // 9 % 2)[None, :, None], 255 - reference, reference).astype(np.uint8)
    for other in (distorted, opposite):
        assert mdsi(reference, other) == pytest.approx(index(reference, other), rel=1e-12)
    # It is not symmetric: what a distortion adds and what it takes away weigh differently.
    assert mdsi(distorted, reference) != pytest.approx(mdsi(reference, distorted), rel=1e-6)
    assert mdsi(reference, reference) == 0
    with pytest.raises(ImageError):
        mdsi(reference, distorted[:, :-1])


def test_the_last_scale_of_ms_ssim_is_ssim(pair: tuple[Picture, Picture], monkeypatch: pytest.MonkeyPatch) -> None:
    from skimage.metrics import structural_similarity

    monkeypatch.setattr(full_reference, "_SSIM_WEIGHTS", (1.0,))
    x, y = map(luminance, pair)
    expected = structural_similarity(
        x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert ms_ssim(*pair) == pytest.approx(expected, rel=1e-12)


def test_equal_pictures(pair: tuple[Picture, Picture]) -> None:
    for picture in (*pair, np.full((200, 200, 3), 77, np.uint8)):
        assert ms_ssim(picture, picture) == pytest.approx(1, abs=1e-9)
        assert gmsd(picture, picture) == 0
        assert vif(picture, picture) == pytest.approx(1, abs=1e-9)


def test_a_negative_has_nothing_of_the_picture(pair: tuple[Picture, Picture]) -> None:
    negative = 255 - pair[0]
    assert ms_ssim(pair[0], negative) == 0  # and not the root of a product below 0
    assert vif(pair[0], negative) == 0


def test_what_is_flat_tells_vif_nothing(pair: tuple[Picture, Picture]) -> None:
    flat = np.full_like(pair[0], 77)
    assert vif(pair[0], flat) == 0
    assert vif(flat, pair[0]) == 1  # nothing was there to be lost


def test_an_odd_last_row_or_column_counts_for_nothing(pair: tuple[Picture, Picture]) -> None:
    odd = tuple(np.pad(picture, ((0, 1), (0, 1), (0, 0)), constant_values=255) for picture in pair)
    for metric in (gmsd, mdsi, haarpsi):
        assert metric(*odd) == metric(*pair)


def test_more_noise_is_worse_in_all_three_and_on_their_scale(pair: tuple[Picture, Picture]) -> None:
    random = np.random.default_rng(0)
    noise = random.normal(0, 1, pair[0].shape)
    pictures = [np.clip(pair[0] + sigma * noise, 0, 255).astype(np.uint8) for sigma in (2, 8, 20, 50, 100)]
    for name, metric in METRICS.items():
        qualities = [quality(name, metric(pair[0], picture)) for picture in pictures]
        assert qualities == sorted(qualities, reverse=True)
        assert qualities[0] > 70 and qualities[-1] < 40
        assert min(qualities) >= 0 and max(qualities) <= 100


def test_what_they_refuse() -> None:
    small = np.zeros((175, 300, 3), np.uint8)
    with pytest.raises(ImageError, match="at least 176 pixels"):
        ms_ssim(small, small)
    with pytest.raises(ImageError, match="has nothing to say"):
        gmsd(np.zeros((200, 200, 3), np.uint8), np.zeros((200, 201, 3), np.uint8))
