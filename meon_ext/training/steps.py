"""The two training steps: what each learns from, its loss, and how it is validated."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from meon_ext.model import MEON, MEONOutput
from meon_ext.training import evaluate, losses
from meon_ext.training.batches import Batches
from meon_ext.training.config import StepConfig, TrainConfig
from meon_ext.training.distributed import Processes
from meon_ext.training.optimise import Step, StepName
from meon_ext.training.pictures import PRISTINE, PictureLoader
from meon_ext.training.samples import Gathered, Kind, Samples

Loss = Callable[[MEONOutput, Tensor], Tensor]
Validate = Callable[[MEON], tuple[float, Mapping[str, float]]]


@dataclass(frozen=True)
class Unit:
    """What the network learns instead of scores: ``(score - centre) / spread``, of mean 0 and standard deviation 1."""

    centre: float
    spread: float

    @classmethod
    def of(cls, samples: Samples) -> Unit:
        """The unit of these samples' scores, of which there must be one."""
        known = samples.score[np.isfinite(samples.score)]
        return cls(float(known.mean()), float(known.std()) or 1.0)


@dataclass(frozen=True)
class Steps:
    """Makes the steps of a run."""

    config: TrainConfig
    loader: PictureLoader
    group: Processes

    def pretraining(self, gathered: Gathered) -> Step:
        """Step 1: cross-entropy over the kinds; the best epoch by the share of types that are right."""
        samples, kinds = gathered.pretraining["training"], gathered.kinds
        labels = torch.from_numpy(samples.labels(kinds)).to(self.group.device)
        validation = self._validation(gathered.pretraining)
        known = validation.labels(kinds)

        def loss(output: MEONOutput, places: Tensor) -> Tensor:
            return losses.type_cross_entropy(_logits(output), labels[places])

        def validate(model: MEON) -> tuple[float, Mapping[str, float]]:
            probabilities = self.predict(model, validation).probabilities()
            true = probabilities[known >= 0, known[known >= 0]]
            figures = {
                "accuracy": evaluate.type_accuracy(probabilities, validation, kinds),
                "cross_entropy": float(-np.log(np.maximum(true, 1e-12)).mean()) if len(true) else math.nan,
            }
            _say("step 1", figures, len(validation))
            return figures["accuracy"], _finite(figures)

        return self._step("pretraining", "step 1", samples, loss, validate, {"kinds": [list(k) for k in kinds]})

    def joint(self, gathered: Gathered, unit: Unit) -> Step:
        """Step 2: quality and types together; the best epoch by SRCC."""
        config, device = self.config, self.group.device
        samples = gathered.joint["training"]
        classes = [Kind(name) for name in gathered.classes]
        spoiled = any(data.spoiled for data in config.data) and PRISTINE in gathered.classes
        pristine = gathered.classes.index(PRISTINE) if spoiled else None
        labels = torch.from_numpy(samples.labels(classes)).to(device)
        scores = torch.from_numpy((samples.score - unit.centre) / unit.spread).float().to(device)
        orders = torch.from_numpy(_order(samples, gathered.higher_is_better)).to(device)
        validation = self._validation(gathered.joint)

        def loss(output: MEONOutput, places: Tensor) -> Tensor:
            quality = output.quality.float()
            total = losses.quality_l1(quality, scores[places])
            if output.logits is not None and config.type_weight:
                total = total + config.type_weight * losses.type_cross_entropy(
                    _logits(output), labels[places], pristine
                )
            if config.rank_weight:
                total = total + config.rank_weight * losses.ranking(quality, orders[places], config.rank_margin)
            return total

        def validate(model: MEON) -> tuple[float, Mapping[str, float]]:
            found = self.predict(model, validation)
            known = np.isfinite(validation.score)
            error = np.abs(found.quality[known] * unit.spread + unit.centre - validation.score[known])
            figures = {
                "srcc": evaluate.mean_srcc(found.quality, validation),
                "l1": float(error.mean()) if len(error) else math.nan,
            }
            if found.logits is not None:
                figures["accuracy"] = evaluate.type_accuracy(found.probabilities(), validation, classes)
            _say("step 2", figures, len(validation))
            # Too few pictures to rank: the error has to do; without any score, nothing tells epochs apart.
            values = [figures["srcc"], -figures["l1"], 0.0]
            return next(value for value in values if math.isfinite(value)), _finite(figures)

        return self._step("joint", "step 2", samples, loss, validate, {"classes": list(gathered.classes)})

    def predict(self, model: MEON, samples: Samples) -> evaluate.Predictions:
        """What a model says of these pictures."""
        return evaluate.predict(model, samples, self.loader, self.group.device, self.config.validation_crops)

    def _validation(self, parts: Mapping[str, Samples]) -> Samples:
        return evaluate.thinned(parts["validation"], self.config.validation_pictures)

    def _step(
        self, name: StepName, title: str, samples: Samples, loss: Loss, validate: Validate, describe: Mapping[str, Any]
    ) -> Step:
        batches = batches_of(self.config, name, samples, self.loader, self.group.rank, self.group.world)
        return Step(name, title, _config_of(self.config, name), batches, loss, validate, describe)


def batches_of(
    config: TrainConfig, name: StepName, samples: Samples, loader: PictureLoader, rank: int = 0, world: int = 1
) -> Batches:
    """The batches that a step of this name learns from, of these samples."""
    step = _config_of(config, name)
    return Batches(
        samples,
        loader,
        step.batch_size,
        crops=step.crops,
        seed=config.seed,
        stream=("pretraining", "joint").index(name),
        flip=config.flip,
        turn=config.turn,
        pairs=name == "joint" and config.rank_weight > 0,
        rank=rank,
        world=world,
    )


def _config_of(config: TrainConfig, name: StepName) -> StepConfig:
    return config.pretraining if name == "pretraining" else config.joint


def _order(samples: Samples, higher_is_better: bool) -> NDArray[np.float64]:
    """What a pair's pictures are ordered by: their scores, or, where none of their like has one, their levels; NaN for
    a picture without a score among some with, since levels and scores do not compare."""
    scored = np.isfinite(samples.score)
    some = np.isin(samples.pair, samples.pair[scored])
    level = samples.level if not higher_is_better else -samples.level
    return np.where(some, samples.score, level)


def _logits(output: MEONOutput) -> Tensor:
    assert output.logits is not None
    return output.logits.float()


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _say(title: str, figures: Mapping[str, float], pictures: int) -> None:
    text = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
    print(f"{title}: {text} on {pictures} validation pictures", file=sys.stderr, flush=True)
