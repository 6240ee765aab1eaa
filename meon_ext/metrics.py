"""How well predictions agree with what people said, and with what is known of the pictures.

Predictions and targets are arrays of one length N, in float64; larger means better on both sides wherever a sign
matters (``Dataset.oriented_scores`` turns DMOS round). scipy is imported when a correlation or a fit is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "LogisticFit",
    "MedianInterval",
    "accuracy",
    "confusion_matrix",
    "d_test",
    "expected_calibration_error",
    "fit_logistic",
    "krcc",
    "l_test",
    "median_with_interval",
    "p_test",
    "plcc",
    "rmse",
    "srcc",
]

Array = NDArray[np.float64]
Logistic = Literal[4, 5]
# Of the curves that a fit begins with: how steep they are, in standard deviations, and how many it goes on from.
_SLOPES = (0.3, 1.0, 3.0, 10.0)
_MOST_STARTS = 5


def srcc(prediction: ArrayLike, target: ArrayLike) -> float:
    """Spearman's rank correlation, ties by their mean rank; NaN where a side is constant or N < 2.

    Raises ValueError for lengths that differ or values that are not finite.
    """
    from scipy.stats import rankdata

    x, y = _pair(prediction, target)
    return _correlation(rankdata(x), rankdata(y))


def krcc(prediction: ArrayLike, target: ArrayLike) -> float:
    """Kendall's rank correlation, tau-b; NaN where a side is constant or N < 2. Raises as ``srcc`` does."""
    from scipy.stats import kendalltau

    x, y = _pair(prediction, target)
    if _is_constant(x) or _is_constant(y):
        return math.nan
    return float(kendalltau(x, y).statistic)


def plcc(prediction: ArrayLike, target: ArrayLike, logistic: Logistic | None = None) -> float:
    """Pearson's linear correlation; NaN where a side is constant or N < 2.

    logistic: 4 or 5 to map the prediction through ``fit_logistic`` with so many parameters first, which makes a falling
        relation positive too; None compares the values as they are.

    Raises ValueError for lengths that differ, values that are not finite, or too few of them to fit.
    """
    x, y = _pair(prediction, target)
    if logistic is not None and not (_is_constant(x) or _is_constant(y)):
        x = fit_logistic(x, y, logistic)(x)
    return _correlation(x, y)


def rmse(prediction: ArrayLike, target: ArrayLike) -> float:
    """Root of the mean squared difference, in the target's unit; NaN for N = 0. Raises as ``srcc`` does."""
    x, y = _pair(prediction, target)
    return float(np.sqrt(np.mean((x - y) ** 2))) if len(x) else math.nan


@dataclass(frozen=True)
class LogisticFit:
    """A fitted logistic; calling it maps predictions (any shape) to the target's scale.

    With four parameters, ``(b1 - b2) / (1 + exp((b3 - x) / b4)) + b2``, b4 > 0, which is monotone: from b2 to b1.
    With five, ``b1 (1/2 - 1 / (1 + exp(b2 (x - b3)))) + b4 x + b5``, which need not be.
    Both are the forms of VQEG and of Sheikh, Sabir and Bovik (IEEE TIP 2006).
    """

    parameters: tuple[float, ...]

    def __call__(self, prediction: ArrayLike) -> Array:
        return _logistic(np.asarray(prediction, np.float64), np.array(self.parameters))


def fit_logistic(prediction: ArrayLike, target: ArrayLike, parameters: Logistic = 4) -> LogisticFit:
    """The logistic from prediction to target of least squared error.

    Given where the curve lies and how steep it is, its other parameters follow by linear least squares. So places and
    slopes are tried on a grid first, and Levenberg and Marquardt's method goes on from the best of them: the answer
    depends on no starting values, and not on the units of either side.

    Raises ValueError for lengths that differ, values that are not finite, a constant prediction, or fewer pairs than
    parameters.
    """
    from scipy.optimize import least_squares

    if parameters not in (4, 5):
        raise ValueError(f"parameters must be 4 or 5, got {parameters!r}")
    x, y = _pair(prediction, target)
    if len(x) < parameters:
        raise ValueError(f"a logistic of {parameters} parameters needs at least as many pairs, got {len(x)}")
    if _is_constant(x):
        raise ValueError("a logistic cannot be fitted to predictions that are all equal")
    x_unit, y_unit = _Unit.of(x), _Unit.of(y)
    u, v = x_unit.apply(x), y_unit.apply(y)
    starts = _starts(u, v, parameters)
    best = starts[0]
    for start in starts:
        found = least_squares(lambda p: _logistic(u, p) - v, start, method="lm").x
        if _squared_error(found, u, v) < _squared_error(best, u, v):
            best = found
    return LogisticFit(_in_units(best, x_unit, y_unit))


def _logistic(x: Array, p: Array) -> Array:
    from scipy.special import expit

    if len(p) == 4:
        return np.asarray((p[0] - p[1]) * expit((x - p[2]) / p[3]) + p[1])
    # 1/2 - 1 / (1 + exp(t)) = expit(t) - 1/2, which cannot overflow.
    return np.asarray(p[0] * (expit(p[1] * (x - p[2])) - 0.5) + p[3] * x + p[4])


def _squared_error(p: Array, u: Array, v: Array) -> float:
    error = float(np.sum((_logistic(u, p) - v) ** 2))
    return error if math.isfinite(error) else math.inf


def _starts(u: Array, v: Array, parameters: Logistic) -> list[Array]:
    """The best logistics on a grid of places and slopes, best first; u and v have mean 0 and standard deviation 1.

    Only those that no neighbour on the grid is better than: the best few might all lead to one minimum.
    """
    from scipy.ndimage import minimum_filter
    from scipy.special import expit

    quantiles = np.quantile(u, (0.02, 0.15, 0.3, 0.5, 0.7, 0.85, 0.98))
    # Evenly over the range too: of quality that is cut at 0 and 100 most quantiles may be these.
    places = np.unique(np.concatenate([quantiles, np.linspace(u.min(), u.max(), 9)]))
    starts, errors = [], np.empty((len(places), len(_SLOPES)))
    for row, place in enumerate(places):
        for column, slope in enumerate(_SLOPES):
            curve = expit(slope * (u - place))
            columns = [curve, np.ones_like(u)] + ([u] if parameters == 5 else [])
            solution = np.linalg.lstsq(np.stack(columns, axis=1), v, rcond=None)[0]
            rise, offset = solution[:2]
            if parameters == 4:
                start = np.array([offset + rise, offset, place, 1 / slope])
            else:
                start = np.array([rise, slope, place, solution[2], offset + rise / 2])
            starts.append(start)
            errors[row, column] = _squared_error(start, u, v)
    lowest = np.flatnonzero(errors == minimum_filter(errors, 3, mode="nearest"))
    return [starts[i] for i in lowest[np.argsort(errors.flat[lowest], kind="stable")][:_MOST_STARTS]]


class _Unit(NamedTuple):
    """An affine unit: the value of zero, and the size of one."""

    zero: float
    one: float

    @classmethod
    def of(cls, values: Array) -> _Unit:
        return cls(float(values.mean()), float(values.std()) or 1.0)

    def apply(self, values: Array) -> Array:
        return (values - self.zero) / self.one


def _in_units(p: Array, x: _Unit, y: _Unit) -> tuple[float, ...]:
    """Parameters that were fitted in units, for values as they were before."""
    if len(p) == 4:
        high, low, place, width = p
        if width < 0:  # the same curve, written with a width above zero
            high, low, width = low, high, -width
        found = [high * y.one + y.zero, low * y.one + y.zero, place * x.one + x.zero, width * x.one]
    else:
        rise, slope, place, linear, offset = p
        gradient = linear * y.one / x.one
        found = [
            rise * y.one,
            slope / x.one,
            place * x.one + x.zero,
            gradient,
            offset * y.one + y.zero - gradient * x.zero,
        ]
    return tuple(float(value) for value in found)


def accuracy(predicted: Sequence[str] | ArrayLike, actual: Sequence[str] | ArrayLike) -> float:
    """The share of labels (names or numbers) that agree, 0 to 1; NaN for none. Raises ValueError as ``srcc`` does."""
    a, b = np.asarray(predicted), np.asarray(actual)
    _check_lengths(a, b)
    return float(np.mean(a == b)) if len(a) else math.nan


def confusion_matrix(predicted: Sequence[str], actual: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """Counts, int64 (C, C): row, the actual class; column, the predicted one; both in the order of ``classes``.

    Raises ValueError for lengths that differ, or a label that is not among the classes.
    """
    if len(predicted) != len(actual):
        raise ValueError(f"as many predicted as actual labels are needed, got {len(predicted)} and {len(actual)}")
    place = {name: i for i, name in enumerate(classes)}
    if unknown := sorted({*predicted, *actual} - set(place)):
        raise ValueError(f"labels that are not among the classes: {', '.join(unknown)}")
    counts = np.zeros((len(place), len(place)), np.int64)
    for p, a in zip(predicted, actual, strict=True):
        counts[place[a], place[p]] += 1
    return counts


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """How far the probability of the likeliest class is from the share of times it is right, 0 to 1.

    probabilities: (N, C), rows adding up to 1. labels: the true class of each row, integers in 0..C-1.
    bins: of equal width over 0..1, each closed above. The error is the mean over the bins of |mean probability - share
        right|, weighted by what lies in each (Guo, Pleiss, Sun and Weinberger, ICML 2017). NaN for N = 0.

    Raises ValueError for anything else.
    """
    p, truth = np.asarray(probabilities, np.float64), np.asarray(labels)
    if p.ndim != 2 or truth.shape != p.shape[:1]:
        raise ValueError(f"probabilities must be (N, C) and labels (N,), got {p.shape} and {truth.shape}")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    if not len(p):
        return math.nan
    if not np.allclose(p.sum(axis=1), 1, atol=1e-3) or p.min() < 0:  # also false for NaN
        raise ValueError("each row of probabilities must be 0 or more and add up to 1")
    if not np.issubdtype(truth.dtype, np.integer) or truth.min() < 0 or truth.max() >= p.shape[1]:
        raise ValueError(f"labels must be integers within 0..{p.shape[1] - 1}")
    confidence = p.max(axis=1)
    right = p.argmax(axis=1) == truth
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    # A bin's share times |mean confidence - share right| is |sum of (confidence - right)| / N.
    gaps = np.bincount(place, weights=confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(p))


class MedianInterval(NamedTuple):
    """A median, an interval around it, and the probability with which such intervals hold the true median."""

    median: float
    low: float
    high: float
    coverage: float


def median_with_interval(values: ArrayLike, level: float = 0.95) -> MedianInterval:
    """The median of values, and a confidence interval for the median of what they were drawn from.

    The interval lies between two of the sorted values, as many from the bottom as from the top: the narrowest whose
    coverage, a sum of binomial probabilities that holds for every distribution, is at least ``level`` (Conover,
    Practical Nonparametric Statistics, 3.2). Fewer than 6 values cannot reach 0.95; the interval is then from the least
    to the greatest, and its coverage says what that is worth. Nothing is drawn at random. NaN for no values.

    Over random splits of one data set it tells how much the choice of split matters, not what another set would give.

    Raises ValueError for values that are not finite or a level outside (0, 1).
    """
    from scipy.stats import binom

    x = np.sort(_finite("values", values))
    if not 0 < level < 1:
        raise ValueError(f"level must lie within 0 and 1, got {level}")
    n = len(x)
    if n == 0:
        return MedianInterval(math.nan, math.nan, math.nan, math.nan)
    # From the (k+1)-th least to the (k+1)-th greatest: wrong where at most k values lie on one side of the median.
    k = max((k for k in range((n + 1) // 2) if 1 - 2 * binom.cdf(k, n, 0.5) >= level), default=0)
    coverage = max(0.0, 1 - 2 * float(binom.cdf(k, n, 0.5)))
    return MedianInterval(float(np.median(x)), float(x[k]), float(x[n - 1 - k]), coverage)


def d_test(pristine: ArrayLike, distorted: ArrayLike) -> float:
    """How well one threshold on quality tells pristine from distorted pictures, 0.5 to 1.

    pristine, distorted: quality of each picture, higher better. At a threshold, the mean of the share of pristine
    pictures above it and that of distorted pictures at or below it; the result is the largest over all thresholds (the
    D-test of Ma et al., "Waterloo Exploration Database", IEEE TIP 2017). Raises ValueError where a side is empty or a
    value not finite.
    """
    p, d = np.sort(_finite("pristine", pristine)), np.sort(_finite("distorted", distorted))
    if not len(p) or not len(d):
        raise ValueError("the D-test needs pristine and distorted pictures")
    thresholds = np.concatenate([[-np.inf], p, d])
    above = 1 - np.searchsorted(p, thresholds, side="right") / len(p)
    below = np.searchsorted(d, thresholds, side="right") / len(d)
    return float(((above + below) / 2).max())


def l_test(quality: ArrayLike) -> float:
    """How consistently quality falls as a distortion grows, -1 to 1.

    quality: (G, L), a row for each picture and type, its columns from the least level to the most, L at least 2. The
    result is the mean over the rows of the rank correlation between quality and falling level (the L-test of Ma et al.,
    IEEE TIP 2017). A row of equal values orders nothing and counts as 0. Raises ValueError for another shape, no rows,
    or values that are not finite.
    """
    from scipy.stats import rankdata

    q = _finite("quality", quality, ndim=2)
    if q.shape[0] < 1 or q.shape[1] < 2:
        raise ValueError(f"quality must be (G, L) with G at least 1 and L at least 2, got {q.shape}")
    falling = np.arange(q.shape[1], 0, -1.0)
    rows = [_correlation(ranks, falling) for ranks in rankdata(q, axis=1)]
    return float(np.mean(np.nan_to_num(rows, nan=0.0)))


def p_test(better: ArrayLike, worse: ArrayLike) -> float:
    """The share of pairs in which the better picture got the higher quality, 0 to 1 (P-test, Ma et al., IEEE TIP 2017).

    better, worse: the quality of the two pictures of each pair. Equal values count as wrong. Raises ValueError for
    lengths that differ, no pairs, or values that are not finite.
    """
    b, w = _pair(better, worse)
    if not len(b):
        raise ValueError("the P-test needs pairs")
    return float(np.mean(b > w))


def _finite(name: str, values: ArrayLike, ndim: int = 1) -> Array:
    array = np.asarray(values, np.float64)
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension{'s' * (ndim > 1)}, got {array.ndim}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite numbers; leave out pictures without one")
    return array


def _check_lengths(a: NDArray[np.generic], b: NDArray[np.generic]) -> None:
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"two lists of one length are needed, got {a.shape} and {b.shape}")


def _pair(prediction: ArrayLike, target: ArrayLike) -> tuple[Array, Array]:
    x, y = _finite("prediction", prediction), _finite("target", target)
    _check_lengths(x, y)
    return x, y


def _is_constant(x: Array) -> bool:
    return len(x) < 2 or bool((x == x[0]).all())


def _correlation(x: Array, y: Array) -> float:
    """Pearson's, on values scaled so that their squares neither overflow nor vanish."""
    if _is_constant(x) or _is_constant(y):
        return math.nan
    a, b = ((v - v.mean()) / np.abs(v - v.mean()).max() for v in (x, y))
    return float(np.clip(a @ b / math.sqrt((a @ a) * (b @ b)), -1, 1))
