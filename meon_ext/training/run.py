"""A whole training run: gather, step 1, step 2, calibrate, write the weights, test them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meon_ext import metrics
from meon_ext._files import write_whole
from meon_ext._version import __version__
from meon_ext.errors import ConfigError, DatasetError, TrainingError
from meon_ext.model import MEON, MEONOutput
from meon_ext.training import evaluate, losses
from meon_ext.training.batches import Batches
from meon_ext.training.cache import PictureCache
from meon_ext.training.calibrate import fit_mapping, fit_temperature
from meon_ext.training.checkpoint import read_checkpoint
from meon_ext.training.config import (
    StepConfig,
    TrainConfig,
    config_from_mapping,
    load_config,
    save_config,
)
from meon_ext.training.distributed import Processes, processes
from meon_ext.training.journal import Journal
from meon_ext.training.network import (
    begin_with_pretrained_,
    divide_logits_,
    new_model,
    pretraining_model,
    rescale_scores_,
)
from meon_ext.training.optimise import Step, StepName, optimise
from meon_ext.training.pictures import Picture, PictureLoader
from meon_ext.training.samples import Gathered, Kind, Samples, gather
from meon_ext.weights_io import CROP_SIZE

__all__ = ["TrainResult", "resume", "train"]

CONFIG_FILE = "config.json"
RESULT_FILE = "result.json"
WEIGHTS_FILE = "weights.safetensors"
_SHOWN = 20


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


def train(config: TrainConfig, out: str | os.PathLike[str]) -> TrainResult:
    """Train a network and write all of the run to the folder ``out``.

    Written are ``config.json``, ``log.jsonl``, ``tensorboard/``, ``checkpoints/``, ``result.json`` and
    ``weights.safetensors``. Under torchrun, all processes call this and each takes its share of every batch.

    Raises ConfigError, DatasetError (with all that is missing, before anything is trained), TrainingError for a folder
    that holds a run already or a loss that is no longer finite, KeyboardInterrupt after a signal, once a checkpoint is
    written.
    """
    folder = Path(out)
    with processes(config.device) as group:
        return _Run(config, folder, group).go(begin=True)


def resume(out: str | os.PathLike[str]) -> TrainResult:
    """Go on with the run in a folder, from its last checkpoint, to the same weights as if it had never stopped.

    The same bits, with the same number of processes and threads on the same kind of machine. A finished run gives its
    result again. Raises as ``train``.
    """
    folder = Path(out)
    config = config_from_mapping(load_config(folder / CONFIG_FILE), str(folder / CONFIG_FILE))
    with processes(config.device) as group:
        return _Run(config, folder, group).go(begin=False)


class _Run:
    def __init__(self, config: TrainConfig, folder: Path, group: Processes) -> None:
        self._config = config
        self._folder = folder
        self._group = group
        self._checkpoints = folder / "checkpoints"
        limit = int(config.cache_gib * (1 << 30))
        self._cache = PictureCache(config.cache or _default_cache(), limit)
        synthesis = config.synthesis
        self._loader = PictureLoader(self._cache, synthesis.side, synthesis.scale, config.seed)

    def go(self, begin: bool) -> TrainResult:
        gathered = gather(self._config)
        self._check_steps()
        if self._group.is_main:
            self._check_files(gathered)
            if begin:
                self._make_folder()
        self._group.wait()
        with _settings(self._config):
            at = self._resume_point()
            journal = Journal(self._folder, at, tensorboard=self._config.tensorboard, enabled=self._group.is_main)
            try:
                return self._train(gathered, at, journal)
            finally:
                journal.close()

    def _train(self, gathered: Gathered, at: tuple[str, int] | None, journal: Journal) -> TrainResult:
        config, device = self._config, self._group.device
        done = at is not None and at[0] == "joint"
        if config.pretraining.epochs and config.network.task != "single" and not config.pretrained and not done:
            model = pretraining_model(config.network, gathered.kinds, config.seed).to(device)
            optimise(
                self._pretraining(gathered), model, config, self._checkpoints, self._group, journal, at is not None
            )
            if not config.joint.epochs:
                return self._report_types(model, gathered)
            at = None
        model = new_model(config.network, gathered.classes, config.seed)
        origin = self._pretrained_path()
        if origin is not None:
            tensors, state = read_checkpoint(origin)
            kinds = [Kind(str(name), int(level)) for name, level in state.get("kinds", [])]
            begin_with_pretrained_(model, tensors, kinds)
        model.to(device)
        centre, spread = _unit(gathered.joint["training"])
        step = self._joint(gathered, centre, spread)
        optimise(step, model, config, self._checkpoints, self._group, journal, at is not None)
        rescale_scores_(model, spread, centre)
        return self._finish(model, gathered)

    def _pretraining(self, gathered: Gathered) -> Step:
        samples, kinds = gathered.pretraining["training"], gathered.kinds
        labels = torch.from_numpy(samples.labels(kinds)).to(self._group.device)
        validation = evaluate.thinned(gathered.pretraining["validation"], self._config.validation_pictures)

        def loss(output: MEONOutput, places: Tensor) -> Tensor:
            assert output.logits is not None
            return losses.type_cross_entropy(output.logits.float(), labels[places])

        def validate(model: MEON) -> tuple[float, Mapping[str, float]]:
            found = self._predict(model, validation)
            probabilities = found.probabilities()
            known = validation.labels(kinds) >= 0
            true = probabilities[known, validation.labels(kinds)[known]]
            figures = {
                "accuracy": evaluate.type_accuracy(probabilities, validation, kinds),
                "cross_entropy": float(-np.log(np.maximum(true, 1e-12)).mean()) if known.any() else 0.0,
            }
            _say(f"step 1: types right {figures['accuracy']:.3f} on {len(validation)} validation pictures")
            return figures["accuracy"], figures

        return self._step("pretraining", "step 1", samples, loss, validate, {"kinds": [list(k) for k in kinds]})

    def _joint(self, gathered: Gathered, centre: float, spread: float) -> Step:
        config, device = self._config, self._group.device
        samples = gathered.joint["training"]
        classes = [Kind(name) for name in gathered.classes]
        labels = torch.from_numpy(samples.labels(classes)).to(device)
        scores = torch.from_numpy((samples.score - centre) / spread).float().to(device)
        # Where nobody has scored a picture its level still orders it among its like.
        sign = 1 if gathered.higher_is_better else -1
        order = np.where(np.isfinite(samples.score), samples.score, -sign * samples.level)
        orders = torch.from_numpy(order).to(device)
        validation = evaluate.thinned(gathered.joint["validation"], config.validation_pictures)

        def loss(output: MEONOutput, places: Tensor) -> Tensor:
            quality = output.quality.float()
            total = losses.quality_l1(quality, scores[places])
            if output.logits is not None and config.type_weight:
                total = total + config.type_weight * losses.type_cross_entropy(output.logits.float(), labels[places])
            if config.rank_weight:
                total = total + config.rank_weight * losses.ranking(quality, orders[places], config.rank_margin)
            return total

        def validate(model: MEON) -> tuple[float, Mapping[str, float]]:
            found = self._predict(model, validation)
            known = np.isfinite(validation.score)
            error = np.abs(found.quality[known] * spread + centre - validation.score[known])
            figures = {
                "srcc": evaluate.mean_srcc(found.quality, validation),
                "l1": float(error.mean()) if known.any() else math.nan,
            }
            if found.logits is not None:
                figures["accuracy"] = evaluate.type_accuracy(found.probabilities(), validation, classes)
            _say("step 2: " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()) + " on validation")
            # Too few pictures to rank: the error has to do.
            value = figures["srcc"] if math.isfinite(figures["srcc"]) else -figures["l1"]
            return value, {k: v for k, v in figures.items() if math.isfinite(v)}

        return self._step("joint", "step 2", samples, loss, validate, {"classes": list(gathered.classes)})

    def _step(self, name: StepName, title: str, samples: Samples, loss: Any, validate: Any, describe: Any) -> Step:
        config: StepConfig = getattr(self._config, name)
        batches = Batches(
            samples,
            self._loader,
            config.batch_size,
            crops=config.crops,
            seed=self._config.seed,
            stream=("pretraining", "joint").index(name),
            flip=self._config.flip,
            pairs=name == "joint" and self._config.rank_weight > 0,
            rank=self._group.rank,
            world=self._group.world,
        )
        return Step(name, title, config, batches, loss, validate, describe)

    def _predict(self, model: MEON, samples: Samples) -> evaluate.Predictions:
        return evaluate.predict(model, samples, self._loader, self._group.device, self._config.validation_crops)

    def _finish(self, model: MEON, gathered: Gathered) -> TrainResult:
        path = self._folder / WEIGHTS_FILE
        on, held_out = _held_out(gathered.joint)
        if self._group.is_main:
            validation = gathered.joint["validation"]
            temperature = fit_temperature(
                self._predict(model, validation), validation.labels([Kind(name) for name in gathered.classes])
            )
            # With fusion the probabilities weigh the scores, so everything after this sees the calibrated ones.
            divide_logits_(model, temperature)
            model.score_name = gathered.score_name
            model.mapping = fit_mapping(
                self._predict(model, validation).quality, validation.score, gathered.scale, gathered.higher_is_better
            )
            model.cpu().save_pretrained(path, self._metadata(gathered, temperature))
            model.to(self._group.device)
            found = self._predict(model, held_out)
            self._write_result(on, temperature, found, held_out, gathered)
        self._group.wait()
        result = json.loads((self._folder / RESULT_FILE).read_text())
        rows = [{k: math.nan if v is None else v for k, v in row.items()} for row in result["table"]]
        summary = f"{on} pictures, contents that training has not seen:\n{evaluate.formatted(rows)}\nweights: {path}"
        return TrainResult(path, rows, on, summary, model.parameter_count())

    def _write_result(
        self,
        on: str,
        temperature: float,
        found: evaluate.Predictions,
        samples: Samples,
        gathered: Gathered,
    ) -> None:
        rows = evaluate.table(found, samples, gathered.classes)
        result: dict[str, Any] = {
            "on": on,
            "score_name": gathered.score_name,
            "scale": gathered.scale,
            "higher_is_better": gathered.higher_is_better,
            "table": [{k: None if v != v else v for k, v in row.items()} for row in rows],
            "temperature": temperature,
        }
        labels = samples.labels([Kind(name) for name in gathered.classes])
        if found.logits is not None and (labels >= 0).any():
            result["calibration_error"] = metrics.expected_calibration_error(
                found.probabilities()[labels >= 0], labels[labels >= 0]
            )
        write_whole(self._folder / RESULT_FILE, (json.dumps(result, indent=2) + "\n").encode())

    def _report_types(self, model: MEON, gathered: Gathered) -> TrainResult:
        """The result of step 1 alone."""
        on, held_out = _held_out(gathered.pretraining)
        found = self._predict(model, held_out)
        value = evaluate.type_accuracy(found.probabilities(), held_out, gathered.kinds)
        row: dict[str, str | float] = {"type": "all", "pictures": len(held_out), "accuracy": value}
        row |= dict.fromkeys(("srcc", "plcc", "rmse"), math.nan)
        path = self._checkpoints / "best-pretraining.safetensors"
        summary = f"step 1: types right {value:.3f} on {len(held_out)} {on} pictures\nfor --pretrained: {path}"
        return TrainResult(None, [row], on, summary, model.parameter_count())

    def _metadata(self, gathered: Gathered, temperature: float) -> dict[str, str]:
        data = [*gathered.names]
        if self._config.pretraining.epochs and self._config.synthesis.pristine:
            data += [] if "synthesis" in data else ["synthesis (step 1)"]
        entries = {
            "trained_by": f"meon_ext {__version__}",
            "data": ", ".join(data),
            "protocol": json.dumps(_settings_that_matter(self._config), sort_keys=True),
            "seed": str(self._config.seed),
            "temperature": f"{temperature:.6g}",
        }
        if commit := _commit():
            entries["commit"] = commit
        return entries

    def _pretrained_path(self) -> Path | None:
        if self._config.pretrained:
            return Path(self._config.pretrained)
        own = self._checkpoints / "best-pretraining.safetensors"
        return own if self._config.pretraining.epochs and self._config.network.task != "single" else None

    def _resume_point(self) -> tuple[str, int] | None:
        path = self._checkpoints / "last.safetensors"
        if not path.exists():
            return None
        _, state = read_checkpoint(path)
        return str(state["step"]), int(state["update"])

    def _check_steps(self) -> None:
        for name in ("pretraining", "joint"):
            unit = self._group.world * (2 if name == "joint" and self._config.rank_weight else 1)
            size = getattr(self._config, name).batch_size
            if size % unit:
                raise ConfigError(f"{name}.batch_size must be a multiple of {unit} for {self._group.world} processes")
        if self._config.pretrained and not Path(self._config.pretrained).is_file():
            raise ConfigError(f"pretrained: {self._config.pretrained} is not there; name best-pretraining.safetensors")

    def _check_files(self, gathered: Gathered) -> None:
        parts = [*gathered.pretraining.values(), *gathered.joint.values()]
        pictures = {picture for part in parts for picture in part.pictures}
        missing = sorted({p.path for p in pictures if not Path(p.path).is_file()})
        if missing:
            shown = "\n  ".join(missing[:_SHOWN])
            raise DatasetError(f"{len(missing)} pictures are missing:\n  {shown}\nBring them back, or name other data")
        side = self._config.synthesis.side or 2 * CROP_SIZE
        decoded = {Picture(picture.path) for picture in pictures}
        self._cache.make_room({self._loader.key(picture) for picture in pictures | decoded}, 3 * side * side)

    def _make_folder(self) -> None:
        if (self._folder / CONFIG_FILE).exists():
            raise TrainingError(f"{self._folder}: holds a run already; resume it, or choose another folder")
        try:
            self._checkpoints.mkdir(parents=True, exist_ok=True)
            write_whole(self._folder / CONFIG_FILE, save_config(self._config).encode())
        except OSError as error:
            raise TrainingError(
                f"{self._folder}: cannot be written ({error.strerror or error}); choose another folder"
            ) from error


def _unit(samples: Samples) -> tuple[float, float]:
    """Mean and standard deviation of the scores, in which the network learns them."""
    known = samples.score[np.isfinite(samples.score)]
    spread = float(known.std())
    return float(known.mean()), spread if spread > 0 else 1.0


def _held_out(parts: Mapping[str, Samples]) -> tuple[str, Samples]:
    name = "test" if "test" in parts else "validation"
    return name, parts[name]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meon_ext"


def _settings_that_matter(config: TrainConfig) -> dict[str, Any]:
    """The configuration without what says nothing of the weights, such as the user's folders."""
    settings = asdict(config)
    for name in ("cache", "cache_gib", "workers", "threads", "tensorboard", "device", "checkpoint_steps", "pretrained"):
        del settings[name]
    settings["data"] = [{"name": d.name, "repeat": d.repeat} for d in config.data]
    settings["synthesis"]["pristine"] = [Path(p).name for p in config.synthesis.pristine]
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


@contextmanager
def _settings(config: TrainConfig) -> Iterator[None]:
    """torch's settings of this process for the run, and as they were after it."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
