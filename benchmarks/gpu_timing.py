"""Timing and errors of differentiable functions on a CUDA device."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Tensor]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def run(f: Function, inputs: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    """The output and the gradients of all inputs, given that of the output."""
    variables = [t.detach().requires_grad_() for t in inputs]
    y = f(*variables)
    return [y.detach(), *torch.autograd.grad(y, variables, grad)]


def median_ms(call: Callable[[], object], repeats: int = 50) -> float:
    """Median time of one call, milliseconds of the device."""
    for _ in range(10):
        call()
    torch.cuda.synchronize()
    times: list[float] = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def peaks() -> dict[str, float]:
    """What the device reaches in plain work: float32 products of matrices (TF32 as it is set), and a copy, whose bytes
    are counted once as read and once as written."""
    a, b = (torch.randn(8192, 8192, device="cuda") for _ in range(2))
    product = torch.empty_like(a)
    source = torch.empty(1 << 28, device="cuda")
    target = torch.empty_like(source)
    product_ms = median_ms(lambda: torch.mm(a, b, out=product), repeats=10)
    copy_ms = median_ms(lambda: target.copy_(source), repeats=10)
    return {
        "float32_matmul_flop_per_second": 2 * 8192**3 / product_ms * 1000,
        "copy_bytes_per_second": 8 * source.numel() / copy_ms * 1000,
    }


def times(f: Function, inputs: Sequence[Tensor], grad: Tensor) -> dict[str, float]:
    """The forward pass without autograd, the backward pass alone on a graph that is kept, and both together."""
    with torch.no_grad():
        forward = median_ms(lambda: f(*inputs))
    variables = [t.detach().requires_grad_() for t in inputs]
    y = f(*variables)
    alone = median_ms(lambda: torch.autograd.grad(y, variables, grad, retain_graph=True))
    both = median_ms(lambda: torch.autograd.grad(f(*variables), variables, grad))
    return {"forward_ms": forward, "backward_ms": alone, "forward_and_backward_ms": both}


def attempt(measure: Callable[[], Any]) -> Any:
    """What ``measure`` returns, or its error: one candidate that does not run must not hide the others."""
    try:
        return measure()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:500]}


def compiled(f: Function) -> Function:
    torch._dynamo.reset()  # or, after 8 shapes, torch.compile would quietly run eagerly
    return torch.compile(f, dynamic=False, fullgraph=True)


def errors(
    candidates: Mapping[str, Function],
    reference: Function,
    names: Sequence[str],
    inputs: Sequence[Tensor],
    grad: Tensor,
) -> dict[str, dict[str, float]]:
    """Of every result, against the reference in float64 on the CPU, in units of its largest magnitude."""
    want = run(reference, [t.cpu().double() for t in inputs], grad.cpu().double())
    return {
        candidate: {
            name: float((a.cpu().double() - b).abs().max() / b.abs().max())
            for name, a, b in zip(names, run(f, inputs, grad), want, strict=True)
        }
        for candidate, f in candidates.items()
    }
