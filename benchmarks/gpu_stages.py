"""conv_gdn_pool for the stages of MEON, and the whole network, on a CUDA device beside plain PyTorch. A section of
gpu.py."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gpu_timing import DTYPES, Function, attempt, compiled, errors, median_ms, run, times
from meon_ext import MEON, ops, reference

# in, out, kernel, stride, padding, side of a crop's input
STAGES = [(3, 8, 5, 2, 2, 256), (8, 16, 5, 2, 2, 64), (16, 32, 5, 2, 2, 16), (32, 64, 3, 1, 0, 4)]
CROPS, TRAINING_BATCH = 98, 40
NAMES = ("y", "grad_x", "grad_weight", "grad_bias", "grad_beta", "grad_gamma")


def make(stage: int, batch: int, side: int, dtype: torch.dtype, channels_last: bool) -> tuple[list[Tensor], Tensor]:
    """x, weight, bias, beta, gamma and a gradient of y, on the device."""
    cin, cout, kernel, stride, padding, _ = STAGES[stage]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, cin, side, side, generator=generator)
    weight = torch.randn(cout, cin, kernel, kernel, generator=generator) / (cin * kernel * kernel) ** 0.5
    bias, beta = (0.1 + torch.rand(cout, generator=generator) for _ in range(2))
    gamma = torch.rand(cout, cout, generator=generator) / cout
    out = ((side + 2 * padding - kernel) // stride + 1) // 2
    grad = torch.randn(batch, cout, out, out, generator=generator)
    *inputs, grad = (t.to("cuda", dtype) for t in (x, weight, bias, beta, gamma, grad))
    if channels_last:
        inputs[:2] = (t.contiguous(memory_format=torch.channels_last) for t in inputs[:2])
        grad = grad.contiguous(memory_format=torch.channels_last)
    return inputs, grad


def of_stage(module: Any, stage: int) -> Function:
    *_, stride, padding, _ = STAGES[stage]
    return functools.partial(module.conv_gdn_pool, stride=stride, padding=padding)


def timing_rows() -> Iterator[dict[str, Any]]:
    for stage, (*_, side) in enumerate(STAGES):
        for dtype_name, dtype in DTYPES.items():
            plain = of_stage(reference, stage)
            candidates = {
                "meon_ext": (of_stage(ops, stage), False),
                "eager": (plain, False),
                "eager channels_last": (plain, True),
                "torch.compile": (compiled(plain), False),
                "torch.compile channels_last": (compiled(plain), True),
            }
            row: dict[str, Any] = {"op": "conv_gdn_pool", "stage": stage + 1, "crops": CROPS, "dtype": dtype_name}
            for name, (f, channels_last) in candidates.items():
                inputs, grad = make(stage, CROPS, side, dtype, channels_last)
                row[name] = attempt(functools.partial(times, f, inputs, grad))
            yield row
    yield from network_rows()


def network_rows() -> Iterator[dict[str, Any]]:
    """MEON in float32, forward for the crops of an image, and forward and backward on a training batch.

    These kernels read the crops from the uint8 image; plain PyTorch is given them cut out and in float32.
    """
    torch.manual_seed(0)
    fused, plain = MEON(), MEON(backend="reference")
    plain.load_state_dict(fused.state_dict())
    fused.to("cuda")
    plain.to("cuda")
    image = torch.randint(0, 256, (1152, 1920, 3), dtype=torch.uint8, device="cuda")
    corners = [(x, y) for y in range(0, 1152 - 255, 128) for x in range(0, 1920 - 255, 128)][:CROPS]
    boxes = torch.tensor([(x, y, x + 256, y + 256) for x, y in corners], device="cuda")
    batch = torch.rand(TRAINING_BATCH, 3, 256, 256, device="cuda") * 255
    last = torch.channels_last
    crops = reference.gather_crops(image, boxes, crop=256)
    crops_last = crops.contiguous(memory_format=last)

    def forward(call: Callable[[], Any]) -> Callable[[], dict[str, float]]:
        def measure() -> dict[str, float]:
            with torch.inference_mode():
                ms = median_ms(call)
            return {"ms": ms, "crops_per_second": CROPS / ms * 1000}

        return measure

    def training(model: Any, x: Tensor) -> Callable[[], dict[str, float]]:
        parameters = list(model.parameters())

        def step() -> None:
            torch.autograd.grad(model(x).quality.abs().sum(), parameters, allow_unused=True)

        def measure() -> dict[str, float]:
            ms = median_ms(step)
            return {"ms": ms, "crops_per_second": TRAINING_BATCH / ms * 1000}

        return measure

    torch._dynamo.reset()
    quick = torch.compile(plain, dynamic=False)
    forward_candidates: dict[str, Callable[[], dict[str, float]]] = {
        "meon_ext": forward(lambda: fused.forward_crops(image, boxes)),
        "eager": forward(lambda: plain(crops)),
        "eager channels_last": forward(lambda: plain(crops_last)),
        "torch.compile channels_last": forward(lambda: quick(crops_last)),
    }
    training_candidates = {
        "meon_ext": training(fused, batch),
        "eager": training(plain, batch),
        "eager channels_last": training(plain, batch.contiguous(memory_format=last)),
        "torch.compile channels_last": training(quick, batch.contiguous(memory_format=last)),
    }
    for op, count, candidates in (
        ("MEON from uint8", CROPS, forward_candidates),
        ("MEON forward and backward", TRAINING_BATCH, training_candidates),
    ):
        figures = {name: attempt(call) for name, call in candidates.items()}
        yield {"op": op, "crops": count, "dtype": "float32", **figures}


def error_rows() -> Iterator[dict[str, Any]]:
    for stage, side in enumerate((64, 32, 16, 4)):
        for dtype_name, dtype in {**DTYPES, "float16": torch.float16}.items():
            inputs, grad = make(stage, 4, side, dtype, False)
            plain = of_stage(reference, stage)
            of = errors({"meon_ext": of_stage(ops, stage), "eager": plain}, plain, NAMES, inputs, grad)
            yield {"op": "conv_gdn_pool", "stage": stage + 1, "side": side, "dtype": dtype_name, **of}


def smoke() -> None:
    """Every kernel, with more than one tile, on small inputs."""
    for stage, side in enumerate((70, 37, 21, 5)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            inputs, grad = make(stage, 11 if stage == 3 else 2, side, dtype, False)
            run(of_stage(ops, stage), inputs, grad)
    image = torch.zeros(80, 90, 3, dtype=torch.uint8, device="cuda")
    boxes = torch.tensor([[0, 0, 64, 70], [26, 10, 90, 80], [26, 11, 90, 81]], device="cuda")  # the last is outside
    (_, *parameters), _ = make(0, 1, 64, torch.float32, False)
    weight, bias, beta, gamma = (t.requires_grad_() for t in parameters)
    y = ops.crop_conv_gdn_pool(image, boxes, weight, bias, beta, gamma, stride=2, padding=2, crop=(70, 64))
    torch.autograd.grad(y.sum(), (weight, bias, beta, gamma))
    pixels = image.float().requires_grad_()
    torch.autograd.grad(ops.extract_crops(pixels, 64, 9).sum(), pixels)
