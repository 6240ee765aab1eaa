"""What is left of a run: the weights file with what was fitted to it, and how good they are on pictures held out."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meon_ext import metrics
from meon_ext._files import write_whole
from meon_ext._version import __version__
from meon_ext.model import MEON
from meon_ext.training import evaluate
from meon_ext.training.calibrate import fit_mapping, fit_temperature
from meon_ext.training.config import TrainConfig
from meon_ext.training.network import divide_logits_
from meon_ext.training.samples import Gathered, Kind, Samples
from meon_ext.training.steps import Steps

RESULT_FILE = "result.json"
WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True)
class TrainResult:
    """What a run has made.

    weights: the file, None where step 2 was left out. table: of the test pictures (of the validation pictures, where
    nothing was held out for testing), as ``evaluate.table`` gives it; on: which of the two. summary: the same and more
    for people. parameters: how many numbers the network learned.
    """

    weights: Path | None
    table: Sequence[dict[str, str | float]]
    on: str
    summary: str
    parameters: int


def write_result(model: MEON, gathered: Gathered, steps: Steps, folder: Path) -> None:
    """Calibrate a model whose raw scores are in the unit of the data; write its weights and ``result.json``."""
    validation, classes = gathered.joint["validation"], [Kind(name) for name in gathered.classes]
    temperature = fit_temperature(steps.predict(model, validation), validation.labels(classes))
    # With fusion the probabilities weigh the scores, so everything after this sees the calibrated ones.
    divide_logits_(model, temperature)
    model.score_name = gathered.score_name
    validated = steps.predict(model, validation)
    model.mapping = fit_mapping(validated.quality, validation.score, gathered.scale, gathered.higher_is_better)
    model.save_pretrained(folder / WEIGHTS_FILE, _metadata(steps.config, gathered, temperature))

    on, samples = _held_out(gathered.joint)
    found = steps.predict(model, samples) if on == "test" else validated
    result: dict[str, Any] = {
        "on": on,
        "score_name": gathered.score_name,
        "scale": gathered.scale,
        "higher_is_better": gathered.higher_is_better,
        "table": _rows(found, samples, gathered),
        "validation": _rows(validated, validation, gathered),
        "temperature": temperature,
    }
    labels = samples.labels(classes)
    if found.logits is not None and (labels >= 0).any():
        probabilities = found.probabilities()[labels >= 0]
        result["calibration_error"] = metrics.expected_calibration_error(probabilities, labels[labels >= 0])
    write_whole(folder / RESULT_FILE, (json.dumps(result, indent=2) + "\n").encode())


def _rows(found: evaluate.Predictions, samples: Samples, gathered: Gathered) -> list[dict[str, str | float | None]]:
    rows = evaluate.table(found, samples, gathered.classes)
    return [{k: None if v != v else v for k, v in row.items()} for row in rows]


def read_result(model: MEON, folder: Path) -> TrainResult:
    """What ``write_result`` wrote, for those who called."""
    result = json.loads((folder / RESULT_FILE).read_text())
    rows = [{k: math.nan if v is None else v for k, v in row.items()} for row in result["table"]]
    path, on = folder / WEIGHTS_FILE, result["on"]
    summary = f"{on} pictures, contents that training has not seen:\n{evaluate.formatted(rows)}\nweights: {path}"
    return TrainResult(path, rows, on, summary, model.parameter_count())


def types_result(model: MEON, gathered: Gathered, steps: Steps, checkpoint: Path) -> TrainResult:
    """The result of step 1 alone."""
    on, samples = _held_out(gathered.pretraining)
    value = evaluate.type_accuracy(steps.predict(model, samples).probabilities(), samples, gathered.kinds)
    row: dict[str, str | float] = {"type": "all", "pictures": len(samples), "accuracy": value}
    row |= dict.fromkeys(("srcc", "plcc", "rmse"), math.nan)
    summary = f"step 1: types right {value:.3f} on {len(samples)} {on} pictures\nfor --pretrained: {checkpoint}"
    return TrainResult(None, [row], on, summary, model.parameter_count())


def _held_out(parts: Mapping[str, Samples]) -> tuple[str, Samples]:
    name = "test" if "test" in parts else "validation"
    return name, parts[name]


def _metadata(config: TrainConfig, gathered: Gathered, temperature: float) -> dict[str, str]:
    data = list(gathered.names)
    if config.pretraining.epochs and config.synthesis.pristine and "synthesis" not in data:
        data.append("synthesis (step 1)")
    entries = {
        "trained_by": f"meon_ext {__version__}",
        "data": ", ".join(data),
        "protocol": json.dumps(_protocol(config), sort_keys=True),
        "seed": str(config.seed),
        "temperature": f"{temperature:.6g}",
    }
    if commit := _commit():
        entries["commit"] = commit
    return entries


def _protocol(config: TrainConfig) -> dict[str, Any]:
    """The configuration without what says nothing of the weights, such as the user's folders."""
    settings = asdict(config)
    for name in ("cache", "cache_gib", "workers", "threads", "tensorboard", "device", "checkpoint_steps", "pretrained"):
        del settings[name]
    for data in settings["data"]:
        del data["root"]
    for name in ("pristine", "extra"):
        settings["synthesis"][name] = [Path(p).name for p in getattr(config.synthesis, name)]
    settings["synthesis"]["scores"] = Path(config.synthesis.scores).name
    return settings


def _commit() -> str:
    """The commit of the checkout that this package runs from, if it does."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD", "--show-prefix"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    commit, _, prefix = done.stdout.strip().partition("\n")
    # An installed package may lie within some other repository.
    return commit if done.returncode == 0 and prefix == "meon_ext/training/" else ""
