"""Which of the programs that the build runs are here already."""

from __future__ import annotations

import re
import subprocess

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
