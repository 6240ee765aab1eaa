"""In-tree PEP 517 build backend: setuptools', but it borrows what the machine already has.

Asking pip for torch in the isolated build environment would download gigabytes; because of torch's stable ABI the
headers of any installed torch do, and without one any torch will do.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import settings
import tools
from find_torch import find_torch
from setuptools import build_meta
from setuptools.build_meta import build_sdist, get_requires_for_build_sdist, prepare_metadata_for_build_wheel

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    settings.check()
    needed = list(build_meta.get_requires_for_build_wheel(config_settings))
    needed += tools.missing()
    if settings.torch_wanted() and find_torch() is None:
        needed.append("torch>=2.11")
    return needed


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    return get_requires_for_build_wheel(config_settings)


def _forget_old_package() -> None:
    # setuptools copies the package into build/lib* and never removes what has since been deleted from the source;
    # the compiled objects live elsewhere (build/cmake-*) and are kept.
    for old in Path("build").glob("lib*"):
        shutil.rmtree(old)


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    _forget_old_package()
    return str(build_meta.build_wheel(wheel_directory, config_settings, metadata_directory))


def build_editable(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    _forget_old_package()
    return str(build_meta.build_editable(wheel_directory, config_settings, metadata_directory))
