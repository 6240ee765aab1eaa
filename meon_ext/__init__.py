"""Blind image quality assessment with MEON, and a fast, differentiable GDN for PyTorch.

Importing this package imports no torch: the names below are looked up when they are first used, and those that
need torch import it then.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from meon_ext._version import __version__
from meon_ext.errors import DatasetError, ImageError, MeonError, NativeError, WeightsError

if TYPE_CHECKING:
    from meon_ext import (
        datasets,
        distortions,
        evaluation,
        full_reference,
        images,
        metrics,
        modules,
        ops,
        reference,
        training,
    )
    from meon_ext._native import build_info
    from meon_ext.images import LoadedImage, load_image
    from meon_ext.model import MEON
    from meon_ext.modules import GDN, ConvGDNPool
    from meon_ext.scoring import Score, Scorer, score

__all__ = [
    "GDN",
    "MEON",
    "ConvGDNPool",
    "DatasetError",
    "ImageError",
    "LoadedImage",
    "MeonError",
    "NativeError",
    "Score",
    "Scorer",
    "WeightsError",
    "__version__",
    "build_info",
    "datasets",
    "distortions",
    "evaluation",
    "full_reference",
    "images",
    "load_image",
    "metrics",
    "modules",
    "ops",
    "reference",
    "score",
    "training",
]

_WHERE = {
    "GDN": "modules",
    "LoadedImage": "images",
    "MEON": "model",
    "ConvGDNPool": "modules",
    "Score": "scoring",
    "Scorer": "scoring",
    "build_info": "_native",
    "load_image": "images",
    "score": "scoring",
}
_MODULES = {
    "datasets",
    "distortions",
    "evaluation",
    "full_reference",
    "images",
    "metrics",
    "modules",
    "ops",
    "reference",
    "training",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES and name not in _WHERE:
        raise AttributeError(f"module 'meon_ext' has no attribute {name!r}")
    try:
        module = importlib.import_module(f"meon_ext.{_WHERE.get(name, name)}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise NativeError(
            f"meon_ext.{name} needs torch >= 2.10, which is not installed. Run: pip install torch"
        ) from error
    if name in _MODULES:
        return module
    value = getattr(module, name)
    globals()[name] = value  # the next look-up is an ordinary one
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
