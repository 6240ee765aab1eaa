"""Training MEON in the paper's two steps, and its ablations (see docs/training.md). Importing this imports no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from meon_ext.training.config import (
    DataConfig,
    NetworkConfig,
    SplitConfig,
    StepConfig,
    SynthesisConfig,
    TrainConfig,
)
from meon_ext.training.config_io import config_from_mapping, load_config

if TYPE_CHECKING:
    from meon_ext.training.run import TrainResult, resume, train

__all__ = [
    "DataConfig",
    "NetworkConfig",
    "SplitConfig",
    "StepConfig",
    "SynthesisConfig",
    "TrainConfig",
    "TrainResult",
    "config_from_mapping",
    "load_config",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in ("TrainResult", "resume", "train"):
        raise AttributeError(f"module 'meon_ext.training' has no attribute {name!r}")
    return getattr(importlib.import_module("meon_ext.training.run"), name)
