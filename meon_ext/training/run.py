"""A whole training run: gather, step 1, step 2, calibrate, write the weights, test them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from meon_ext._files import write_whole
from meon_ext.errors import ConfigError, DatasetError, TrainingError
from meon_ext.training.cache import PictureCache
from meon_ext.training.checkpoint import load_state_, read_checkpoint
from meon_ext.training.config import TrainConfig
from meon_ext.training.config_io import config_from_mapping, load_config, save_config
from meon_ext.training.distributed import Processes, processes
from meon_ext.training.journal import Journal
from meon_ext.training.network import begin_with_pretrained_, new_model, pretraining_model, rescale_scores_
from meon_ext.training.optimise import optimise
from meon_ext.training.pictures import Picture, PictureLoader
from meon_ext.training.report import TrainResult, read_result, types_result, write_result
from meon_ext.training.samples import Gathered, Kind, gather
from meon_ext.training.steps import Steps, Unit
from meon_ext.weights_io import CROP_SIZE

__all__ = ["CONFIG_FILE", "TrainResult", "resume", "train"]

CONFIG_FILE = "config.json"
_SHOWN = 20


def train(config: TrainConfig, out: str | os.PathLike[str]) -> TrainResult:
    """Train a network and write all of the run to the folder ``out``.

    Written are ``config.json``, ``log.jsonl``, ``tensorboard/``, ``checkpoints/``, ``result.json`` and
    ``weights.safetensors``. Under torchrun, all processes call this and each takes its share of every batch.

    Raises ConfigError, DatasetError (with all that is missing, before anything is trained), TrainingError for a folder
    that holds a run already or a loss that is no longer finite, KeyboardInterrupt after a signal, once a checkpoint is
    written.
    """
    with processes(config.device) as group:
        return _Run(config, Path(out), group).go(begin=True)


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
        self._cache = PictureCache(config.cache or _default_cache(), int(config.cache_gib * (1 << 30)))
        loader = PictureLoader.of(config.synthesis, self._cache)
        self._steps = Steps(config, loader, group)
        self._has_step_1 = config.pretraining.epochs > 0 and config.network.task != "single" and not config.pretrained

    def go(self, begin: bool) -> TrainResult:
        gathered = gather(self._config)
        self._check_settings()
        if self._group.is_main:
            self._check_files(gathered)
            if begin:
                self._make_folder()
        self._group.wait()
        with _torch_settings(self._config):
            at = self._resume_point()
            tensorboard = self._config.tensorboard
            journal = Journal(self._folder, at, tensorboard=tensorboard, enabled=self._group.is_main)
            try:
                return self._train(gathered, at, journal)
            finally:
                journal.close()

    def _train(self, gathered: Gathered, at: tuple[str, int] | None, journal: Journal) -> TrainResult:
        config, device = self._config, self._group.device
        checkpoints, group = self._checkpoints, self._group
        in_step_2 = at is not None and at[0] == "joint"
        if self._has_step_1 and not in_step_2:
            model = pretraining_model(config.network, gathered.kinds, config.seed).to(device)
            step = self._steps.pretraining(gathered)
            optimise(step, model, config, checkpoints, group, journal, resume=at is not None)
            if not config.joint.epochs:
                return types_result(model, gathered, self._steps, self._own_pretrained)
        model = new_model(config.network, gathered.classes, config.seed)
        if self._has_step_1 or config.pretrained:
            tensors, state = read_checkpoint(config.pretrained or self._own_pretrained)
            if "classes" in state:
                if tuple(state["classes"]) != gathered.classes:
                    raise ConfigError(f"pretrained: {config.pretrained} is of other types; name one of step 1")
                load_state_(model, tensors, config.pretrained)
            elif not config.joint.epochs:
                raise ConfigError(f"pretrained: {config.pretrained} is of step 1, and joint.epochs is 0; let it learn")
            else:
                kinds = [Kind(str(name), int(level)) for name, level in state.get("kinds", [])]
                begin_with_pretrained_(model, tensors, kinds)
        model.to(device)
        unit = Unit.of(gathered.joint["training"])
        step = self._steps.joint(gathered, unit)
        if config.joint.epochs:
            optimise(step, model, config, checkpoints, group, journal, resume=in_step_2)
        rescale_scores_(model, unit.spread, unit.centre)
        if group.is_main:
            write_result(model, gathered, self._steps, self._folder)
        group.wait()
        return read_result(model, self._folder)

    @property
    def _own_pretrained(self) -> Path:
        return self._checkpoints / "best-pretraining.safetensors"

    def _resume_point(self) -> tuple[str, int] | None:
        """Step and update of the last checkpoint, if there is one."""
        path = self._checkpoints / "last.safetensors"
        if not path.exists():
            return None
        _, state = read_checkpoint(path)
        return str(state["step"]), int(state["update"])

    def _check_settings(self) -> None:
        config = self._config
        for name in ("pretraining", "joint"):
            unit = self._group.world * (2 if name == "joint" and config.rank_weight else 1)
            if getattr(config, name).batch_size % unit:
                raise ConfigError(f"{name}.batch_size must be a multiple of {unit} for {self._group.world} processes")
        if config.pretrained and not Path(config.pretrained).is_file():
            raise ConfigError(f"pretrained: {config.pretrained} is not there; name best-pretraining.safetensors")
        if not config.joint.epochs and not self._has_step_1 and not config.pretrained:
            raise ConfigError("joint.epochs is 0, and there is no step 1 to run either; give one of them epochs")

    def _check_files(self, gathered: Gathered) -> None:
        parts = [*gathered.pretraining.values(), *gathered.joint.values()]
        pictures = {picture for part in parts for picture in part.pictures}
        missing = sorted({p.path for p in pictures if not Path(p.path).is_file()})
        if missing:
            shown = "\n  ".join(missing[:_SHOWN])
            raise DatasetError(f"{len(missing)} pictures are missing:\n  {shown}\nBring them back, or name other data")
        side = self._config.synthesis.side or 2 * CROP_SIZE
        decoded = {Picture(picture.path) for picture in pictures}
        keys = {self._steps.loader.key(picture) for picture in pictures | decoded}
        self._cache.make_room(keys, 3 * side * side)

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


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meon_ext"


@contextmanager
def _torch_settings(config: TrainConfig) -> Iterator[None]:
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
