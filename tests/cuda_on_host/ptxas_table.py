"""Compiles every CUDA source for every architecture and prints what each kernel uses.

One line per kernel: registers and, where the architectures differ, the range over them; static shared memory; spilled
bytes. Exits with 1 when any kernel spills registers to memory on any architecture, or uses a stack frame there.
Needs nvcc, not a GPU.

    python tests/cuda_on_host/ptxas_table.py [--nvcc PATH] [--arch 80 --arch 90a ...] [SOURCE.cu ...]
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_ARCHS = ["75", "80", "86", "89", "90", "100", "120"]  # as in cmake/MeonCuda.cmake
FLAGS = ["-std=c++20", "-O3", "-Werror", "all-warnings", f"-I{ROOT / 'csrc'}"]


@dataclass(frozen=True)
class Usage:
    """What ptxas says of one kernel on one architecture."""

    registers: int
    shared: int  # bytes
    stack: int  # bytes
    spills: int  # bytes stored and loaded


def find_nvcc() -> str | None:
    """The nvcc that cmake/MeonCuda.cmake would find."""
    home = os.environ.get("CUDA_HOME")
    for candidate in (
        f"{home}/bin/nvcc" if home else None,
        os.environ.get("CUDACXX"),
        "nvcc",
        "/usr/local/cuda/bin/nvcc",
    ):
        found = shutil.which(candidate) if candidate else None
        if found:
            return found
    return None


def supported_archs(nvcc: str) -> set[str]:
    listed = subprocess.run([nvcc, "--list-gpu-arch"], check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"compute_(\w+)", listed))


def demangle(names: list[str]) -> list[str]:
    """Short readable names: gdn_forward_kernel<float, 8>."""
    tool = shutil.which("c++filt")
    if not tool or not names:
        return names
    done = subprocess.run([tool], input="\n".join(names), check=True, capture_output=True, text=True).stdout
    return [re.sub(r"\(int\)|^void |\(.*\)$|\b\w+::", "", line) for line in done.splitlines()]


def compile_one(nvcc: str, source: Path, arch: str) -> dict[str, Usage]:
    """Mangled kernel name -> usage."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            nvcc,
            *FLAGS,
            f"-arch=sm_{arch}",
            "-cubin",
            "-Xptxas",
            "-v",
            "-o",
            f"{folder}/out.cubin",
            str(source),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    usages = {}
    for block in done.stderr.split("Compiling entry function")[1:]:
        name = re.search(r"'(\w+)'", block)
        used = re.search(r"Used (\d+) registers", block)
        frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", block)
        if not (name and used and frame):
            raise SystemExit(f"ptxas says something this script does not know:\n{block}")
        shared = re.search(r"(\d+) bytes smem", block)
        usages[name[1]] = Usage(
            int(used[1]), int(shared[1]) if shared else 0, int(frame[1]), int(frame[2]) + int(frame[3])
        )
    return usages


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", type=Path, help="default: csrc/cuda/*.cu")
    parser.add_argument("--nvcc", default=None)
    parser.add_argument("--arch", action="append", help="repeatable; default: all that meon_ext is built for")
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("MAX_JOBS", "0")) or os.cpu_count() or 1)
    options = parser.parse_args()
    nvcc = options.nvcc or find_nvcc()
    if not nvcc:
        print("no nvcc found: install the CUDA toolkit, put nvcc on PATH or set CUDA_HOME", file=sys.stderr)
        return 2
    known = supported_archs(nvcc)
    archs = options.arch or [arch for arch in DEFAULT_ARCHS if arch in known]
    sources = options.sources or sorted((ROOT / "csrc" / "cuda").glob("*.cu"))

    pairs = [(source, arch) for source in sources for arch in archs]
    table: dict[str, dict[str, Usage]] = {}  # kernel -> architecture -> usage
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for (_, arch), usages in zip(pairs, pool.map(lambda pair: compile_one(nvcc, *pair), pairs), strict=True):
            for kernel, usage in usages.items():
                table.setdefault(kernel, {})[arch] = usage
    if not table:
        print("no kernel was compiled", file=sys.stderr)
        return 1

    short = dict(zip(table, demangle(list(table)), strict=True))
    width = max(len(name) for name in short.values())
    heads = " ".join(f"{'sm_' + arch:>7}" for arch in archs)
    print(f"{'registers':{width}}  {heads}   shared   spills")
    spilling = []
    for kernel in sorted(table, key=short.__getitem__):
        usages = table[kernel]
        cells = " ".join(f"{usages[arch].registers if arch in usages else '-':>7}" for arch in archs)
        shared = max(usage.shared for usage in usages.values())
        bad = [arch for arch in archs if arch in usages and (usages[arch].spills or usages[arch].stack)]
        note = ", ".join(f"sm_{arch}: {usages[arch].spills} B, stack {usages[arch].stack} B" for arch in bad)
        print(f"{short[kernel]:{width}}  {cells} {shared:>8}   {note or 'none'}")
        if bad:
            spilling.append(short[kernel])
    most = max(usage.registers for usages in table.values() for usage in usages.values())
    print(f"{len(table)} kernels, {len(archs)} architectures, at most {most} registers, {len(spilling)} kernels spill")
    return 1 if spilling else 0


if __name__ == "__main__":
    sys.exit(main())
