"""The loop of one training step: updates, learning rate, average of weights, checkpoints, the best on validation."""

from __future__ import annotations

import copy
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from meon_ext.errors import TrainingError
from meon_ext.model import MEON, MEONOutput
from meon_ext.modules import project_gdn_
from meon_ext.training.batches import Batches
from meon_ext.training.checkpoint import (
    load_optimizer_,
    load_state_,
    optimizer_tensors,
    prefixed,
    read_checkpoint,
    under,
    write_checkpoint,
)
from meon_ext.training.config import StepConfig, TrainConfig
from meon_ext.training.distributed import Processes
from meon_ext.training.journal import Journal
from meon_ext.training.network import CropNetwork, decayed_parameters
from meon_ext.training.progress import Progress
from meon_ext.training.soap import Soap

StepName = Literal["pretraining", "joint"]
_LOG_EVERY = 50
_AGREE_EVERY = 10


@dataclass(frozen=True)
class Step:
    """One of the two training steps.

    loss: of a batch, from the network's output and the batch's places among the samples (int64, on the device).
    validate: how good a model is, and what to log of it; higher is better. describe: what the checkpoints of this step
    are to say of the model.
    """

    name: StepName
    title: str
    config: StepConfig
    batches: Batches
    loss: Callable[[MEONOutput, Tensor], Tensor]
    validate: Callable[[MEON], tuple[float, Mapping[str, float]]]
    describe: Mapping[str, Any]


def learning_rate(config: StepConfig, update: int, per_epoch: int) -> float:
    """The learning rate of an update (counted from 0), as ``StepConfig`` says."""
    total = config.epochs * per_epoch
    warmup = min(round(config.warmup * per_epoch), total)
    if update < warmup:
        return config.learning_rate * (update + 1) / (warmup + 1)
    done = (update - warmup) / max(total - warmup, 1)
    if config.schedule == "cosine":
        least = 0.01
        return config.learning_rate * (least + (1 - least) * (1 + math.cos(math.pi * done)) / 2)
    if config.schedule == "steps":
        return config.learning_rate * 0.1 ** ((done >= 0.6) + (done >= 0.85))
    return config.learning_rate


def _optimizer(config: StepConfig, model: MEON) -> torch.optim.Optimizer:
    decayed, others = decayed_parameters(model)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if config.optimizer == "adam":
        return torch.optim.AdamW(groups, lr=config.learning_rate)
    groups[1]["rotated"] = False
    return Soap(groups, lr=config.learning_rate)


def optimise(
    step: Step, model: MEON, config: TrainConfig, folder: Path, group: Processes, journal: Journal, resume: bool
) -> None:
    """Train ``model``, in place, and leave it as it was best on validation, or as it was last (``StepConfig.keep``).

    folder: of checkpoints: "last.safetensors" and "best-STEP.safetensors". resume: go on from the last one.
    Raises TrainingError when the loss is no longer finite or a checkpoint cannot be written or read, and
    KeyboardInterrupt after an interrupt or a termination signal, once a checkpoint is written.
    """
    run = _Run(step, model, config, folder, group, journal)
    if resume:
        run.resume()
    run.go()
    best, _ = read_checkpoint(folder / f"best-{step.name}.safetensors")
    load_state_(model, best, folder)


class _Run:
    def __init__(
        self, step: Step, model: MEON, config: TrainConfig, folder: Path, group: Processes, journal: Journal
    ) -> None:
        self._step = step
        self._model = model
        self._config = config
        self._folder = folder
        self._group = group
        self._journal = journal
        self._average = copy.deepcopy(model).requires_grad_(False) if config.ema else None
        self._optimizer = _optimizer(step.config, model)
        self._update = 0
        self._best = -math.inf
        self._losses: list[Tensor] = []
        self._seconds = 0.0

    def resume(self) -> None:
        path = self._folder / "last.safetensors"
        tensors, state = read_checkpoint(path)
        load_state_(self._model, under("model", tensors), path)
        if self._average is not None:
            load_state_(self._average, under("average", tensors), path)
        load_optimizer_(self._optimizer, under("optimizer", tensors))
        self._update = int(state["update"])
        self._best = float(state["best"])

    def go(self) -> None:
        step, batches = self._step, self._step.batches
        total = step.config.epochs * batches.per_epoch
        network: nn.Module = CropNetwork(self._model)
        if self._group.world > 1:
            network = nn.parallel.DistributedDataParallel(network)
        progress = Progress(step.title, total, self._update, "crops")
        on_gpu = self._group.device.type == "cuda"
        began = time.monotonic()
        with _signals() as stop:
            for batch in batches.load(self._update, total, self._config.workers, pin=on_gpu):
                crops, places = (tensor.to(self._group.device, non_blocking=on_gpu) for tensor in batch)
                self._learn(network, crops, places)
                self._update += 1
                progress.step(f"epoch {1 + (self._update - 1) // batches.per_epoch}", step.config.batch_size)
                ends = self._update % batches.per_epoch == 0
                if self._update % _LOG_EVERY == 0 or ends:
                    self._log(time.monotonic() - began)
                    began = time.monotonic()
                if ends:
                    progress.clear()
                    self._validate()
                    began = time.monotonic()
                stops = self._stops(stop)
                if ends or self._update % self._config.checkpoint_steps == 0 or stops:
                    self._save()
                if stops:
                    raise KeyboardInterrupt
        progress.clear()

    def _stops(self, stop: _Stop) -> bool:
        """Whether to stop after this update. Several processes agree on it: the signal comes to each at another moment,
        and one that stopped alone would leave the others waiting."""
        if self._group.world > 1 and self._update % _AGREE_EVERY:
            return False
        return self._group.any(stop.came)

    def _learn(self, network: nn.Module, crops: Tensor, places: Tensor) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._step.config, self._update, self._step.batches.per_epoch)
        with torch.autocast(crops.device.type, torch.bfloat16, enabled=self._config.amp):
            output: MEONOutput = network(crops)
        loss = self._step.loss(output, places)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._step.config.clip:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._step.config.clip)
        self._optimizer.step()
        project_gdn_(self._model)
        self._losses.append(loss.detach())
        if self._average is not None:
            self._follow(self._average)

    @torch.no_grad()
    def _follow(self, average: MEON) -> None:
        # A decay that grows with the number of updates: the first weights, which are random, are soon forgotten.
        decay = min(self._config.ema, (1 + self._update) / (10 + self._update))
        for slow, fast in zip(average.state_dict().values(), self._model.state_dict().values(), strict=True):
            if slow.is_floating_point():
                slow.lerp_(fast, 1 - decay)
            else:
                slow.copy_(fast)

    def _log(self, seconds: float) -> None:
        loss = float(torch.stack(self._losses).mean())
        if not math.isfinite(loss):
            raise TrainingError(
                f"{self._step.title}: the loss is {loss} at update {self._update}; lower "
                f"{self._step.name}.learning_rate or set {self._step.name}.clip to 1, and begin anew"
            )
        rate = len(self._losses) * self._step.config.batch_size / max(seconds, 1e-9)
        self._losses.clear()
        group = self._optimizer.param_groups[0]
        self._journal.write(
            self._step.name, self._update, loss=loss, learning_rate=group["lr"], crops_per_second=round(rate, 1)
        )

    def _validate(self) -> None:
        value = 0.0
        if self._group.is_main:
            model = self._model if self._average is None else self._average
            value, figures = self._step.validate(model)
            self._journal.write(self._step.name, self._update, **figures)
            # Of equals the last: it has learned for longer, and few validation pictures give equal values often.
            if value >= self._best or self._step.config.keep == "last":
                path = self._folder / f"best-{self._step.name}.safetensors"
                write_checkpoint(path, model.state_dict(), {**self._step.describe, "update": self._update})
        self._best = max(self._best, self._group.shared(value))

    def _save(self) -> None:
        if self._losses and not math.isfinite(float(self._losses[-1])):
            self._log(1.0)  # raises
        if self._group.is_main:
            tensors = prefixed("model", self._model.state_dict())
            if self._average is not None:
                tensors |= prefixed("average", self._average.state_dict())
            tensors |= prefixed("optimizer", optimizer_tensors(self._optimizer))
            state = {"step": self._step.name, "update": self._update, "best": self._best}
            write_checkpoint(self._folder / "last.safetensors", tensors, state)
        self._group.wait()


class _Stop:
    came = False


@contextmanager
def _signals() -> Iterator[_Stop]:
    """Notes the first interrupt or termination signal instead of dying of it; the next one kills as ever."""
    stop = _Stop()
    former: dict[signal.Signals, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        stop.came = True
        signal.signal(number, former[signal.Signals(number)])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            former[number] = signal.signal(number, note)
    except ValueError:  # not the main thread, which alone may
        pass
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
