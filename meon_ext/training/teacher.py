"""Scores for synthetic pictures that nobody has judged: a full-reference metric's word, on the scale of people's."""

from __future__ import annotations

import csv
import io
import multiprocessing
import os
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from meon_ext._files import write_whole
from meon_ext.full_reference import LUMA, haarpsi, mdsi
from meon_ext.metrics import LogisticFit
from meon_ext.training.cache import PictureCache
from meon_ext.training.config import TrainConfig
from meon_ext.training.pictures import PRISTINE, Picture, PictureLoader
from meon_ext.training.progress import Progress
from meon_ext.training.samples import judged_pictures

# DMOS of each metric, fitted by ``python/fit_full_reference.py`` to those pictures of LIVE whose references are of
# Kodak's PhotoCD, which are in the public domain.
_TO_DMOS = {
    "mdsi": LogisticFit((126.41288229196934, -21.955831510941017, 0.3381019140168467, 0.1488458817251019)),
    "haarpsi": LogisticFit((-56982.30890475294, 140.1791852014483, 5.302561910864158, 0.7084864638987325)),
}
_OF_EQUAL = {"mdsi": 0.0, "haarpsi": 1.0}
# Quality points for a grey level that the mean luminance moves by, which neither sees. Chosen, not fitted.
_PER_GREY_LEVEL = 0.4


def teacher_quality(reference: NDArray[np.uint8], distorted: NDArray[np.uint8]) -> float:
    """Quality of a distorted picture, 0 (worst) to 100, from MDSI, HaarPSI and the change of the mean luminance.

    Both uint8 (H, W, 3), RGB. The mean of the two metrics' places on LIVE's DMOS decides; equal pictures have 100.
    Raises ImageError for shapes that differ or a side under ``full_reference.MIN_SIDE``.
    """
    values = {"mdsi": mdsi(reference, distorted), "haarpsi": haarpsi(reference, distorted)}
    return quality_of(values, luminance_shift(reference, distorted))


def quality_of(values: Mapping[str, float], shift: float) -> float:
    """Quality 0 to 100 of values of "mdsi" and "haarpsi" and of ``luminance_shift``."""
    qualities = [_quality(float(fit(values[name])), float(fit(_OF_EQUAL[name]))) for name, fit in _TO_DMOS.items()]
    return float(np.clip(np.mean(qualities) - _PER_GREY_LEVEL * shift, 0, 100))


def dmos_as_quality(dmos: float) -> float:
    """LIVE's DMOS on the teacher's scale, 0 (worst) to 100: people's own word beside the teacher's."""
    return _quality(dmos, float(np.mean([fit(_OF_EQUAL[name]) for name, fit in _TO_DMOS.items()])))


def _quality(dmos: float, best: float) -> float:
    """100 at the DMOS that equal pictures have, 0 at one of 100."""
    return float(np.clip(100 - 100 * (dmos - best) / (100 - best), 0, 100))


def luminance_shift(reference: NDArray[np.uint8], distorted: NDArray[np.uint8]) -> float:
    """By how many grey levels the mean luminance differs."""
    change = distorted.mean(axis=(0, 1)) - reference.mean(axis=(0, 1))
    return float(abs(change @ LUMA))


def write_scores(config: TrainConfig, path: str | os.PathLike[str], cache: PictureCache, jobs: int = 1) -> int:
    """Write the CSV that ``synthesis.scores`` takes, for the pictures that this configuration makes; returns its rows.

    Each score is the mean over a picture's variants. cache: keeps the pictures for the run. jobs: processes.
    Raises DatasetError and ImageError for pristine pictures that cannot be read.
    """
    loader = PictureLoader.of(config.synthesis, cache)
    judged = judged_pictures(config)
    # Of a picture without distortion one variant will do: all have the score of equal pictures, though some are coded.
    work = [
        [
            Picture(str(r.path), r.distortion or PRISTINE, r.level or 0, v)
            for v in range(config.synthesis.variants if r.level else 1)
        ]
        for _, r in judged
    ]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("image", "distortion", "level", "score"))
    progress = Progress("teacher", len(work))
    with multiprocessing.get_context("forkserver").Pool(jobs) as pool:
        for (name, record), score in zip(judged, pool.imap(_Scorer(loader), work, chunksize=32), strict=True):
            rows.writerow((name, record.distortion, record.level or 0, f"{score:.2f}"))
            progress.step()
    progress.clear()
    write_whole(path, text.getvalue().encode())
    return len(work)


class _Scorer:
    """The mean score of a picture's variants; a class, so that it can be sent to another process."""

    def __init__(self, loader: PictureLoader) -> None:
        self._loader = loader

    def __call__(self, pictures: Sequence[Picture]) -> float:
        if pictures[0].distortion == PRISTINE:
            return 100.0
        scores = [teacher_quality(self._loader.undistorted(p), self._loader.load(p)) for p in pictures]
        return float(np.mean(scores))
