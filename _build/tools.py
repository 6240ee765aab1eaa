"""Which of the programs that the build runs are here already."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

OLDEST = {"cmake": (3, 24), "ninja": (1, 10)}


def usable(tool: str) -> bool:
    """Whether it runs and is new enough.

    Being on PATH is not enough: the cmake that pip has installed beside the target's packages is a script that imports
    one of them, which an isolated build environment hides.
    """
    try:
        said = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return False
    version = re.search(r"(\d+)\.(\d+)", said)
    return version is not None and (int(version[1]), int(version[2])) >= OLDEST[tool]


def missing() -> list[str]:
    """Requirements for those that are not usable, as pip takes them."""
    return [f"{tool}>={major}.{minor}" for tool, (major, minor) in OLDEST.items() if not usable(tool)]


_REMEMBERED = ("CXX", "CXXFLAGS", "LDFLAGS", "CUDA_HOME", "CUDACXX", "CUDAFLAGS", "CUDAHOSTCXX")


def remembered(source: Path) -> str:
    """What CMake settles on its first run in a build folder, whatever it is told later: where the sources are, which
    compilers there are, and their flags. In a folder that was made with anything else it stops, or builds with that.
    """
    told = {name: os.environ.get(name, "") for name in _REMEMBERED}
    compilers = (told["CXX"], "c++", "g++", told["CUDACXX"], f"{told['CUDA_HOME'] or '/usr/local/cuda'}/bin/nvcc", "nvcc")
    # Links are followed: that is how another version takes an old one's place.
    found = {name: os.path.realpath(path) for name in compilers if (path := shutil.which(name))}
    return f"{str(source)!r}\n{told}\n{found}\n"
