"""The run of ``meon train`` without arguments: small, complete, on photographs that come with scikit-image."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from meon_ext.errors import MeonError

# Those of scikit-image's wheel that are lossless and large enough.
PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "chelsea", "coffee", "grass", "gravel", "ihc", "moon", "motorcycle_left"),
)


def photographs(names: tuple[str, ...] = PHOTOGRAPHS) -> list[str]:
    """The files of scikit-image's photographs. Raises MeonError where it is not installed."""
    found = importlib.util.find_spec("skimage")  # found, not imported: only its files are needed
    places = found.submodule_search_locations if found is not None else None
    files = [Path(places[0]) / "data" / f"{name}.png" for name in names] if places else []
    if not files or not all(file.is_file() for file in files):
        raise MeonError('the demonstration needs photographs from scikit-image; run: pip install "meon_ext[train]"')
    return [str(file) for file in files]


def demo_settings() -> dict[str, Any]:
    """Settings, for ``config_from_mapping``, of a run that takes a few minutes on one processor."""
    step = {"batch_size": 40, "crops": 8, "warmup": 1.0, "clip": 1.0}
    return {
        "synthesis": {"pristine": photographs(), "scale": [0.6, 1.0], "variants": 3},
        # The split that validates on motorcycle_left and tests on astronaut and coffee: others may take textures.
        "split": {"training": 0.7, "validation": 0.1, "test": 0.2, "seed": 7},
        "pretraining": {**step, "epochs": 16},
        "joint": {**step, "epochs": 12},
        "ema": 0.99,
        "cache_gib": 1.0,
        # Batches are small, and threads that wait for each other on a busy machine take several times as long as one.
        "threads": 1,
    }
