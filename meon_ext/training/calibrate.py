"""What is fitted on validation pictures once training is over: the temperature of the types, the scale of quality."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meon_ext.training.evaluate import Predictions
from meon_ext.weights_io import QualityMapping

_FEWEST = 10


def fit_temperature(predictions: Predictions, labels: NDArray[np.int64]) -> float:
    """The number to divide logits by so that pictures' probabilities fit best: least mean of -log p(true type).

    labels: int64 (N,), -1 where the type is not known. 1 with fewer than 10 known ones, which would tell little.
    Source: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017; here of the mean
    over a picture's crops, since that is what is reported.
    """
    from scipy.optimize import minimize_scalar

    known = labels >= 0
    if predictions.logits is None or known.sum() < _FEWEST:
        return 1.0

    def surprise(logarithm: float) -> float:
        p = predictions.probabilities(float(np.exp(logarithm)))[known, labels[known]]
        return float(-np.log(np.maximum(p, 1e-12)).mean())

    found = minimize_scalar(surprise, bounds=(np.log(0.1), np.log(10)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def fit_mapping(
    raw: NDArray[np.float64], score: NDArray[np.float64], scale: tuple[float, float], higher_is_better: bool
) -> QualityMapping:
    """From raw scores to quality: the line of least squares to the scores' place on their scale, cut at 0 and 100.

    A line, since the network was trained to the scale already: a curve through few pictures would flatten ends that
    later pictures need. raw, score: float64 (N,); score may be NaN. Where fewer than 10 are known, or the line would
    run the wrong way, raw is taken for the score itself.
    """
    worst, best = scale if higher_is_better else scale[::-1]
    known = np.isfinite(score)
    slope, offset = 100 / (best - worst), -100 * worst / (best - worst)
    if known.sum() >= _FEWEST and np.ptp(raw[known]) > 0:
        quality = slope * score[known] + offset
        fitted, at = np.polyfit(raw[known] - raw[known].mean(), quality, 1)
        if fitted * slope > 0:
            slope, offset = float(fitted), float(at - fitted * raw[known].mean())
    ends = sorted([(-offset / slope, 0.0), ((100 - offset) / slope, 100.0)])
    return QualityMapping(tuple(x for x, _ in ends), tuple(q for _, q in ends))
