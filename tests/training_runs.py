"""Small pictures and small runs that the tests of training share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SCENES = ("a", "b", "c", "d", "e")


def scene(seed: int, height: int = 256, width: int = 272) -> NDArray[np.uint8]:
    """Smooth shapes with edges, different for each seed: uint8 (height, width, 3)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 64.0
    layers = np.zeros((height, width, 3))
    for _ in range(6):
        angle, phase, edge = random.uniform(0, 6.28, 3)
        wave = np.sin(np.cos(angle) * x * random.uniform(1, 6) + np.sin(angle) * y * random.uniform(1, 6) + phase)
        layers += np.where(wave > np.sin(edge), 1.0, wave)[..., None] * random.uniform(-40, 40, 3)
    return np.clip(np.rint(128 + layers), 0, 255).astype(np.uint8)


def write_scenes(folder: Path, names: tuple[str, ...] = SCENES) -> Path:
    """Pristine pictures, PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(scene(number)).save(folder / f"{name}.png")
    return folder


def small_settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """A run of a few updates on the scenes in ``folder``/pristine, its cache beside them."""
    settings: dict[str, Any] = {
        "synthesis": {
            "pristine": [str(folder / "pristine")],
            "types": ["white_noise", "gaussian_blur"],
            "levels": [1, 5],
        },
        "split": {"training": 0.6, "validation": 0.2, "test": 0.2},
        "pretraining": {"epochs": 2, "batch_size": 4},
        "joint": {"epochs": 2, "batch_size": 4},
        "cache": str(folder / "cache"),
        "cache_gib": 0.1,
        "tensorboard": False,
        "device": "cpu",
        "threads": 1,
    }
    for key, value in changes.items():
        inner = settings.get(key)
        settings[key] = {**inner, **value} if isinstance(inner, dict) else value
    return settings
