"""From crops to a Score: pooling, votes and maps on made-up crops; the released network through every backend."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import meon_ext
from meon_ext import _backends, _prefetch
from meon_ext._core import crop_grid
from meon_ext._pooling import cover_mean, pool_raw, vote
from meon_ext._prefetch import decode_ahead
from meon_ext.errors import ImageError, MeonError, WeightsError
from meon_ext.images import LoadedImage, PendingImage
from meon_ext.scoring import Score, Scorer, score
from meon_ext.weights_io import Architecture, QualityMapping, WeightsFile, untrained_weights, write_weights

RISING = QualityMapping((0.0, 10.0), (0.0, 100.0))
FALLING = QualityMapping((0.0, 10.0), (100.0, 0.0))


def photograph(height: int = 384, width: int = 512, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth structure with some noise, so that crops differ."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + random.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


class FakeBackend:
    """Answers what it is told, whatever the picture."""

    name = "fake"
    device = "cpu"

    def __init__(self, raw: Sequence[float], probabilities: Sequence[Sequence[float]]) -> None:
        self.raw = np.array(raw, np.float32)
        self.probabilities = np.array(probabilities, np.float32).reshape(len(self.raw), -1)

    def forward_crops(self, pixels: NDArray[np.uint8], boxes: NDArray[np.int64]) -> Any:
        assert len(boxes) == len(self.raw)
        return self.raw, self.probabilities


def made_up(
    raw: Sequence[float], probabilities: Sequence[Sequence[float]], mapping: QualityMapping = RISING, **settings: Any
) -> Score:
    """The Score of a picture whose crops, in one row, were answered so."""
    scorer = Scorer(dataclasses.replace(untrained_weights(), mapping=mapping), **settings)
    scorer._backend = FakeBackend(raw, probabilities)
    return scorer.score(np.zeros((256, 256 + 128 * (len(raw) - 1), 3), np.uint8))


# Pooling and votes


def test_pool_mean() -> None:
    assert pool_raw(np.array([1, 2, 6], np.float32), "mean", False) == 3
    # In float32 the small values would vanish beside the large one.
    values = np.full(10_001, 2.0**-12, np.float32)
    values[0] = 2.0**13
    assert pool_raw(values, "mean", False) == (2.0**13 + 10_000 * 2.0**-12) / 10_001


@pytest.mark.parametrize(("lower_is_better", "worst", "fifth"), [(False, 0.0, 5.0), (True, 100.0, 95.0)])
def test_pool_min_and_p5_take_the_worse_end(lower_is_better: bool, worst: float, fifth: float) -> None:
    values = np.random.default_rng(0).permutation(101).astype(np.float32)
    assert pool_raw(values, "min", lower_is_better) == worst
    assert pool_raw(values, "p5", lower_is_better) == pytest.approx(fifth)


def test_pools_of_one_crop_agree() -> None:
    for pool in ("mean", "min", "p5"):
        assert pool_raw(np.array([4.5], np.float32), pool, True) == 4.5


def test_unknown_pool() -> None:
    with pytest.raises(ValueError, match="pool"):
        pool_raw(np.ones(3, np.float32), "max", False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pool"):
        Scorer(untrained_weights(), pool="max")  # type: ignore[arg-type]


def test_vote_is_by_majority_not_by_mean() -> None:
    # Class 0 has the larger mean, class 1 more crops.
    assert vote(np.array([[0.98, 0.02, 0], [0.4, 0.6, 0], [0.45, 0.55, 0]])) == 1


def test_vote_ties_go_to_the_larger_mean() -> None:
    assert vote(np.array([[0.6, 0.4, 0], [0.1, 0.9, 0]])) == 1
    # Class 2 has the largest mean of all but no vote.
    assert vote(np.array([[0.52, 0, 0.48], [0, 0.51, 0.49]])) == 0


def test_vote_ties_of_equal_mean_go_to_the_lower_index() -> None:
    assert vote(np.array([[0.0, 0.25, 0.75], [0.0, 0.75, 0.25]])) == 1
    assert vote(np.array([[0.5, 0.5, 0.0]])) == 0


def test_score_of_made_up_crops() -> None:
    probabilities = [[0.5, 0.2, 0.1, 0.1, 0.1], [0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1, 0.0]]
    result = made_up([1, 4, 10], probabilities)
    assert result.raw == 5
    assert result.quality == 50
    np.testing.assert_array_equal(result.crop_quality, [10, 40, 100])
    assert result.quality_std == pytest.approx(np.sqrt(1400))  # population: divided by 3
    assert result.distortion == "jpeg"
    assert result.probabilities["jpeg"] == pytest.approx(0.5)
    assert list(result.probabilities) == list(untrained_weights().classes)
    np.testing.assert_array_equal(result.crop_boxes[:, 0], [0, 128, 256])
    assert result.crop_probabilities.shape == (3, 5)


def test_quality_falls_where_the_raw_score_rises() -> None:
    kinds = [[1, 0, 0, 0, 0]] * 3
    worst = made_up([1, 4, 9], kinds, FALLING, pool="min")
    assert worst.raw == 9
    assert worst.quality == pytest.approx(10)
    best_is_high = made_up([1, 4, 9], kinds, RISING, pool="min")
    assert best_is_high.raw == 1
    assert best_is_high.quality == pytest.approx(10)


def test_quality_is_the_mapped_raw_value_not_the_mean_of_mapped_crops() -> None:
    result = made_up([-10, 10], [[1, 0, 0, 0, 0]] * 2)  # the first crop is off the scale
    assert (result.raw, result.quality) == (0, 0)
    assert result.crop_quality.tolist() == [0, 100]


def test_network_values_that_are_not_finite() -> None:
    with pytest.raises(MeonError, match="not finite"):
        made_up([1, float("nan")], [[1, 0, 0, 0, 0]] * 2)
    with pytest.raises(MeonError, match="not finite"):
        made_up([1], [[1, 0, 0, 0, float("nan")]])


def test_model_without_types() -> None:
    weights = WeightsFile({}, (), Architecture(0, task="single"), mapping=RISING)
    scorer = Scorer(untrained_weights())
    scorer.weights = weights
    scorer._backend = FakeBackend([2, 4], np.zeros((2, 0)).tolist())
    result = scorer.score(np.zeros((256, 384, 3), np.uint8))
    assert result.distortion is None
    assert result.probabilities == {}
    assert result.crop_probabilities.shape == (2, 0)
    assert result.quality == 30


# Maps and dictionaries


def naive_cover_mean(
    boxes: NDArray[np.int64], values: NDArray[np.float64], height: int, width: int
) -> NDArray[np.float64]:
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for (left, top, right, bottom), value in zip(boxes, values, strict=True):
        total[top:bottom, left:right] += value
        count[top:bottom, left:right] += 1
    with np.errstate(invalid="ignore"):
        return total / count


@given(
    corners=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20)), min_size=1, max_size=8),
    size=st.integers(1, 15),
    seed=st.integers(0, 99),
)
def test_cover_mean_is_the_mean_of_what_covers(corners: list[tuple[int, int]], size: int, seed: int) -> None:
    boxes = np.array([(x, y, x + size, y + size) for x, y in corners], np.int64)
    values = np.random.default_rng(seed).random(len(boxes)) * 100
    found = cover_mean(boxes, values, np.arange(40), np.arange(50))
    np.testing.assert_allclose(found, naive_cover_mean(boxes, values, 40, 50), rtol=1e-6, atol=1e-5)


def test_quality_map() -> None:
    result = Scorer(untrained_weights()).score(photograph(500, 700))
    whole = result.quality_map()
    assert whole.dtype == np.float32
    assert whole.shape == (500, 700)
    expected = naive_cover_mean(result.crop_boxes, result.crop_quality, 500, 700)
    np.testing.assert_allclose(whole, expected, rtol=1e-6)
    coarse = result.quality_map(cell=64)
    assert coarse.shape == (8, 11)
    np.testing.assert_array_equal(coarse[:7, :10], whole[32::64, 32::64][:7, :10])
    np.testing.assert_array_equal(result.quality_map(cell=5000), [[whole[-1, -1]]])
    with pytest.raises(ValueError, match="cell"):
        result.quality_map(cell=0)


def test_quality_map_of_a_padded_picture_has_its_own_size() -> None:
    result = Scorer(untrained_weights()).score(photograph(100, 400))
    assert result.meta["padded"]
    assert result.quality_map().shape == (100, 400)
    assert np.isfinite(result.quality_map()).all()


def test_quality_map_has_gaps_where_no_crop_lies() -> None:
    result = Scorer(untrained_weights(), stride=400).score(photograph(256, 656))
    gaps = np.isnan(result.quality_map())
    assert gaps[:, 256:400].all()
    assert not gaps[:, :256].any() and not gaps[:, 400:].any()


def test_quality_map_of_a_large_picture_is_cheap() -> None:
    result = Scorer(untrained_weights()).score(photograph())
    boxes = crop_grid(10_000, 10_000)
    large = dataclasses.replace(
        result,
        crop_boxes=boxes,
        crop_quality=np.ones(len(boxes)),
        meta={**result.meta, "height": 10_000, "width": 10_000},
    )
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(large.quality_map(cell=100), np.ones((100, 100)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000 * 10_000  # a byte a pixel, where the whole map would have four


def test_to_dict_survives_json() -> None:
    result = Scorer(untrained_weights()).score(photograph(), name="a name")
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["quality"] == result.quality
    assert plain["crop_boxes"] == result.crop_boxes.tolist()
    assert plain["crop_probabilities"][0] == pytest.approx(result.crop_probabilities[0].tolist())
    assert plain["meta"]["name"] == "a name"


def test_meta() -> None:
    meta = Scorer(untrained_weights(), stride=100, pool="p5").score(photograph(384, 512)).meta
    assert meta == {
        "name": "<array>",
        "width": 512,
        "height": 384,
        "padded": False,
        "crops": 12,
        "stride": 100,
        "pool": "p5",
        "model": "untrained",
        "model_sha256": "",
        "score_name": "untrained",
        "lower_is_better": False,
        "backend": "core",
        "device": "cpu",
        "word": None,
    }


@pytest.mark.parametrize("backend", ["auto", "fused"])
def test_a_scorer_goes_to_another_process(backend: str) -> None:
    """As to the workers of a pool, which do not inherit it where they are not forked."""
    settings: dict[str, Any] = {"stride": 64, "pool": "min", "threads": 1, "batch_size": 3, "max_pixels": 400 * 400}
    scorer = Scorer(untrained_weights(), backend=backend, **settings)
    image = photograph(300, 400)
    want = scorer.score(image)
    for twin in (pickle.loads(pickle.dumps(scorer)), copy.deepcopy(scorer)):
        got = twin.score(image)
        assert identical(got, want) and got.meta == want.meta
        with pytest.raises(ImageError, match="pixels"):
            twin.score(np.zeros((401, 400, 3), np.uint8))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(scorer.score, image).result().raw == want.raw


def test_words() -> None:
    weights = dataclasses.replace(untrained_weights(), words=(("good", 60.0), ("fair", 40.0), ("bad", 0.0)))
    assert [weights.word(q) for q in (100, 60, 59.999, 40, 39.0, 0)] == ["good", "good", "fair", "fair", "bad", "bad"]
    result = Scorer(weights).score(photograph())
    assert result.word == weights.word(result.quality) == result.to_dict()["meta"]["word"]


# Settings


@pytest.mark.parametrize(
    "settings",
    [
        {"stride": 0},
        {"stride": 1 << 31},
        {"threads": -1},
        {"threads": 1 << 31},
        {"batch_size": 0},
        {"backend": "cuda"},
        {"device": "gpu"},
        {"device": "cuda:first"},
        {"device": "cuda:"},
        {"device": "cuda", "backend": "core"},
        {"max_pixels": 0},
    ],
)
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Scorer(untrained_weights(), **settings)


def test_missing_weights_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere"):
        Scorer(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("a", "b")}, "classes names 2 outputs of a network that has 5"),
        ({"input": "BGR 0..255"}, "input is 'BGR 0..255'"),
        ({"words": (("bad", 0.0), ("good", 60.0))}, "words .* must go down to 0"),
        ({"tensors": {}}, r"'stages\.0\.weight' is missing"),
    ],
)
def test_weights_from_no_file_are_checked_too(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=f"^mine: .*{message}"):
        Scorer(dataclasses.replace(untrained_weights(), name="mine", **changes))


def test_max_pixels() -> None:
    with pytest.raises(ImageError, match="limit of 1000"):
        Scorer(untrained_weights(), max_pixels=1000).score(photograph())


def test_variants_need_torch_and_run_there() -> None:
    pytest.importorskip("torch")
    weights = meon_ext.MEON(activation="relu", task="multitask", width=2, batch_norm=True).to_weights()
    scorer = Scorer(weights)
    assert scorer.backend == "fused"
    fused = scorer.score(photograph())
    reference = Scorer(weights, backend="reference").score(photograph())
    assert fused.raw == pytest.approx(reference.raw, rel=1e-4, abs=1e-4)
    with pytest.raises(ValueError, match="backend core"):
        Scorer(weights, backend="core")
    single = Scorer(meon_ext.MEON(task="single").to_weights(), backend="reference").score(photograph())
    assert single.distortion is None
    assert single.crop_probabilities.shape == (len(single.crop_boxes), 0)


@pytest.mark.parametrize("activation", ["gdn", "relu"])
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_a_caller_s_autocast_does_not_change_the_score(backend: str, activation: Any) -> None:
    torch = pytest.importorskip("torch")
    scorer = Scorer(meon_ext.MEON(activation=activation).to_weights(), backend=backend, device="cpu")
    expected = scorer.score(photograph()).raw
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert scorer.score(photograph()).raw == expected


def test_cuda_that_is_not_there() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(MeonError, match="use device cpu"):
        Scorer(untrained_weights(), device="cuda")
    assert Scorer(untrained_weights(), backend="reference").device == "cpu"


def test_a_cuda_device_of_a_number_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(MeonError, match="device cuda:2 was asked for, but there are 2, the last of them cuda:1"):
        Scorer(untrained_weights(), device="cuda:2")


def test_torch_thread_count_is_put_back() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    scorer = Scorer(untrained_weights(), backend="reference", threads=before + 1)
    seen = []
    forward_crops = scorer._backend._model.forward_crops  # type: ignore[attr-defined]

    def spying(*arguments: Any) -> Any:
        seen.append(torch.get_num_threads())
        return forward_crops(*arguments)

    scorer._backend._model.forward_crops = spying  # type: ignore[attr-defined]
    scorer.score(photograph())
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


# The same answer always


BACKENDS = ("core", "fused", "reference")


@pytest.fixture(scope="module")
def release(shared_data: Path) -> Path:
    return shared_data / "meon_release"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_released_network_gives_the_released_scores(release: Path, backend: str, batch_size: int) -> None:
    if backend != "core":
        pytest.importorskip("torch")
    scorer = Scorer(release / "meon_release.safetensors", backend=backend, batch_size=batch_size)
    assert scorer.backend == backend
    expected = json.loads((release / "expected.json").read_text())
    for name in ("demo_1.png", "demo_3.png"):
        result = scorer.score(release / name)
        assert result.raw == pytest.approx(expected[name]["dmos"], abs=1e-3)
        assert result.quality == pytest.approx(100 - expected[name]["dmos"], abs=1e-3)
        assert result.distortion == expected[name]["label"]
        assert result.meta["lower_is_better"]


def identical(one: Score, other: Score) -> bool:
    return (
        (one.quality, one.raw, one.quality_std) == (other.quality, other.raw, other.quality_std)
        and np.array_equal(one.crop_quality, other.crop_quality)
        and np.array_equal(one.crop_probabilities, other.crop_probabilities)
        and one.probabilities == other.probabilities
    )


def test_core_does_not_depend_on_threads_batches_or_earlier_calls() -> None:
    weights, image = untrained_weights(), photograph(600, 700)
    first = Scorer(weights, threads=1).score(image)
    scorer = Scorer(weights)
    for _ in range(2):
        assert identical(scorer.score(image), first)
        scorer.score(photograph(seed=5))
    for threads in (2, 3, 5, 16):
        assert identical(Scorer(weights, threads=threads).score(image), first)
    for batch_size in (1, 7):
        assert identical(Scorer(weights, batch_size=batch_size).score(image), first)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_torch_backends_depend_on_batches_only_within_rounding(backend: str) -> None:
    pytest.importorskip("torch")
    # The paper's network is one op where it is fused.
    weights = untrained_weights() if backend == "reference" else meon_ext.MEON(activation="relu").to_weights()
    image = photograph(384, 640)
    first = Scorer(weights, backend=backend, device="cpu").score(image)
    for batch_size in (1, 7):
        other = Scorer(weights, backend=backend, device="cpu", batch_size=batch_size).score(image)
        np.testing.assert_allclose(other.crop_quality, first.crop_quality, atol=1e-3)
        np.testing.assert_allclose(other.crop_probabilities, first.crop_probabilities, atol=1e-5)
        assert identical(Scorer(weights, backend=backend, device="cpu", batch_size=batch_size).score(image), other)


def test_fused_gives_the_bits_of_core_whatever_the_batches() -> None:
    pytest.importorskip("torch")
    weights, image = untrained_weights(), photograph(400, 700)
    first = Scorer(weights).score(image)
    for batch_size in (None, 1, 3, 9, 1000):
        assert identical(Scorer(weights, backend="fused", device="cpu", batch_size=batch_size).score(image), first)


@pytest.mark.parametrize(
    ("rows", "columns", "limit"), [(1, 1, 1), (4, 7, 1), (4, 7, 6), (4, 7, 15), (4, 7, 28), (9, 2, 5)]
)
def test_parts_of_a_grid_hold_every_crop_once(rows: int, columns: int, limit: int) -> None:
    seen = np.zeros((rows, columns), int)
    for part in _backends._grid_parts(rows, columns, limit):
        seen[part] += 1
        assert 0 < seen[part].size <= limit
    assert (seen == 1).all()


def test_only_grids_of_crops_are_taken_for_grids() -> None:
    boxes = crop_grid(600, 700)
    assert _backends._as_grid(boxes) == ((0, 128, 256, 344), (0, 128, 256, 384, 444))
    assert _backends._as_grid(boxes[:0]) is None
    assert _backends._as_grid(boxes[:5]) == ((0,), (0, 128, 256, 384, 444))
    for other in (boxes[:-1], boxes[::-1], boxes[[0, 6]], boxes + np.array([0, 0, 0, 1])):
        assert _backends._as_grid(np.ascontiguousarray(other)) is None
    weights, image = untrained_weights(), photograph(600, 700)
    scattered = np.ascontiguousarray(boxes[[3, 7, 12]])
    some, every = (
        _backends.TorchBackend(weights, "fused", "cpu", 0, None).forward_crops(image, b) for b in (scattered, boxes)
    )
    for a, b in zip(some, every, strict=True):
        np.testing.assert_allclose(a, b[[3, 7, 12]], rtol=1e-4, atol=1e-4)
    none = _backends.TorchBackend(weights, "fused", "cpu", 0, None).forward_crops(image, boxes[:0])
    assert [part.shape for part in none] == [(0,), (0, len(weights.classes))]


def test_scorer_from_several_threads() -> None:
    scorer = Scorer(untrained_weights())
    pictures = [photograph(seed=seed) for seed in range(4)]
    expected = [scorer.score(picture) for picture in pictures]
    wrong: list[int] = []

    def work(index: int) -> None:
        wrong.extend(index for _ in range(3) if not identical(scorer.score(pictures[index]), expected[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Images in


def test_every_kind_of_image_gives_the_same_score(tmp_path: Path) -> None:
    scorer = Scorer(untrained_weights())
    pixels = photograph()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(file.getvalue())
    first = scorer.score(pixels)
    for image in (path, str(path), file.getvalue(), Image.open(path)):
        assert identical(scorer.score(image), first)
    read_only = pixels.copy()
    read_only.flags.writeable = False
    assert identical(scorer.score(read_only), first)


def test_tensors_and_batches() -> None:
    torch = pytest.importorskip("torch")
    scorer = Scorer(untrained_weights())
    pictures = [photograph(seed=seed) for seed in range(3)]
    expected = [scorer.score(picture) for picture in pictures]
    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    single = scorer.score(batch[1])
    assert isinstance(single, Score)
    assert identical(single, expected[1])
    scores = scorer.score(batch.float() / 255, data_range=1.0, name="batch")
    assert isinstance(scores, list)
    assert [identical(a, b) for a, b in zip(scores, expected, strict=True)] == [True] * 3
    assert scores[2].meta["name"] == "batch[2]"
    assert scorer.score(batch[:0]) == []


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_torch_backends_agree_with_the_core(backend: str) -> None:
    pytest.importorskip("torch")
    pixels = photograph(300, 500)
    pixels.flags.writeable = False  # as decoded pictures may be; torch would warn
    core = Scorer(untrained_weights()).score(pixels)
    other = Scorer(untrained_weights(), backend=backend, device="cpu").score(pixels)
    np.testing.assert_allclose(other.crop_quality, core.crop_quality, atol=1e-3)
    np.testing.assert_allclose(other.crop_probabilities, core.crop_probabilities, atol=1e-5)


# Many images


def files(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{index}.png" for index in range(count)]
    for index, path in enumerate(paths):
        Image.fromarray(photograph(256, 300 + index, seed=index)).save(path)
    return paths


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_score_many_keeps_the_order(tmp_path: Path, ahead: int) -> None:
    scorer = Scorer(untrained_weights())
    paths = files(tmp_path, 7)
    expected = [scorer.score(path) for path in paths]
    results = list(scorer.score_many(paths, ahead=ahead))
    assert [identical(a, b) for a, b in zip(results, expected, strict=True)] == [True] * 7


@pytest.mark.parametrize("ahead", [0, 2])
def test_score_many_returns_errors_in_place(tmp_path: Path, ahead: int) -> None:
    paths = files(tmp_path, 5)
    paths[1].write_bytes(b"no picture")
    paths[3].write_bytes(paths[3].read_bytes()[:-2000])
    results = list(Scorer(untrained_weights()).score_many(paths, on_error="return", ahead=ahead))
    assert [type(result) for result in results] == [Score, ImageError, Score, ImageError, Score]
    assert str(paths[3]) in str(results[3])


def test_score_many_raises_in_place(tmp_path: Path) -> None:
    paths = files(tmp_path, 4)
    paths[2].unlink()
    results = Scorer(untrained_weights()).score_many(paths)
    assert [next(results).meta["width"] for _ in range(2)] == [300, 301]
    with pytest.raises(ImageError, match="no such file"):
        next(results)
    with pytest.raises(ValueError, match="on_error"):
        Scorer(untrained_weights()).score_many(paths, on_error="ignore")  # type: ignore[call-overload]


def test_score_many_without_lookahead_takes_one_image_at_a_time() -> None:
    taken = []

    def pictures() -> Iterator[NDArray[np.uint8]]:
        for index in range(3):
            taken.append(index)
            yield photograph(256, 256, seed=index)

    results = Scorer(untrained_weights()).score_many(pictures(), ahead=0)
    assert taken == []
    next(results)
    assert taken == [0]


def test_score_many_passes_data_range_on() -> None:
    floats = photograph().astype(np.float32) / 255
    (result,) = Scorer(untrained_weights()).score_many([floats], data_range=1.0)
    assert identical(result, Scorer(untrained_weights()).score(photograph()))


def test_decoding_ahead_is_bounded_in_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_prefetch, "PIXELS_AHEAD", 100)
    opened: list[int] = []

    def open_image(pixels: int) -> PendingImage:
        opened.append(pixels)
        blank = LoadedImage(np.zeros((1, 1, 3), np.uint8), pixels, 1, False, "")
        return PendingImage(pixels, lambda: blank)

    results = decode_ahead(iter([60, 30, 60, 500, 10, 10, 10]), open_image, 4)
    seen = []
    for result in results:
        assert isinstance(result, LoadedImage)
        seen.append((result.width, len(opened)))
    # The third did not fit beside the first two, the fourth beside none, so each was only opened; the rest all fit.
    assert seen == [(60, 3), (30, 4), (60, 4), (500, 5), (10, 7), (10, 7), (10, 7)]


def test_threads_of_an_abandoned_run_end(tmp_path: Path) -> None:
    results = Scorer(untrained_weights()).score_many(files(tmp_path, 6), ahead=3)
    next(results)
    results.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 20
    while any(thread.name.startswith("meon-decode") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


# The module's own function


def test_score_function_keeps_the_last_scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    write_weights(path, untrained_weights())
    made = []
    original = Scorer.__init__

    def counting(self: Scorer, *arguments: Any, **settings: Any) -> None:
        made.append(settings)
        original(self, *arguments, **settings)

    monkeypatch.setattr(Scorer, "__init__", counting)
    image = photograph()
    first = score(image, model=path)
    assert identical(score(image, model=str(path)), first)
    assert identical(meon_ext.score(image, model=path), first)
    assert len(made) == 1
    assert score(image, model=path, stride=64).meta["crops"] > first.meta["crops"]
    assert score(image, model=path, pool="min").quality < first.quality
    assert len(made) == 3
    score(image, model=untrained_weights())
    score(image, model=untrained_weights())  # another object, though equal
    assert len(made) == 5


def test_score_function_notices_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_weights(path, untrained_weights())
    before = score(photograph(), model=path)
    other = untrained_weights()
    tensors = {name: tensor * np.float32(1.5) for name, tensor in other.tensors.items()}
    write_weights(path, dataclasses.replace(other, tensors=tensors))
    os.utime(path, ns=(1, 1))
    assert score(photograph(), model=path).raw != before.raw


def test_scoring_on_the_core_imports_no_torch(tmp_path: Path) -> None:
    write_weights(tmp_path / "a.safetensors", untrained_weights())
    Image.fromarray(photograph()).save(tmp_path / "a.png")
    code = (
        "import sys, meon_ext\n"
        "print(meon_ext.score('a.png', model='a.safetensors').meta['backend'], 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.split() == ["core", "False"]


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
def test_pillows_pixels_are_gone_while_the_network_runs(tmp_path: Path, suffix: str) -> None:
    """Pillow keeps 4 bytes a pixel, which would more than double what a picture takes."""
    code = """
import re, sys
from meon_ext import Scorer
from meon_ext.weights_io import untrained_weights

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

scorer = Scorer(untrained_weights(), threads=2)
run, seen = scorer._backend.forward_crops, []
scorer._backend.forward_crops = lambda *inputs: (seen.append(resident() - inputs[0].nbytes), run(*inputs))[1]
for name in ("small.", "large."):
    list(scorer.score_many([name + sys.argv[1]]))
print(seen[1] - seen[0])
"""
    large = Image.new("RGB", (4000, 3000), (10, 90, 200))
    large.resize((300, 300)).save(tmp_path / f"small.{suffix}")
    large.save(tmp_path / f"large.{suffix}")
    command = [sys.executable, "-c", code, suffix]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 4000 * 3000 * 4 / 2, "bytes over the picture itself"


def test_released_weights_by_path_in_another_folder(release: Path, tmp_path: Path) -> None:
    shutil.copy(release / "meon_release.safetensors", tmp_path / "renamed.safetensors")
    result = score(release / "demo_1.png", model=tmp_path / "renamed.safetensors")
    assert result.meta["model"] == "renamed"
    assert result.meta["score_name"] == "DMOS"
