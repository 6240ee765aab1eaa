"""Training on a CUDA device. Run with ``pytest -m gpu tests/gpu``."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from gpu_marks import GPU_MARKS
from training_runs import small_settings, write_scenes

from meon_ext.training import config_from_mapping, resume, train
from meon_ext.training.journal import read_log

pytestmark = GPU_MARKS


def _losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_log(folder / "log.jsonl") if "loss" in line]


def test_the_gpu_begins_as_the_cpu_does(tmp_path: Path) -> None:
    """The mean loss of the first epoch of both steps.

    Adam moves a weight whose gradient is all rounding by the whole learning rate, whichever way: over three updates the
    two may be 6e-5 apart in weights of about 0.1, which is what the tolerance allows for; rounding itself is far less.
    """
    write_scenes(tmp_path / "pristine")
    step = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-5}
    for device in ("cpu", "cuda"):
        settings = small_settings(tmp_path, pretraining=step, joint=step, device=device)
        train(config_from_mapping(settings), tmp_path / device)
    assert _losses(tmp_path / "cuda") == pytest.approx(_losses(tmp_path / "cpu"), rel=1e-3)


def test_deterministic_runs_repeat_and_resume(tmp_path: Path) -> None:
    write_scenes(tmp_path / "pristine")
    settings = small_settings(tmp_path, device="cuda", deterministic=True, ema=0.9, rank_weight=0.5)
    for name in ("one", "two"):
        train(config_from_mapping(settings), tmp_path / name)
    one, two = (tmp_path / name / "weights.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    two.unlink()
    resume(tmp_path / "two")
    assert one.read_bytes() == two.read_bytes()


def test_bfloat16_trains(tmp_path: Path) -> None:
    write_scenes(tmp_path / "pristine")
    train(config_from_mapping(small_settings(tmp_path, device="cuda", amp=True, workers=1)), tmp_path / "run")
    assert all(math.isfinite(loss) for loss in _losses(tmp_path / "run"))
