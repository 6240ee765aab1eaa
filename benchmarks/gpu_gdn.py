"""gdn on a CUDA device, beside plain PyTorch. A section of gpu.py."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from gpu_timing import DTYPES, attempt, compiled, errors, run, times
from meon_ext import ops, reference

# The four stages of MEON for the 98 crops of one photo, its two hidden layers, and a layer of a compression network.
SHAPES = [
    (98, 8, 128, 128),
    (98, 16, 32, 32),
    (98, 32, 8, 8),
    (98, 64, 2, 2),
    (98, 128),
    (98, 256),
    (8, 192, 64, 64),
]
CHANNELS_LAST_TOO = ((98, 8, 128, 128), (8, 192, 64, 64))
ERROR_SHAPES = [(4, 8, 64, 64), (4, 64, 16, 16), (2, 192, 16, 16)]
NAMES = ("y", "grad_x", "grad_beta", "grad_gamma")


def make(shape: Sequence[int], dtype: torch.dtype, channels_last: bool = False) -> tuple[list[Tensor], Tensor]:
    """x, beta, gamma and a gradient of y, on the device."""
    generator = torch.Generator().manual_seed(0)
    channels = shape[1]
    x, grad = (torch.randn(*shape, generator=generator) for _ in range(2))
    beta = 0.1 + torch.rand(channels, generator=generator)
    gamma = torch.rand(channels, channels, generator=generator) / channels
    x, beta, gamma, grad = (t.to("cuda", dtype) for t in (x, beta, gamma, grad))
    if channels_last and len(shape) == 4:
        x, grad = (t.contiguous(memory_format=torch.channels_last) for t in (x, grad))
    return [x, beta, gamma], grad


def timing_rows() -> Iterator[dict[str, Any]]:
    cases = [(shape, "contiguous") for shape in SHAPES] + [(shape, "channels_last") for shape in CHANNELS_LAST_TOO]
    for shape, layout in cases:
        for dtype_name, dtype in DTYPES.items():
            inputs, grad = make(shape, dtype, layout == "channels_last")
            row: dict[str, Any] = {"op": "gdn", "shape": shape, "layout": layout, "dtype": dtype_name}
            candidates = {"meon_ext": ops.gdn, "eager": reference.gdn, "torch.compile": compiled(reference.gdn)}
            for name, f in candidates.items():
                row[name] = attempt(functools.partial(times, f, inputs, grad))
            yield row


def error_rows() -> Iterator[dict[str, Any]]:
    for shape in ERROR_SHAPES:
        for dtype_name, dtype in {**DTYPES, "float16": torch.float16, "float64": torch.float64}.items():
            inputs, grad = make(shape, dtype)
            of = errors({"meon_ext": ops.gdn, "eager": reference.gdn}, reference.gdn, NAMES, inputs, grad)
            yield {"op": "gdn", "shape": shape, "dtype": dtype_name, **of}


def smoke() -> None:
    """Every kernel, with more than one tile and split, on small inputs."""
    for shape in ((2, 5, 20, 31), (2, 16, 9, 31), (1, 20, 9, 31), (1, 40, 9, 31), (1, 70, 9, 9), (3, 130)):
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            for channels_last in (False, True):
                run(ops.gdn, *make(shape, dtype, channels_last))
