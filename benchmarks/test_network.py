"""The whole network over crops and over photographs, and a training step, beside plain PyTorch."""

from __future__ import annotations

import functools
from typing import Literal

import pytest

from cases import (
    FORWARD_CROPS,
    TRAINING_BATCH,
    WAYS,
    Crops,
    Way,
    core_forward,
    fused_photo,
    reference_photo,
    separate_crops,
    torch_forward,
    torch_model,
    training_step,
)
from conftest import Measure
from machine import usable_processors
from pictures import LARGE, SMALL, grid, photograph
from timing import Run

OURS = ("core, 1 thread", "core, all threads", "fused ops")


@functools.cache
def _crops() -> Crops:
    return separate_crops(FORWARD_CROPS)


def _core(contender: str) -> Run:
    return core_forward(_crops().image, _crops().boxes, 1 if "1 thread" in contender else usable_processors())


def _torch(way: Way, backend: Literal["fused", "reference"], batch: int, inductor: str) -> Run:
    model = torch_model(backend, channels_last=way != "eager")
    return torch_forward(model, _crops().floats, batch, way, inductor)


@pytest.mark.parametrize("contender", OURS)
def test_forward_ours(measure: Measure, inductor: str, contender: str) -> None:
    def make() -> Run:
        return _torch("eager", "fused", FORWARD_CROPS, inductor) if contender == "fused ops" else _core(contender)

    measure(f"forward, {FORWARD_CROPS} crops", make)


@pytest.mark.parametrize("batch", (FORWARD_CROPS, 14, 16), ids=lambda batch: f"{batch} at a time")
@pytest.mark.parametrize("way", WAYS)
def test_forward_reference(measure: Measure, inductor: str, way: Way, batch: int) -> None:
    expected = _core("core, all threads")
    measure(f"forward, {FORWARD_CROPS} crops", lambda: _torch(way, "reference", batch, inductor), expected)


_PHOTOS = {
    "512 x 384": (SMALL, 6),
    "768 x 512": ((768, 512), 15),
    "12 megapixels": (LARGE, 16),
}


@pytest.mark.benchmark(min_rounds=3)  # the slowest takes seconds
@pytest.mark.parametrize("contender", (*OURS, *WAYS))
@pytest.mark.parametrize("photo", _PHOTOS)
def test_photo(measure: Measure, inductor: str, quick: bool, photo: str, contender: str) -> None:
    size, batch = _PHOTOS[photo]
    if quick and size == LARGE:
        size = (1280, 768)  # the same code over fewer crops
    image = photograph(*size)
    boxes = grid(image)

    def make() -> Run:
        if contender.startswith("core"):
            return core_forward(image, boxes, 1 if "1 thread" in contender else usable_processors())
        if contender == "fused ops":
            return fused_photo(image, boxes)
        way: Way = contender  # type: ignore[assignment]
        return reference_photo(image, boxes, batch, way, inductor)

    measure(f"photo, {size[0]} x {size[1]}", make, core_forward(image, boxes, usable_processors()))


@pytest.mark.benchmark(min_rounds=3)
@pytest.mark.parametrize("contender", ("ours", *WAYS))
def test_training_step(measure: Measure, inductor: str, quick: bool, contender: str) -> None:
    batch = 4 if quick else TRAINING_BATCH

    def make() -> Run:
        if contender == "ours":
            return training_step(torch_model("fused"), batch=batch)
        way: Way = contender  # type: ignore[assignment]
        return training_step(torch_model("reference", channels_last=way != "eager"), way, batch, inductor)

    measure(f"training step, batch {batch}", make)
