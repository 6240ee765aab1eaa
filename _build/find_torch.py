"""Where the build finds torch's headers and libraries, without importing torch (which takes seconds)."""

from __future__ import annotations

import importlib.util
import os
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path

OLDEST = (2, 10)
"""The stable ABI that the ops are written for came with this version."""


@dataclass(frozen=True)
class Torch:
    """An installed torch."""

    version: str
    include: Path
    lib: Path


def _torch_at(package: Path) -> Torch | None:
    try:
        text = (package / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"__version__\s*=\s*['\"]((\d+)\.(\d+)[^'\"]*)['\"]", text)
    if found is None or (int(found[2]), int(found[3])) < OLDEST:
        return None
    include, lib = package / "include", package / "lib"
    if not (include / "torch/csrc/stable/library.h").is_file() or not (lib / "libtorch.so").exists():
        return None
    return Torch(found[1], include, lib)


def find_torch() -> Torch | None:
    """The first usable torch: MEON_TORCH_DIR, the importable one, then that of the environment being installed into.

    pip builds in an isolated environment that hides the target's packages, but runs the target's Python: sysconfig
    still names its site-packages. uv builds in an environment of its own and names the target by VIRTUAL_ENV.
    """
    candidates: list[Path] = []
    if named := os.environ.get("MEON_TORCH_DIR"):
        candidates.append(Path(named))
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin is not None:
        candidates.append(Path(spec.origin).parent)
    candidates += [Path(sysconfig.get_path(name)) / "torch" for name in ("purelib", "platlib")]
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if prefix := os.environ.get(variable):
            candidates += sorted(Path(prefix).glob("lib/python3*/site-packages/torch"))
    for candidate in candidates:
        if torch := _torch_at(candidate):
            return torch
    return None
