"""What is measured: the inputs, the networks, and every way of running them. For test_*.py and compare.py."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from meon_ext import ops, reference
from meon_ext._native import core
from meon_ext.model import MEON, MEONOutput
from meon_ext.modules import project_gdn_
from meon_ext.weights_io import CROP_SIZE, StageShape, WeightsFile, untrained_weights
from pictures import grid, photograph
from timing import Run

Way = Literal["eager", "eager channels_last", "compiled channels_last"]
WAYS: tuple[Way, ...] = ("eager", "eager channels_last", "compiled channels_last")
"""The ways of running plain PyTorch; "compiled" is torch.compile with inductor, its default."""

TRAINING_BATCH = 40
FORWARD_CROPS = 98  # 1920 x 1024 pixels at stride 128


class Unavailable(Exception):
    """A contender cannot run here; the message says why."""


# --- inputs -------------------------------------------------------------------------------------------------------


class Crops(NamedTuple):
    """The same crops as each contender likes them."""

    image: NDArray[np.uint8]  # (H, W, 3)
    boxes: NDArray[np.int64]  # (K, 4)
    floats: Tensor  # (K, 3, 256, 256), contiguous


def separate_crops(count: int) -> Crops:
    """Crops that do not overlap, so that nothing can be computed once for two of them."""
    columns = 14 if count % 14 == 0 else 1
    image = photograph(columns * CROP_SIZE, count // columns * CROP_SIZE)
    return crops_of(image, grid(image, CROP_SIZE))


def crops_of(image: NDArray[np.uint8], boxes: NDArray[np.int64]) -> Crops:
    views = [image[y0:y1, x0:x1] for x0, y0, x1, y1 in boxes.tolist()]
    floats = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float().contiguous()
    return Crops(image, boxes, floats)


def gdn_input(shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """x of that shape, beta (C,) and an asymmetric gamma (C, C)."""
    generator = torch.Generator().manual_seed(0)
    channels = shape[1]
    x = torch.randn(tuple(shape), generator=generator)
    beta = 0.5 + torch.rand(channels, generator=generator)
    return x, beta, torch.rand(channels, channels, generator=generator) / channels


class StageCase(NamedTuple):
    """One of MEON's stages with its input as the network would have it."""

    shape: StageShape
    x: Tensor  # (N, in_channels, side, side)
    parameters: tuple[Tensor, Tensor, Tensor, Tensor]  # weight, bias, beta, gamma


@functools.cache
def stage_cases(crops: int) -> tuple[StageCase, ...]:
    model = torch_model("reference")
    tensors = {name: tensor.detach() for name, tensor in model.effective_tensors().items()}
    x = separate_crops(crops).floats
    cases = []
    with torch.inference_mode():
        for i, stage in enumerate(model.stages):
            weight, bias, beta, gamma = (tensors[f"stages.{i}.{name}"] for name in ("weight", "bias", "beta", "gamma"))
            cases.append(StageCase(model.architecture.stages[i], x, (weight, bias, beta, gamma)))
            x = stage(x)
    return tuple(cases)


class OtherShape(NamedTuple):
    """A convolution with GDN behind it as learned image compression has them (Ballé, Laparra and Simoncelli, ICLR
    2017), and one with a pool."""

    batch: int
    channels: int  # in and out
    side: int
    kernel: int
    stride: int
    pool: int

    def __str__(self) -> str:
        sides = f"{self.batch} x {self.channels} x {self.side} x {self.side}"
        return f"{sides}, {self.kernel} x {self.kernel} / {self.stride}, pool {self.pool}"


OTHER_SHAPES = (OtherShape(4, 128, 64, 5, 2, 1), OtherShape(1, 192, 64, 5, 2, 1), OtherShape(4, 192, 32, 3, 1, 2))


# --- networks -----------------------------------------------------------------------------------------------------


@functools.cache
def weights() -> WeightsFile:
    """The paper's network, untrained: the time does not depend on the numbers."""
    return untrained_weights()


@functools.cache
def core_network() -> Any:
    return core().Network(dict(weights().tensors))


def torch_model(backend: Literal["fused", "reference"], channels_last: bool = False) -> MEON:
    model = MEON.from_weights(weights(), backend=backend)
    if channels_last:
        for parameter in model.parameters():
            parameter.data = laid_out(parameter.data, "eager channels_last")
    return model


def answer(model: MEON, crops: Tensor) -> MEONOutput:
    """The model's answer, with its type."""
    output: MEONOutput = model(crops)
    return output


def compiled(function: Callable[..., Any], backend: str = "inductor") -> Callable[..., Any]:
    """torch.compile for fixed shapes. Raises Unavailable where there is no compiler for inductor's C++."""
    compiler = os.environ.get("CXX", "g++")
    if backend == "inductor" and shutil.which(compiler) is None:
        raise Unavailable(f"needs the C++ compiler {compiler}")
    # All cases of an op share its code, and with it the limit. fullgraph makes reaching it an error: the default is
    # to go on in eager mode, which would be timed as compiled code.
    torch.compiler.config.recompile_limit = 64
    return torch.compile(function, dynamic=False, fullgraph=True, backend=backend)


# --- ways of running ----------------------------------------------------------------------------------------------


def plain(function: Callable[..., Any], way: Way, backend: str = "inductor") -> Callable[..., Any]:
    """A function of plain PyTorch, compiled where the way says so."""
    return compiled(function, backend) if way == "compiled channels_last" else function


def laid_out(x: Tensor, way: Way) -> Tensor:
    return x if way == "eager" or x.dim() != 4 else x.contiguous(memory_format=torch.channels_last)


def inference(function: Callable[..., Any], *arguments: Any, **options: Any) -> Run:
    """That call under inference mode."""

    def run() -> object:
        with torch.inference_mode():
            return function(*arguments, **options)

    return run


def core_forward(image: NDArray[np.uint8], boxes: NDArray[np.int64], threads: int) -> Run:
    network = core_network()
    return lambda: network.forward_crops(image, boxes, threads)[0]


def torch_forward(model: MEON, x: Tensor, batch: int, way: Way = "eager", backend: str = "inductor") -> Run:
    """Qualities of crops (N, 3, 256, 256), so many at a time; the model and x are laid out as the way says."""
    forward = plain(lambda crops: answer(model, crops).quality, way, backend)
    parts = torch.split(laid_out(x, way), batch)
    return inference(lambda: torch.cat([forward(part) for part in parts]))


def fused_photo(image: NDArray[np.uint8], boxes: NDArray[np.int64]) -> Run:
    model = torch_model("fused")
    pixels, places = torch.from_numpy(image), torch.from_numpy(boxes)
    return inference(lambda: model.forward_crops(pixels, places).quality)


def reference_photo(
    image: NDArray[np.uint8], boxes: NDArray[np.int64], batch: int, way: Way, backend: str = "inductor"
) -> Run:
    """Qualities of an image's crops in plain PyTorch, so many at a time.

    Crops are cut as bytes and made floats in the (compiled) function: a crop of an image lies in memory channels_last
    already, and this way inductor fuses the conversion.
    """
    model = torch_model("reference", channels_last=way != "eager")
    pixels = torch.from_numpy(image)
    parts = [boxes[start : start + batch].tolist() for start in range(0, len(boxes), batch)]

    def quality(crops: Tensor) -> Tensor:  # uint8 (n, 256, 256, 3)
        x = crops.permute(0, 3, 1, 2).float()
        return answer(model, x.contiguous() if way == "eager" else x).quality

    forward = plain(quality, way, backend)

    def run() -> Tensor:
        cut = (torch.stack([pixels[y0:y1, x0:x1] for x0, y0, x1, y1 in part]) for part in parts)
        return torch.cat([forward(crops) for crops in cut])

    return inference(run)


def other_stage(shape: OtherShape, ours: bool, way: Way, gradients: bool, backend: str = "inductor") -> Run:
    """``conv_gdn_pool`` over x as the way lays it out; with gradients, of x and of all parameters."""
    generator = torch.Generator().manual_seed(0)
    channels, kernel = shape.channels, shape.kernel
    x = torch.randn(shape.batch, channels, shape.side, shape.side, generator=generator)
    weight = torch.randn(channels, channels, kernel, kernel, generator=generator) / (channels * kernel**2) ** 0.5
    bias = 0.1 * torch.randn(channels, generator=generator)
    _, beta, gamma = gdn_input((1, channels))
    function: Callable[..., Tensor] = ops.conv_gdn_pool if ours else plain(reference.conv_gdn_pool, way, backend)
    inputs = [laid_out(x, way), laid_out(weight, way), bias, beta, gamma]
    options = (shape.stride, kernel // 2, shape.pool)
    if not gradients:
        return inference(function, *inputs, *options)
    for tensor in inputs:
        tensor.requires_grad_()
    grad = torch.ones_like(function(*inputs, *options))

    def run() -> Tensor:
        return torch.autograd.grad(function(*inputs, *options), inputs, grad)[0]

    return run


def training_step(model: MEON, way: Way = "eager", batch: int = TRAINING_BATCH, backend: str = "inductor") -> Run:
    """One step of the joint optimisation: forward, L1 quality loss and cross-entropy, backward, Adam, projection."""
    model = model.train()
    x = laid_out(separate_crops(batch).floats, way)
    generator = torch.Generator().manual_seed(0)
    quality = torch.rand(batch, generator=generator)
    types = torch.randint(5, (batch,), generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    forward = plain(model, way, backend)

    def step() -> Tensor:
        optimizer.zero_grad()
        answer = forward(x)
        loss = F.l1_loss(answer.quality, quality) + F.cross_entropy(answer.logits, types)
        torch.autograd.backward(loss)
        optimizer.step()
        project_gdn_(model)
        return loss.detach()

    return step
