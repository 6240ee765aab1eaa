"""The ops, each beside the same function in plain PyTorch."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from cases import (
    OTHER_SHAPES,
    WAYS,
    OtherShape,
    StageCase,
    Way,
    gdn_input,
    inference,
    laid_out,
    other_stage,
    plain,
    separate_crops,
    stage_cases,
)
from conftest import Measure
from meon_ext import ops, reference
from pictures import photograph
from timing import Run

CROPS = 16
# Learned compression's, then what MEON's stages have behind their convolutions.
GDN_SHAPES = (
    (1, 192, 64, 64),
    (16, 128, 32, 32),
    (CROPS, 8, 128, 128),
    (CROPS, 16, 32, 32),
    (CROPS, 32, 8, 8),
    (CROPS, 64, 2, 2),
)
CONTENDERS = ("ours", *WAYS)


def _gdn(shape: tuple[int, ...], contender: str, inductor: str) -> Run:
    x, beta, gamma = gdn_input(shape)
    if contender == "ours":
        return inference(ops.gdn, x, beta, gamma)
    way: Way = contender  # type: ignore[assignment]
    return inference(plain(reference.gdn, way, inductor), laid_out(x, way), beta, gamma)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("shape", GDN_SHAPES, ids=str)
def test_gdn(measure: Measure, inductor: str, shape: tuple[int, ...], contender: str) -> None:
    expected = functools.partial(reference.gdn, *gdn_input(shape))
    measure(f"gdn {shape}", lambda: _gdn(shape, contender, inductor), expected)


def _gdn_gradients(shape: tuple[int, ...], contender: str, inductor: str) -> Run:
    x, beta, gamma = gdn_input(shape)
    function = ops.gdn
    if contender != "ours":
        way: Way = contender  # type: ignore[assignment]
        x, function = laid_out(x, way), plain(reference.gdn, way, inductor)
    inputs = [tensor.requires_grad_() for tensor in (x, beta, gamma)]
    grad = torch.ones_like(x)

    def run() -> Tensor:
        return torch.autograd.grad(function(*inputs), inputs, grad)[0]

    return run


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("shape", GDN_SHAPES[:2], ids=str)
def test_gdn_forward_and_backward(measure: Measure, inductor: str, shape: tuple[int, ...], contender: str) -> None:
    expected = _gdn_gradients(shape, "eager", inductor)
    measure(f"gdn with gradients {shape}", lambda: _gdn_gradients(shape, contender, inductor), expected)


def _stage(case: StageCase, contender: str, inductor: str) -> Run:
    options = {"stride": case.shape.stride, "padding": case.shape.padding}
    if contender == "ours":
        return inference(ops.conv_gdn_pool, case.x, *case.parameters, **options)
    way: Way = contender  # type: ignore[assignment]
    weight, *rest = case.parameters
    function = plain(reference.conv_gdn_pool, way, inductor)
    return inference(function, laid_out(case.x, way), laid_out(weight, way), *rest, **options)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("stage", (1, 2, 3, 4))
def test_conv_gdn_pool(measure: Measure, inductor: str, stage: int, contender: str) -> None:
    case = stage_cases(CROPS)[stage - 1]
    expected = _stage(case, "eager", inductor)
    measure(f"conv_gdn_pool, stage {stage}, {CROPS} crops", lambda: _stage(case, contender, inductor), expected)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("gradients", (False, True), ids=("forward", "forward and backward"))
@pytest.mark.parametrize("shape", OTHER_SHAPES, ids=str)
def test_other_shapes(measure: Measure, inductor: str, shape: OtherShape, gradients: bool, contender: str) -> None:
    way: Way = "eager" if contender == "ours" else contender  # type: ignore[assignment]
    group = f"conv_gdn_pool {shape}{' with gradients' if gradients else ''}"
    expected = other_stage(shape, False, "eager", gradients)
    measure(group, lambda: other_stage(shape, contender == "ours", way, gradients, inductor), expected)


def _first_stage_of_crops(contender: str, inductor: str) -> Run:
    crops = separate_crops(CROPS)
    case = stage_cases(CROPS)[0]
    options = {"stride": case.shape.stride, "padding": case.shape.padding}
    image, boxes = torch.from_numpy(crops.image), torch.from_numpy(crops.boxes)
    if contender == "ours":
        return inference(ops.crop_conv_gdn_pool, image, boxes, *case.parameters, **options)
    way: Way = contender  # type: ignore[assignment]
    weight, *rest = case.parameters
    function = plain(reference.conv_gdn_pool, way, inductor)

    def stage(weight: Tensor) -> object:
        return function(laid_out(reference.gather_crops(image, boxes), way), weight, *rest, **options)

    return inference(stage, laid_out(weight, way))


@pytest.mark.parametrize("contender", CONTENDERS)
def test_crop_conv_gdn_pool(measure: Measure, inductor: str, contender: str) -> None:
    expected = _first_stage_of_crops("eager", inductor)
    measure(f"crop_conv_gdn_pool, {CROPS} crops", lambda: _first_stage_of_crops(contender, inductor), expected)


@pytest.mark.parametrize("contender", ("ours", "eager"))
def test_extract_crops(measure: Measure, contender: str) -> None:
    image = torch.from_numpy(photograph(768, 512))
    extract = ops.extract_crops if contender == "ours" else reference.extract_crops
    measure("extract_crops, 768 x 512", lambda: inference(extract, image), lambda: reference.extract_crops(image))
