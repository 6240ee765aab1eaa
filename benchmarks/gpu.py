"""meon_ext's CUDA kernels: how far off, how fast, beside plain PyTorch. Called by gpu.sh, or by itself:

    python benchmarks/gpu.py --output FILE.json     errors and times
    python benchmarks/gpu.py --smoke                every kernel once on small inputs, for compute-sanitizer

Times are medians over single calls between CUDA events, after warming up. Errors are against the reference in float64
on the CPU, in units of the largest magnitude of the result, for these kernels and for plain PyTorch alike.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import gpu_gdn
import gpu_network
import gpu_stages
import meon_ext
from meon_ext import ops

SECTIONS = (gpu_network, gpu_stages, gpu_gdn)
KINDS = {"errors": "error_rows", "timings": "timing_rows"}


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
        for section in SECTIONS:
            section.smoke()
        torch.cuda.synchronize()
        print("ok")
        return 0
    if options.output is None:
        parser.error("--output is needed")
    # Plain PyTorch as accurate as it can be: the comparison is of float32 with float32.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    result: dict[str, Any] = {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "checks": dict(note.split("=", 1) for note in options.note),
        "errors": [],
        "timings": [],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    whole = all([collect(section, kind, result, options.output) for kind in KINDS for section in SECTIONS])
    print(f"wrote {options.output}")
    return 0 if whole else 1


def collect(section: ModuleType, kind: str, result: dict[str, Any], output: Path) -> bool:
    """Add a section's rows to the result, and write it after each: a kernel that fails may take the device with it, and
    the time on a machine may be over. Returns whether all of the section could be had."""
    whole = True
    rows = getattr(section, KINDS[kind])()
    while True:
        try:
            row = next(rows, None)
        except Exception as error:
            row = {"section": section.__name__, "error": f"{type(error).__name__}: {error}"[:500]}
            whole = False
        if row is None:
            return whole
        print(json.dumps(row), flush=True)
        result[kind].append(row)
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
