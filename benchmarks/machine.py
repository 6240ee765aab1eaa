"""What a figure was measured on, and how fast that machine can be at all."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from meon_ext import build_info
from meon_ext._native import core
from timing import Run

# Above this, somebody else's work is in the figures.
LOAD_LIMIT = 0.5


def usable_processors() -> int:
    return len(os.sched_getaffinity(0))


def load() -> float:
    """The 1-minute load average."""
    return os.getloadavg()[0]


def description(threads: int) -> dict[str, Any]:
    info = build_info()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": _processor(),
        "processors_usable": usable_processors(),
        "threads": threads,
        "load_average": round(load(), 2),
        "instruction_set": info["core"]["instruction_set"],
        "torch_instruction_set": torch.backends.cpu.get_cpu_capability(),
        "compiler": info["core"]["compiler"],
        "system": platform.platform(),
        "python": info["python"],
        "meon_ext": info["meon_ext"],
        "commit": _commit(),
        "packages": info["packages"] | {name: _version(name) for name in _OTHERS},
    }


_OTHERS = ("onnxruntime", "brisque", "opencv-python-headless", "piq")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _commit() -> str | None:
    """Of this checkout, with a mark where files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def multiply_adds(threads: int, rounds: int = 2_000_000) -> tuple[Run, float]:
    """Multiply-adds in registers, the processor's single-precision peak on the instruction set in use, and their FLOPs.

    A matrix product is no measure of it: torch.mm leaves half of some processors' vector width unused.
    """
    run = core().multiply_adds
    return lambda: run(rounds, threads), run(rounds, threads)


MATRIX_SIDE = 1024


def matrix_product(side: int = MATRIX_SIDE) -> tuple[Run, float]:
    """A float32 matrix product and its FLOPs: what a well-kept library makes of the processor."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(side, side, generator=generator) for _ in range(2))
    out = torch.empty(side, side)
    return lambda: torch.mm(a, b, out=out), 2.0 * side**3


def copy() -> tuple[Run, float]:
    """A copy too large for the caches, and the bytes it reads and writes."""
    source = torch.ones(64 * 1024 * 1024)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source), 2.0 * source.numel() * source.element_size()
