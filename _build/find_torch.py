"""Where the build finds torch's headers and libraries, without importing torch (which takes seconds)."""

from __future__ import annotations

import importlib.util
import os
import re
import site
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
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
    """The first usable torch: MEON_TORCH_DIR, the importable one, then those of environments that are near.

    pip builds in an isolated environment that hides the target's packages, but runs the target's Python: sysconfig
    still names its site-packages. uv does not say for which environment it builds, but one that is activated is on
    PATH, and one that it found by itself is `.venv` beside the sources or above. Neither names the user's own packages
    (`pip install --user`) or, in a virtual environment with those of the system, the system's. A torch of another
    environment than the target's is as good: only its headers are used, and names of its libraries.

    Raises SystemExit when MEON_TORCH_DIR names something else.
    """
    if named := os.environ.get("MEON_TORCH_DIR"):
        if torch := _torch_at(Path(named)):
            return torch
        # Taking another than the one asked for, or downloading one, would be found out much later.
        raise SystemExit(
            f"MEON_TORCH_DIR is {named!r}, where there is no torch >= {OLDEST[0]}.{OLDEST[1]} with its headers; "
            "name torch's own folder, as in .../site-packages/torch"
        )
    candidates: list[Path] = []
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin is not None:
        candidates.append(Path(spec.origin).parent)
    candidates += [Path(sysconfig.get_path(name)) / "torch" for name in ("purelib", "platlib")]
    candidates.append(Path(site.getusersitepackages()) / "torch")
    prefixes = [Path(value) for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if (value := os.environ.get(name))]
    prefixes += [Path(folder).parent for folder in os.get_exec_path() if folder]
    prefixes += [folder / ".venv" for folder in (_ROOT, *_ROOT.parents)]
    prefixes += [Path(sys.base_prefix), Path(sys.base_prefix) / "local"]
    for prefix in prefixes:
        candidates += sorted(prefix.glob("lib/python3*/*-packages/torch"))  # site-packages; Debian's dist-packages
    for candidate in candidates:
        if torch := _torch_at(candidate):
            return torch
    return None
