"""Exact overlap reuse: crops scored together give the bits that each gives alone, on every instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from meon_ext import _core, reference
from meon_ext.weights_io import Architecture

ISAS = _core.build_info()["instruction_sets_usable"]


@pytest.fixture
def rng() -> np.random.Generator:
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"numpy seed {seed}")  # shown when a test fails
    return np.random.default_rng(seed)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MEON_ISA", request.param)
    return str(request.param)


def random_tensors(rng: np.random.Generator, classes: int = 5) -> dict[str, NDArray[np.float32]]:
    """Weights that neither saturate nor die over four stages of raw pixels; gamma is asymmetric."""
    tensors = {}
    for name, shape in Architecture(num_classes=classes).expected_tensors().items():
        kind = name.rsplit(".", 1)[1]
        if kind == "weight":
            value = rng.normal(0, float(np.prod(shape[1:])) ** -0.5, shape)
        elif kind == "beta":
            value = rng.uniform(0.1, 2, shape)
        elif kind == "gamma":
            value = rng.uniform(0, 2 / shape[1], shape)
        else:
            value = rng.normal(0, 0.1, shape)
        tensors[name] = np.ascontiguousarray(value, np.float32)
    return tensors


def picture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Noise on ramps, with a flat part where windows tie."""
    ramp = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 90, width))[..., None]
    image = np.clip(ramp + rng.normal(0, 30, (height, width, 3)), 0, 255)
    image[: height // 3, : width // 2] = 77
    return image.astype(np.uint8)


def same_bits(a: tuple[NDArray[np.float32], ...], b: tuple[NDArray[np.float32], ...]) -> bool:
    return all(np.array_equal(x.view(np.uint32), y.view(np.uint32)) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("stride", [128, 64, 32, 16, 4, 100, 37, 1, 300])
def test_a_grid_gives_the_bits_of_each_crop_alone(isa: str, rng: np.random.Generator, stride: int) -> None:
    extent = 256 + min(stride * 3, 300)
    height, width = (int(n) for n in rng.integers(256, extent + 1, 2))
    if stride == 1:  # every lattice there is, without thousands of crops
        height, width = 256 + 9, 256 + 6
    image = picture(rng, height, width)
    net = _core.Network(random_tensors(rng))
    boxes = _core.crop_grid(height, width, stride=stride)
    together = net.forward_crops(image, boxes, 1)
    some = rng.choice(len(boxes), min(len(boxes), 25), replace=False)
    for k in some:
        alone = net.forward_crops(image, boxes[k : k + 1], 1)
        assert same_bits(alone, (together[0][k : k + 1], together[1][k : k + 1])), (height, width, boxes[k])
        cut = np.ascontiguousarray(image[boxes[k, 1] : boxes[k, 3], boxes[k, 0] : boxes[k, 2]])
        as_an_image = net.forward_crops(cut, _core.crop_grid(256, 256), 1)
        assert same_bits(as_an_image, alone), "a crop must be scored as if it stood alone"
    for threads in (2, 3, 16):
        assert same_bits(net.forward_crops(image, boxes, threads), together), threads


def test_scattered_and_repeated_boxes(isa: str, rng: np.random.Generator) -> None:
    image = picture(rng, 391, 517)
    net = _core.Network(random_tensors(rng))
    corners = np.stack([rng.integers(0, 517 - 255, 30), rng.integers(0, 391 - 255, 30)], axis=1)
    corners[10:20, 1] = corners[10, 1]  # a row of them
    corners[20:] = corners[:10]  # twice the same
    corners[5, 0] = corners[6, 0]
    boxes = np.concatenate([corners, corners + 256], axis=1).astype(np.int64)
    together = net.forward_crops(image, boxes, 2)
    for k in range(len(boxes)):
        alone = net.forward_crops(image, boxes[k : k + 1], 1)
        assert same_bits(alone, (together[0][k : k + 1], together[1][k : k + 1])), boxes[k]
    order = rng.permutation(len(boxes))
    shuffled = net.forward_crops(image, np.ascontiguousarray(boxes[order]), 3)
    assert same_bits(shuffled, (together[0][order], together[1][order]))


def test_wide_images_are_cut_into_strips(isa: str, rng: np.random.Generator) -> None:
    image = picture(rng, 300, 7300)
    net = _core.Network(random_tensors(rng))
    boxes = _core.crop_grid(300, 7300)
    together = net.forward_crops(image, boxes, 1)
    assert same_bits(net.forward_crops(image, boxes, 5), together)
    for k in rng.choice(len(boxes), 8, replace=False):
        alone = net.forward_crops(image, boxes[k : k + 1], 1)
        assert same_bits(alone, (together[0][k : k + 1], together[1][k : k + 1]))


@pytest.mark.parametrize("classes", [2, 5, 13])
def test_error_against_float64_is_that_of_plain_float32(isa: str, rng: np.random.Generator, classes: int) -> None:
    tensors = random_tensors(rng, classes)
    image = picture(rng, 256 + 51, 256 + 230)
    boxes = _core.crop_grid(*image.shape[:2], stride=51)
    raw, probabilities = _core.Network(tensors).forward_crops(image, boxes)
    assert raw.shape == (len(boxes),)
    assert probabilities.shape == (len(boxes), classes)
    crops = reference.extract_crops(torch.from_numpy(image), 256, 51, dtype=torch.float64)

    def plain(dtype: torch.dtype) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        with torch.no_grad():
            typed = {name: torch.from_numpy(value).to(dtype) for name, value in tensors.items()}
            quality, _, p, _ = reference.meon_forward(typed, crops.to(dtype))
        return quality.double().numpy(), p.double().numpy()

    exact, single = plain(torch.float64), plain(torch.float32)
    for name, ours, want, torchs in zip(("raw", "p"), (raw, probabilities), exact, single, strict=True):
        scale = np.abs(want).max()
        error, torch_error = (float(np.sqrt(np.mean((a - want) ** 2))) for a in (ours, torchs))
        # Both are sums of the same products in different orders, so their errors are of one size. Where an output
        # hardly depends on the sums (p close to 1), the rounding of the result remains.
        assert error <= 4 * torch_error + 2 * np.finfo(np.float32).eps * scale, (name, error, torch_error)


def test_odd_norms_take_the_exact_road(isa: str, rng: np.random.Generator) -> None:
    """A norm far outside the usual range in one channel must not be wrong."""
    tensors = random_tensors(rng)
    for stage in range(4):  # each scale is legal in a weights file
        tensors[f"stages.{stage}.beta"][:3] = [1e-37, 1e37, 1e-6]
        tensors[f"stages.{stage}.gamma"][:2] = 0
        tensors[f"stages.{stage}.weight"][0] *= 1e-18
        tensors[f"stages.{stage}.bias"][0] = 0
    image = picture(rng, 300, 300)
    boxes = _core.crop_grid(300, 300, stride=20)
    raw, _ = _core.Network(tensors).forward_crops(image, boxes)
    with torch.no_grad():
        typed = {name: torch.from_numpy(value).double() for name, value in tensors.items()}
        crops = reference.extract_crops(torch.from_numpy(image), 256, 20, dtype=torch.float64)
        want = reference.meon_forward(typed, crops)[0].numpy()
    assert np.isfinite(want).all()
    # Four stages and two heads, sums of at most 400 products; the scale of everything in between is about 1.
    assert np.abs(raw - want).max() <= 400 * np.finfo(np.float32).eps * max(1.0, float(np.abs(want).max()))


def test_odd_norms_do_not_disturb_their_neighbours(isa: str, rng: np.random.Generator) -> None:
    """Black leaves beta alone, far below the usual range, in the same vectors as norms of the usual road: which ones
    these are differs between a crop alone and one among others, and its bits must not."""
    tensors = random_tensors(rng)
    tensors["stages.0.bias"][:] = 0
    tensors["stages.0.beta"][:] = 1e-37
    image = picture(rng, 300, 420)
    for left in (90, 270):
        image[:, left : left + 20] = 0
    net = _core.Network(tensors)
    boxes = _core.crop_grid(300, 420, stride=20)
    together = net.forward_crops(image, boxes)
    assert np.isfinite(together[0]).all()
    for k in rng.choice(len(boxes), 12, replace=False):
        alone = net.forward_crops(image, boxes[k : k + 1])
        assert same_bits(alone, (together[0][k : k + 1], together[1][k : k + 1])), boxes[k]


def test_an_unknown_instruction_set_is_refused(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEON_ISA", "sse9")
    with pytest.raises(ValueError, match=r"MEON_ISA is 'sse9'.*portable"):
        _core.Network(random_tensors(rng))


def test_memory_does_not_grow_with_the_image() -> None:
    """In a fresh process, and by VmHWM: ru_maxrss begins at the peak of the parent, which is pytest with torch."""
    code = """
import re, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from test_overlap import random_tensors
from meon_ext import _core
net = _core.Network(random_tensors(np.random.default_rng(0)))
peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024
net.forward_crops(np.zeros((256, 256, 3), np.uint8), _core.crop_grid(256, 256), 2)
image = np.full((6000, 12000, 3), 90, np.uint8)
boxes = _core.crop_grid(6000, 12000)
before = peak()
net.forward_crops(image, boxes, 2)
print(peak() - before)
assert before > 200  # MiB: the image itself is seen
"""
    here = Path(__file__).parent  # not the checkout, whose folder meon_ext would hide the installed package
    ran = subprocess.run([sys.executable, "-c", code, str(here)], cwd=here, capture_output=True, text=True, check=True)
    assert float(ran.stdout) <= 64, "MiB over the decoded image"
