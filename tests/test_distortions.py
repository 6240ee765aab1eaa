"""meon_ext.distortions: what every type must do, on photographs, odd sizes and wrong input."""

import hashlib
import io
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features
from scipy.fft import dctn, idctn
from scipy.ndimage import gaussian_filter

from meon_ext import distortions
from meon_ext.distortions import CLASSIC, LEVELS, TYPES, _transmission, available, distort
from meon_ext.distortions._planes import block_dct, sparse, to_ycc
from meon_ext.errors import DistortionError, ImageError
from meon_ext.weights_io import RELEASE_CLASSES

HERE = Path(__file__).parent
# Whose damage lies in places that the seed gives: many are needed to see the level through chance.
SCATTERED = ("jpeg_transmission", "jpeg2000_transmission", "pattern_shift", "local_blocks", "colour_block")
SEEDS = 16
MADE = [name for name in TYPES if available(name)]


def photograph(name: str, height: int = 256, width: int = 256) -> NDArray[np.uint8]:
    """The middle of one of scikit-image's photographs."""
    spec = find_spec("skimage")
    assert spec is not None and spec.submodule_search_locations
    with Image.open(Path(spec.submodule_search_locations[0]) / "data" / f"{name}.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def colour_difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Mean distance in CIE L*a*b*, by scikit-image: it sees brightness, contrast and colour, unlike structure alone."""
    from skimage.color import deltaE_cie76, rgb2lab

    return float(deltaE_cie76(rgb2lab(a), rgb2lab(b)).mean())


@pytest.mark.parametrize("name", MADE)
def test_damage_grows_with_the_level(name: str) -> None:
    scattered = name in SCATTERED
    photographs = [photograph("coffee", 384, 384)] if scattered else [photograph(n) for n in ("coffee", "astronaut")]
    damage = np.zeros(len(LEVELS))
    for clean in photographs:
        for seed in range(SEEDS if scattered else 1):
            damage += [colour_difference(clean, distort(clean, name, level, seed=seed)) for level in LEVELS]
    assert damage[0] > 0
    assert (np.diff(damage) > 0).all(), damage


@pytest.mark.parametrize("name", MADE)
def test_every_level_changes_the_picture_and_nothing_else(name: str) -> None:
    clean = photograph("astronaut", 96, 130)
    before = clean.copy()
    for level in LEVELS:
        made = distort(clean, name, level, seed=3)
        assert made.dtype == np.uint8 and made.shape == clean.shape and made.flags.c_contiguous and made.flags.writeable
        assert not np.shares_memory(made, clean) and (made != clean).any()
        assert (distort(clean, name, level, seed=3) == made).all()
    assert (clean == before).all()
    # Any layout and a read-only array: the values decide.
    view = np.repeat(clean, 2, axis=1)[:, ::2]
    view.setflags(write=False)
    assert (distort(view, name, 4, seed=3) == distort(clean, name, 4, seed=3)).all()


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 2), (33, 35), (17, 257)], ids=str)
def test_any_size(name: str, size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for level in (1, 5):
        assert distort(picture, name, level).shape == (*size, 3)


@pytest.mark.parametrize("name", MADE)
def test_flat_pictures(name: str) -> None:
    """No division by what is not there (warnings are errors), and grey stays near where it was meant to."""
    for value in (0, 128, 255):
        flat = np.full((40, 56, 3), value, np.uint8)
        assert distort(flat, name, 5).shape == flat.shape


def test_only_the_seed_changes_what_is_random() -> None:
    clean = photograph("coffee", 128, 128)
    random = {name for name in MADE if (distort(clean, name, 5, seed=0) != distort(clean, name, 5, seed=1)).any()}
    noise = {name for name in TYPES if "noise" in name} - {"comfort_noise"}
    assert noise | {"motion_blur", "jitter", "colour_block", "sparse_sampling"} <= random
    for name in ("gaussian_blur", "jpeg", "mean_shift", "contrast_change", "quantisation", "lens_blur"):
        assert name not in random
    # Another level has other noise, not the same at another strength.
    a, b = (distort(np.full((64, 64, 3), 128, np.uint8), "white_noise", level).astype(float) - 128 for level in (1, 2))
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.1


def test_another_process_makes_the_same() -> None:
    code = """
import hashlib, sys
import numpy as np
from meon_ext.distortions import TYPES, available, distort
assert "torch" not in sys.modules and "scipy" not in sys.modules
picture = np.random.default_rng(5).integers(0, 256, (40, 50, 3), np.uint8)
for name in TYPES:
    if available(name):
        print(name, hashlib.sha256(distort(picture, name, 3, seed=9).tobytes()).hexdigest())
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True)
    picture = np.random.default_rng(5).integers(0, 256, (40, 50, 3), np.uint8)
    want = [f"{name} {hashlib.sha256(distort(picture, name, 3, seed=9).tobytes()).hexdigest()}" for name in MADE]
    assert ran.stdout.split("\n")[:-1] == want


def test_noise_has_the_strength_its_parameter_says() -> None:
    grey = np.full((256, 256, 3), 128, np.uint8)
    for level, sigma in enumerate(TYPES["white_noise"].levels[:3], 1):
        assert float((distort(grey, "white_noise", level).astype(float) - 128).std()) == pytest.approx(sigma, rel=0.02)
    for name in ("colour_noise", "correlated_noise", "masked_noise", "high_frequency_noise"):
        for level, psnr in enumerate(TYPES[name].levels, 1):
            error = distort(grey, name, level).astype(float) - 128
            # Rounding to whole numbers adds a variance of 1/12.
            assert 10 * np.log10(255**2 / (np.mean(error**2) - 1 / 12)) == pytest.approx(psnr, abs=0.3)


def test_types_that_have_a_formula() -> None:
    clean = photograph("coffee", 64, 64).astype(float)
    whole = clean.astype(np.uint8)
    for level, shift in enumerate(TYPES["mean_shift"].levels, 1):
        assert (distort(whole, "mean_shift", level) == np.clip(clean + shift, 0, 255)).all()
    for level, values in enumerate(TYPES["quantisation"].levels, 1):
        made = distort(whole, "quantisation", level)
        assert len(np.unique(made)) <= values
        assert np.abs(made - clean).max() <= 255 / (values - 1) / 2 + 1
    share = float((distort(np.full((300, 300, 3), 7, np.uint8), "impulse_noise", 5) != 7).mean())
    assert share == pytest.approx(TYPES["impulse_noise"].levels[4] * 255 / 256, rel=0.05)


def test_the_table_covers_both_data_sets() -> None:
    assert sorted(t.tid2013 for t in TYPES.values() if t.tid2013 is not None) == list(range(1, 25))
    assert sorted(t.kadid10k for t in TYPES.values() if t.kadid10k is not None) == list(range(1, 26))
    assert (*CLASSIC, "pristine") == RELEASE_CLASSES and set(CLASSIC) <= set(TYPES)
    for name, described in TYPES.items():
        assert described.name == name and described.title and described.parameter and described.source
        assert len(described.levels) == len(LEVELS) == len(set(described.levels))
    with pytest.raises(TypeError):
        TYPES["new"] = TYPES["jpeg"]  # type: ignore[index]


def test_the_page_tells_what_the_table_holds() -> None:
    page = (HERE.parent / "docs" / "distortions.md").read_text(encoding="utf-8")
    for described in TYPES.values():
        levels = ", ".join(f"{level:g}" for level in described.levels)
        numbers = [str(n) if n is not None else "" for n in (described.tid2013, described.kadid10k)]
        row = [f"`{described.name}`", described.title, *numbers, described.parameter, levels]
        assert f"| {' | '.join(row)} |" in page, described.name


@pytest.mark.parametrize("name", MADE)
def test_fractions_of_levels(name: str) -> None:
    described = TYPES[name]
    whole = [described.parameter_at(level) for level in LEVELS]
    assert tuple(whole) == described.levels == tuple(described.parameter_at(float(level)) for level in LEVELS)
    origin = described.neutral or 0
    for low, (a, b) in enumerate(pairwise(value - origin for value in whole), 1):
        early, late = (described.parameter_at(low + part) - origin for part in (0.25, 0.75))
        # In equal ratios, on the nearer level's side: four quarters of the way make the whole.
        assert (early / a) ** 4 == pytest.approx(abs(b / a)) and early / a > 0 and late / b > 0
        assert min(abs(a), abs(b)) < abs(early) < max(abs(a), abs(b))
    below, first, second = (described.parameter_at(level) - origin for level in (0.5, 1, 2))
    assert (first / below) ** 2 == pytest.approx(abs(second / first)) and first / below > 0
    clean = photograph("coffee", 64, 96)
    for level in (0.5, 1.5, 2.75, 4.5):
        made = distort(clean, name, level, seed=1)
        assert made.shape == clean.shape and made.dtype == np.uint8
        assert (distort(clean, name, np.float32(level), seed=1) == made).all()
    assert (distort(clean, name, 3.0, seed=1) == distort(clean, name, 3, seed=1)).all()


def test_damage_lies_between_levels_too() -> None:
    clean = photograph("coffee")
    for name in ("white_noise", "gaussian_blur", "jpeg", "jpeg2000"):
        damage = [colour_difference(clean, distort(clean, name, level)) for level in (0.5, 1, 1.5, 2, 3.5, 4.0, 4.5, 5)]
        assert damage == sorted(damage) and len(set(damage)) == len(damage)


def test_damage_between_levels_on_either_side_of_none_is_like_theirs() -> None:
    clean = photograph("coffee")
    sided = {described.name for described in TYPES.values() if described.neutral is not None}
    assert sided == {"mean_shift", "contrast_change", "saturation_change", "desaturation"}
    for name in sided:
        whole = [colour_difference(clean, distort(clean, name, level)) for level in LEVELS]
        for level in np.arange(1.1, 5, 0.2):
            damage = colour_difference(clean, distort(clean, name, float(level)))
            # Not quite between: one side is clipped where the other is not.
            assert 0.8 * whole[int(level) - 1] < damage < 1.4 * whole[int(level)], (name, level)


def test_jpeg2000_spends_on_luma_as_encoders_do() -> None:
    """With the colour transform the same bytes give a better picture than three planes coded apart."""
    clean = photograph("coffee")
    for level in LEVELS:
        file = io.BytesIO()
        ratio = TYPES["jpeg2000"].levels[level - 1]
        Image.fromarray(clean).save(file, "JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True)
        with Image.open(file) as image:
            apart = np.asarray(image.convert("RGB"))
        assert colour_difference(clean, distort(clean, "jpeg2000", level)) < colour_difference(clean, apart)


@pytest.mark.parametrize(
    ("image", "type", "level", "seed", "message"),
    [
        (np.zeros((9, 9, 3), np.uint8), "fog", 1, 0, "unknown type of distortion 'fog'; choose from white_noise"),
        (np.zeros((9, 9, 3), np.uint8), None, 1, 0, "unknown type of distortion None"),
        (np.zeros((9, 9, 3), np.uint8), "jpeg", 0, 0, "level is 0; pass a whole number from 1 to 5"),
        (np.zeros((9, 9, 3), np.uint8), "jpeg", 6, 0, "level is 6"),
        (np.zeros((9, 9, 3), np.uint8), "jpeg", 0.4, 0, "level is 0.4; pass a number from 0.5 to 5"),
        (np.zeros((9, 9, 3), np.uint8), "jpeg", 5.5, 0, "level is 5.5"),
        (np.zeros((9, 9, 3), np.uint8), "jpeg", float("nan"), 0, "level is nan"),
        (np.zeros((9, 9, 3), np.uint8), "jpeg", True, 0, "level is True"),
        (np.zeros((9, 9, 3), np.uint8), "jpeg", 1, -1, "seed is -1; pass a whole number of at least 0"),
        (np.zeros((9, 9), np.uint8), "jpeg", 1, 0, r"the image is uint8 \(9, 9\); pass a uint8 array"),
        (np.zeros((9, 9, 4), np.uint8), "jpeg", 1, 0, r"\(9, 9, 4\)"),
        (np.zeros((9, 9, 3), np.float32), "jpeg", 1, 0, "the image is float32"),
        ([[1, 2, 3]], "jpeg", 1, 0, "the image is list"),
        (np.zeros((0, 9, 3), np.uint8), "jpeg", 1, 0, "no pixels"),
    ],
)
def test_wrong_input(image: object, type: object, level: object, seed: object, message: str) -> None:
    with pytest.raises((DistortionError, ImageError), match=message) as caught:
        distort(image, type, level, seed=seed)  # type: ignore[arg-type]
    assert isinstance(caught.value, ValueError)


def test_a_codec_that_pillow_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    assert not available("avif") and available("jpeg")
    with pytest.raises(DistortionError, match="avif: this Pillow is built without the codec"):
        distort(np.zeros((9, 9, 3), np.uint8), "avif", 1)
    with pytest.raises(DistortionError, match="unknown type"):
        available("fog")


@pytest.mark.parametrize(("name", "width"), [("jpeg", 65501), ("jpeg_transmission", 65501), ("webp", 16384)])
def test_sides_longer_than_the_codec_takes(name: str, width: int) -> None:
    if available(name):
        with pytest.raises(DistortionError, match=rf"cannot code a picture of {width} x 2 pixels .*; crop"):
            distort(np.zeros((2, width, 3), np.uint8), name, 1)


def test_pictures_over_the_limit_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns beyond its limit and fails beyond twice of it, which a large photograph exceeds."""
    clean = photograph("coffee", 64, 64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for name in ("jpeg", "jpeg2000", "jpeg_transmission", "webp", "avif"):
        if available(name):
            assert distort(clean, name, 1).shape == clean.shape
    assert Image.MAX_IMAGE_PIXELS == 1000


def sent_as_jpeg(clean: NDArray[np.uint8]) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(clean).save(file, "JPEG", quality=90)
    with Image.open(file) as image:
        return np.asarray(image)


@pytest.mark.parametrize("name", ["jpeg_transmission", "jpeg2000_transmission"])
@pytest.mark.parametrize(
    ("photo", "height", "width"), [("coffee", 256, 256), ("coffee", 381, 565), ("chelsea", 290, 440)]
)
def test_transmission_errors_come_to_the_psnr_of_their_level(name: str, photo: str, height: int, width: int) -> None:
    """Of what the errors do, whatever the size."""
    clean = photograph(photo, height, width)
    assert clean.shape == (height, width, 3)
    sent = sent_as_jpeg(clean) if name == "jpeg_transmission" else clean
    for level, wanted in enumerate(TYPES[name].levels, 1):
        damaged = distort(clean, name, level, seed=level)
        found = 10 * np.log10(255**2 / np.mean((damaged.astype(float) - sent) ** 2))
        # Less damage where it is clipped, and where each further error would be too much.
        assert wanted - 0.5 < found < wanted + 3.5, level


@pytest.fixture
def progressive(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets how often the stream in which errors strike is a progressive one."""
    monkeypatch.setattr(_transmission, "_PROGRESSIVE_SHARE", request.param)


@pytest.mark.parametrize("progressive", [0.0], indirect=True)
@pytest.mark.usefixtures("progressive")
def test_errors_reach_no_further_than_the_next_restart_marker() -> None:
    """At most 4 units of 16 x 16 each, and a pixel more where chroma is interpolated."""
    clean = photograph("coffee", 256, 256)
    changed = (distort(clean, "jpeg_transmission", 1, seed=0) != sent_as_jpeg(clean)).any(2)
    # Without their rims intervals are hit or untouched; there are 64, 4 in each of 16 rows of units.
    hit = changed.reshape(16, 16, 4, 64)[:, 1:-1, :, 1:-1].any((1, 3))
    assert 1 <= hit.sum() < 32
    outside = np.repeat(np.repeat(~hit, 16, 0), 64, 1) & changed
    assert np.count_nonzero(outside) <= hit.sum() * 2 * (16 + 64)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("progressive", [1.0], indirect=True)
@pytest.mark.usefixtures("progressive")
def test_errors_in_a_progressive_stream_move_the_details_of_luminance_from_one_place_on(seed: int) -> None:
    clean = np.rint(30 + 0.75 * photograph("coffee", 256, 256)).astype(np.uint8)  # clipped nowhere
    pictures = sent_as_jpeg(clean), distort(clean, "jpeg_transmission", 2, seed=seed)
    sent, damaged = (to_ycc(picture) for picture in pictures)
    moved = (pictures[0] != pictures[1]).any(2).reshape(32, 8, 32, 8).any((1, 3))
    first = int(np.flatnonzero(moved.any(1))[0])
    assert 0 < first < 31
    assert moved[first + 1 :].mean() > 0.8
    # Where no channel is clipped, colour stays, and so do the mean and what is coarse in every block.
    unclipped = ((np.minimum(*pictures) > 0) & (np.maximum(*pictures) < 255)).all(2)
    assert np.abs(damaged - sent)[1:, unclipped].max() < 2
    before, after = (
        block_dct(planes[:1], 8).reshape(32, 8, 32, 8).swapaxes(1, 2).reshape(1024, 64) for planes in (sent, damaged)
    )
    coarse = [0, 1, 2, 8, 9, 16]
    whole = unclipped.reshape(32, 8, 32, 8).all((1, 3)).ravel()
    assert np.abs(before - after)[whole][:, coarse].max() < 4
    # The details of each block with some are those of one a few places off.
    before, after = (np.delete(blocks, coarse, axis=1) for blocks in (before, after))
    told = whole & moved.ravel() & (np.abs(after).max(1) > 30)
    apart = [np.abs(after - np.roll(before, shift, axis=0)).max(1) for shift in (*range(-8, 0), *range(1, 9))]
    assert told.sum() > 30
    assert np.abs(damaged - sent)[0].max() > 50
    assert (np.min(apart, axis=0)[told] < 12).mean() > 0.9


@pytest.mark.parametrize("progressive", [0.0, 1.0], indirect=True)
@pytest.mark.usefixtures("progressive")
def test_a_picture_that_no_error_harms_much() -> None:
    for name in ("jpeg_transmission", "jpeg2000_transmission"):
        made = distort(np.full((96, 96, 3), 128, np.uint8), name, 5)
        assert made.shape == (96, 96, 3)
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    for height, width in ((1, 1), (1, 40), (33, 2), (17, 35)):
        for level in LEVELS:
            piece = noise[:height, :width]
            assert distort(piece, "jpeg_transmission", level).shape == piece.shape


def test_denoising_takes_out_most_of_the_noise_that_was_there() -> None:
    clean = photograph("coffee", 256, 256).astype(float)
    for level, sigma in enumerate(TYPES["denoising"].levels, 1):
        error = distort(clean.astype(np.uint8), "denoising", level).astype(float) - clean
        assert error.std() < 0.65 * sigma
    flat = np.full((128, 128, 3), 128, np.uint8)
    left = distort(flat, "denoising", 5).astype(float)
    assert np.diff(left, axis=1).std() < 0.15 * TYPES["denoising"].levels[4]


def test_comfort_noise_is_as_strong_as_what_it_replaces_where_that_was() -> None:
    clean = photograph("astronaut", 256, 256)
    before, after = (to_ycc(picture)[0] for picture in (clean, distort(clean, "comfort_noise", 4)))
    details, noise = before - gaussian_filter(before, 1), after - gaussian_filter(after, 1)
    energies = [(plane.reshape(16, 16, 16, 16) ** 2).mean((1, 3)).ravel() for plane in (details, noise)]
    assert np.corrcoef(np.log1p(energies))[0, 1] > 0.9
    assert noise.std() == pytest.approx(details.std(), rel=0.1)
    assert np.corrcoef(details.ravel(), noise.ravel())[0, 1] < 0.5
    assert np.corrcoef([gaussian_filter(plane, 4).ravel() for plane in (before, after)])[0, 1] > 0.99
    flat = np.full((64, 64, 3), 90, np.uint8)
    assert (distort(flat, "comfort_noise", 5) == flat).all()


def test_a_noisy_picture_is_coded_without_borders_of_blocks() -> None:
    for seed in range(4):
        made = distort(photograph("coffee", 256, 256), "noisy_compression", 5, seed=seed).astype(float)
        steps = np.abs(np.diff(made, axis=1)).mean((0, 2))
        for side, near in ((8, 0.1), (16, 0.1), (32, 0.1), (64, 0.2)):  # fewer borders, more chance
            border = np.arange(len(steps)) % side == side - 1
            assert steps[border].mean() == pytest.approx(steps[~border].mean(), rel=near), (seed, side)


def test_thresholds_in_blocks_of_several_sizes_equal_those_of_one_after_the_other() -> None:
    random = np.random.default_rng(0)
    planes = random.normal(0, 20, (3, 61, 83)).astype(np.float32)
    threshold = np.array([60, 30, 45], np.float32)[:, np.newaxis, np.newaxis]
    blocks = [(32, (0, 0)), (16, (1, 3)), (8, (2, 2))]
    total, weights = np.zeros((2, 3, 61, 83))
    for size, quarters in blocks:
        begin = [size * quarter // 4 for quarter in quarters]
        padded = np.pad(planes, ((0, 0), (begin[0], size), (begin[1], size)), "symmetric").astype(np.float64)
        value, weight = np.zeros((2, *padded.shape))
        for plane, top, left in product(range(3), range(0, 61 + begin[0], size), range(0, 83 + begin[1], size)):
            here = np.s_[plane, top : top + size, left : left + size]
            found = dctn(padded[here], norm="ortho")
            found[np.abs(found) < threshold[plane, 0, 0]] = 0
            weight[here] = 1 / (1 + np.count_nonzero(found))
            value[here] = weight[here] * idctn(found, norm="ortho")
        inside = np.s_[:, begin[0] : begin[0] + 61, begin[1] : begin[1] + 83]
        total += value[inside]
        weights += weight[inside]
    assert np.abs(sparse(planes, threshold, blocks) - total / weights).max() < 1e-3
    assert np.abs(sparse(planes, 0.0, blocks) - planes).max() < 1e-3
    assert not sparse(planes, 1e6, blocks).any()


def test_sparse_sampling_keeps_what_is_coarse() -> None:
    clean = photograph("coffee", 256, 256)
    for level in LEVELS:
        made = distort(clean, "sparse_sampling", level)
        coarse = [plane.reshape(8, 32, 8, 32, 3).mean((1, 3)) for plane in (made.astype(float), clean.astype(float))]
        assert np.corrcoef([plane.ravel() for plane in coarse])[0, 1] > 0.99
        assert np.abs(coarse[0] - coarse[1]).mean() < 8
    grey = np.repeat(clean[..., :1], 3, axis=2)
    made = distort(grey, "sparse_sampling", 5)
    assert np.ptp(made, axis=2).max() <= 1  # a picture without colour gets none


def test_public_names() -> None:
    assert set(distortions.__all__) == {"CLASSIC", "LEVELS", "TYPES", "DistortionType", "available", "distort"}
