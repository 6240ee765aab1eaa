"""gdn on a CUDA device: how far off, how fast, beside plain PyTorch. Called by gpu.sh, or by itself:

    python benchmarks/gpu_gdn.py --output FILE.json     errors and times
    python benchmarks/gpu_gdn.py --smoke                every kernel once on small inputs, for compute-sanitizer

Times are medians over single calls between CUDA events, after warming up. Errors are against the reference in float64
on the CPU, in units of the largest magnitude of the result, for these kernels and for plain PyTorch alike.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import meon_ext
from meon_ext import ops, reference

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

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


def make(shape: Sequence[int], dtype: torch.dtype, channels_last: bool = False) -> list[Tensor]:
    """x, beta, gamma and a gradient of y, on the device."""
    generator = torch.Generator().manual_seed(0)
    channels = shape[1]
    x, grad = (torch.randn(*shape, generator=generator) for _ in range(2))
    beta = 0.1 + torch.rand(channels, generator=generator)
    gamma = torch.rand(channels, channels, generator=generator) / channels
    made = [t.to("cuda", dtype) for t in (x, beta, gamma, grad)]
    if channels_last and len(shape) == 4:
        made[0], made[3] = (made[i].contiguous(memory_format=torch.channels_last) for i in (0, 3))
    return made


def run(f: Callable[..., Tensor], x: Tensor, beta: Tensor, gamma: Tensor, grad: Tensor) -> list[Tensor]:
    inputs = [t.detach().requires_grad_() for t in (x, beta, gamma)]
    y = f(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad)]


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


def timings() -> list[dict[str, Any]]:
    rows = []
    cases = [(shape, "contiguous") for shape in SHAPES] + [(shape, "channels_last") for shape in CHANNELS_LAST_TOO]
    for shape, layout in cases:
        for dtype_name, dtype in DTYPES.items():
            x, beta, gamma, grad = make(shape, dtype, layout == "channels_last")
            torch._dynamo.reset()  # or, after 8 shapes, torch.compile would quietly run eagerly
            candidates = {
                "meon_ext": ops.gdn,
                "eager": reference.gdn,
                "torch.compile": torch.compile(reference.gdn, dynamic=False, fullgraph=True),
            }
            row: dict[str, Any] = {"shape": shape, "layout": layout, "dtype": dtype_name}
            for name, f in candidates.items():
                try:
                    row[name] = {"forward_ms": forward_ms(f, x, beta, gamma), **backward_ms(f, x, beta, gamma, grad)}
                except Exception as error:  # one candidate that does not run must not hide the others
                    row[name] = {"error": f"{type(error).__name__}: {error}"[:500]}
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def forward_ms(f: Callable[..., Tensor], x: Tensor, beta: Tensor, gamma: Tensor) -> float:
    with torch.no_grad():
        return median_ms(lambda: f(x, beta, gamma))


def backward_ms(f: Callable[..., Tensor], x: Tensor, beta: Tensor, gamma: Tensor, grad: Tensor) -> dict[str, float]:
    """The backward pass alone, on a graph that is kept; and both passes together."""
    inputs = [t.detach().requires_grad_() for t in (x, beta, gamma)]
    y = f(*inputs)
    alone = median_ms(lambda: torch.autograd.grad(y, inputs, grad, retain_graph=True))
    both = median_ms(lambda: torch.autograd.grad(f(*inputs), inputs, grad))
    return {"backward_ms": alone, "forward_and_backward_ms": both}


def errors() -> list[dict[str, Any]]:
    rows = []
    for shape in ERROR_SHAPES:
        for dtype_name, dtype in {**DTYPES, "float16": torch.float16, "float64": torch.float64}.items():
            inputs = make(shape, dtype)
            want = run(reference.gdn, *(t.cpu().double() for t in inputs))
            row: dict[str, Any] = {"shape": shape, "dtype": dtype_name}
            for name, f in {"meon_ext": ops.gdn, "eager": reference.gdn}.items():
                row[name] = {
                    what: float((a.cpu().double() - b).abs().max() / b.abs().max())
                    for what, a, b in zip(
                        ("y", "grad_x", "grad_beta", "grad_gamma"), run(f, *inputs), want, strict=True
                    )
                }
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def smoke() -> None:
    """Small, so that compute-sanitizer is done in a minute; every kernel, with more than one tile and split."""
    for shape in ((2, 5, 20, 31), (2, 16, 9, 31), (1, 20, 9, 31), (1, 40, 9, 31), (1, 70, 9, 9), (3, 130)):
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            for channels_last in (False, True):
                run(ops.gdn, *make(shape, dtype, channels_last))
    torch.cuda.synchronize()
    print("ok")


def machine() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
        driver = subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        driver = f"unknown: {error}"
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "driver, maximum clock, power limit": driver,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "meon_ext": meon_ext.__version__,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="the JSON file to write")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--note", action="append", default=[], metavar="KEY=VALUE", help="put into the JSON as it is")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("torch sees no CUDA device", file=sys.stderr)
        return 2
    if ops.CUDA_STATUS != "loaded":
        print(f"meon_ext's CUDA kernels are not loaded: {ops.CUDA_STATUS}", file=sys.stderr)
        return 2
    if options.smoke:
        smoke()
        return 0
    if options.output is None:
        parser.error("--output is needed")
    # Plain PyTorch as accurate as it can be: the comparison is of float32 with float32.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    result = {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "checks": dict(note.split("=", 1) for note in options.note),
        "errors": errors(),
        "timings": timings(),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
