"""What a model says of whole pictures, and how good that is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from meon_ext import metrics
from meon_ext.model import MEON
from meon_ext.training.network import CropNetwork
from meon_ext.training.pictures import PictureLoader
from meon_ext.training.progress import Progress
from meon_ext.training.samples import Kind, Samples
from meon_ext.weights_io import CROP_SIZE

_BATCH = 64
_STRIDE = 128


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says of N pictures, from K crops of them in all.

    quality: float64 (N,), the mean over a picture's crops. logits: float64 (K, C), None where the model knows no types.
    picture: int64 (K,), which picture a crop is of.
    """

    quality: NDArray[np.float64]
    logits: NDArray[np.float64] | None
    picture: NDArray[np.int64]

    def probabilities(self, temperature: float = 1.0) -> NDArray[np.float64]:
        """The mean over each picture's crops of the types' probabilities, (N, C). Raises ValueError without types."""
        if self.logits is None:
            raise ValueError("the model knows no types")
        scaled = self.logits / temperature
        crops = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        crops /= crops.sum(axis=1, keepdims=True)
        sums = np.zeros((len(self.quality), crops.shape[1]))
        np.add.at(sums, self.picture, crops)
        return sums / np.bincount(self.picture, minlength=len(sums))[:, None]


@torch.no_grad()
def predict(
    model: MEON,
    samples: Samples,
    loader: PictureLoader,
    device: torch.device,
    max_crops: int,
    title: str = "validation",
) -> Predictions:
    """Ask the model about each picture, by at most ``max_crops`` crops spread over it evenly."""
    network = CropNetwork(model)
    was_training = model.training
    model.eval()
    qualities, logits, owners = [], [], []
    progress = Progress(title, len(samples))
    try:
        for crops, owner in _batches(samples, loader, max_crops, progress):
            output = network(torch.from_numpy(crops).to(device))
            qualities.append(output.quality.double().cpu().numpy())
            owners.append(owner)
            if output.logits is not None:
                logits.append(output.logits.double().cpu().numpy())
    finally:
        model.train(was_training)
        progress.clear()
    picture = np.concatenate(owners) if owners else np.zeros(0, np.int64)
    count = np.bincount(picture, minlength=len(samples))
    sums = np.bincount(picture, weights=np.concatenate(qualities) if owners else None, minlength=len(samples))
    return Predictions(sums / count, np.concatenate(logits) if logits else None, picture)


def _batches(
    samples: Samples, loader: PictureLoader, max_crops: int, progress: Progress
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    waiting: list[NDArray[np.uint8]] = []
    owners: list[int] = []
    for number, picture in enumerate(samples.pictures):
        pixels = loader.load(picture)
        for x, y in crop_places(pixels.shape[0], pixels.shape[1], max_crops):
            waiting.append(pixels[y : y + CROP_SIZE, x : x + CROP_SIZE])
            owners.append(number)
            if len(waiting) == _BATCH:
                yield np.stack(waiting), np.array(owners)
                waiting, owners = [], []
        progress.step()
    if waiting:
        yield np.stack(waiting), np.array(owners)


def crop_places(height: int, width: int, most: int) -> list[tuple[int, int]]:
    """(x, y) of the crops that scoring takes at stride 128; of more than ``most`` of them, so many, spread evenly."""
    rows, columns = (
        [min(i * _STRIDE, side - CROP_SIZE) for i in range(-(-(side - CROP_SIZE) // _STRIDE) + 1)]
        for side in (height, width)
    )
    places = [(x, y) for y in rows for x in columns]
    if len(places) <= most:
        return places
    return [places[i] for i in np.linspace(0, len(places) - 1, most).round().astype(int)]


def mean_srcc(quality: NDArray[np.float64], samples: Samples) -> float:
    """SRCC within each source, where there are at least 3 scores, and the mean of those; NaN for none.

    Different sets' scores have one scale but not one meaning, so pictures of two of them are not compared.
    """
    values = []
    for source in np.unique(samples.source):
        known = (samples.source == source) & np.isfinite(samples.score)
        if known.sum() >= 3:
            values.append(metrics.srcc(quality[known], samples.score[known]))
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


def type_accuracy(probabilities: NDArray[np.float64], samples: Samples, kinds: Sequence[Kind]) -> float:
    """The share of pictures whose likeliest type is theirs, of those whose type is among ``kinds``; NaN for none.

    probabilities: (N, len(kinds)); those of a type's levels are added up.
    """
    names = sorted({kind.distortion for kind in kinds})
    member = np.array([[kind.distortion == name for name in names] for kind in kinds], float)
    likeliest = np.array(names)[(probabilities @ member).argmax(axis=1)]
    known = np.isin(samples.distortion, names)
    return metrics.accuracy(likeliest[known], samples.distortion[known])


def thinned(samples: Samples, most: int) -> Samples:
    """At most so many of the samples, spread evenly."""
    if len(samples) <= most:
        return samples
    return samples.take(np.linspace(0, len(samples) - 1, most).round().astype(np.int64))


def table(predictions: Predictions, samples: Samples, classes: Sequence[str]) -> list[dict[str, str | float]]:
    """How good predictions are: a row for all and one for each type. NaN where something is not known.

    Columns: type, pictures, srcc, plcc (for all, after the logistic of four parameters; within a type as they are),
    rmse in the unit of the scores, accuracy (the share of pictures whose likeliest type is right).
    """
    likeliest: NDArray[np.str_] | None = None
    if predictions.logits is not None:
        likeliest = np.array(classes)[predictions.probabilities().argmax(axis=1)]
    names = [name for name in classes if (samples.distortion == name).any()]
    rows = []
    for name in ["all", *(names or [str(n) for n in np.unique(samples.distortion) if n])]:
        among = np.ones(len(samples), bool) if name == "all" else samples.distortion == name
        scored = among & np.isfinite(samples.score)
        typed = among & np.isin(samples.distortion, classes)
        quality, score = predictions.quality[scored], samples.score[scored]
        row: dict[str, str | float] = {"type": name, "pictures": int(among.sum())}
        row["srcc"] = metrics.srcc(quality, score) if len(score) else math.nan
        row["plcc"] = metrics.plcc(quality, score, logistic=4 if len(score) >= 10 and name == "all" else None)
        row["rmse"] = metrics.rmse(quality, score)
        row["accuracy"] = (
            math.nan if likeliest is None else metrics.accuracy(likeliest[typed], samples.distortion[typed])
        )
        rows.append(row)
    return rows


def formatted(rows: Sequence[dict[str, str | float]]) -> str:
    """The table for people."""
    lines = [f"{'type':<24}{'pictures':>9}{'SRCC':>8}{'PLCC':>8}{'RMSE':>8}{'types right':>13}"]
    for row in rows:
        figures = [row[name] for name in ("srcc", "plcc", "rmse", "accuracy")]
        texts = ["-" if isinstance(f, str) or math.isnan(f) else f"{f:.3f}" for f in figures]
        lines.append(f"{row['type']:<24}{row['pictures']:>9}{texts[0]:>8}{texts[1]:>8}{texts[2]:>8}{texts[3]:>13}")
    return "\n".join(lines)
