"""How a model's predictions agree with a data set: with its scores, over its types, and over random splits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meon_ext import metrics
from meon_ext.datasets import Dataset
from meon_ext.datasets._records import split_places
from meon_ext.errors import MeonError
from meon_ext.evaluation._predictions import Prediction
from meon_ext.metrics import Logistic, MedianInterval

Array = NDArray[np.float64]
_METRICS = ("srcc", "krcc", "plcc", "rmse")


@dataclass(frozen=True)
class Agreement:
    """How predictions agree with scores on some of the pictures; NaN where that cannot be said.

    pictures: how many. srcc, krcc: rank correlations, positive is good. plcc, rmse: after a logistic fitted on these
    pictures, rmse in the unit of the scores; NaN for fewer pictures than twice its parameters.
    """

    pictures: int
    srcc: float
    krcc: float
    plcc: float
    rmse: float


@dataclass(frozen=True)
class TypeSummary:
    """How predicted types agree with those of the set, on the pictures whose type the model knows.

    classes: those among the model's that occur. accuracy: the share that is right, of all and for each class.
    confusion: (C, K) counts; a row for each of ``classes``, a column for each of ``predicted``, the model's classes.
    calibration_error: expected calibration error of the mean probabilities, 15 bins.
    """

    pictures: int
    accuracy: float
    calibration_error: float
    classes: tuple[str, ...]
    predicted: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    class_accuracy: Mapping[str, float]


@dataclass(frozen=True)
class SplitSummary:
    """Metrics on the test part of random content-disjoint splits: the median and its interval, by metric."""

    splits: int
    seed: int
    test_fraction: float
    level: float
    metrics: Mapping[str, MedianInterval]


@dataclass(frozen=True)
class Evaluation:
    """All of it. overall, by_type: None and empty without scores; types: None without types that the model knows."""

    overall: Agreement | None
    by_type: Mapping[str, Agreement]
    types: TypeSummary | None
    splits: SplitSummary | None
    logistic: Logistic
    failed: int

    def to_dict(self) -> dict[str, Any]:
        """As plain values that ``json.dumps`` takes; numbers that are not there are None."""
        values = asdict(self)
        if self.splits is not None:
            values["splits"]["metrics"] = {name: m._asdict() for name, m in self.splits.metrics.items()}
        plain: dict[str, Any] = without_nan(values)
        return plain


def without_nan(value: Any) -> Any:
    """The same with None for NaN, at every depth, and lists for tuples."""
    if isinstance(value, Mapping):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def evaluate(
    dataset: Dataset,
    predictions: Sequence[Prediction | MeonError],
    *,
    classes: Sequence[str] = (),
    pristine: Sequence[Prediction | MeonError] = (),
    logistic: Logistic = 4,
    splits: int = 0,
    test_fraction: float = 0.2,
    seed: int = 0,
    level: float = 0.95,
) -> Evaluation:
    """Compare predictions with the scores and types of a data set.

    dataset, predictions: as ``predict`` takes and gives them; pictures that could not be scored are left out.
    classes: the model's types. pristine: predictions for the set's references, which count towards the types only.
    logistic: parameters of the curve before PLCC and RMSE. splits, test_fraction, seed, level: so many splits are
        drawn, with seeds from ``seed`` on, each metric is computed on the test part of each, and the median over them
        is given with an interval of that level. Without splits, or with fewer than two contents, there is no summary.

    Raises ValueError for lists of different lengths or settings out of range.
    """
    if len(predictions) != len(dataset):
        raise ValueError(f"as many predictions as pictures are needed, got {len(predictions)} and {len(dataset)}")
    if splits < 0 or not 0 < test_fraction < 1:
        raise ValueError(f"splits must be 0 or more and test_fraction within 0 and 1, got {splits}, {test_fraction}")
    scores = dataset.oriented_scores()
    quality = np.array([p.quality if isinstance(p, Prediction) else math.nan for p in predictions], np.float64)
    good = np.flatnonzero(np.isfinite(scores) & np.isfinite(quality))
    records = [dataset.records[i] for i in good]
    x, y = quality[good], scores[good]
    names = sorted({record.distortion for record in records if record.distortion is not None})
    of_type = {name: [i for i, record in enumerate(records) if record.distortion == name] for name in names}
    labelled = [
        (record.distortion, p) for record, p in zip(dataset.records, predictions, strict=True) if record.distortion
    ]
    labelled += [("pristine", p) for p in pristine]
    return Evaluation(
        overall=_agreement(x, y, logistic) if len(good) else None,
        by_type={name: _agreement(x[places], y[places], logistic) for name, places in of_type.items()},
        types=_types([(name, p) for name, p in labelled if isinstance(p, Prediction)], classes),
        splits=_splits([r.group for r in records], x, y, logistic, splits, test_fraction, seed, level),
        logistic=logistic,
        failed=sum(isinstance(p, MeonError) for p in (*predictions, *pristine)),
    )


def _agreement(x: Array, y: Array, logistic: Logistic) -> Agreement:
    plcc = rmse = math.nan
    # With few pictures the curve passes through all of them, whatever the predictions are worth.
    if len(x) >= 2 * logistic and np.ptp(x) > 0 and np.ptp(y) > 0:
        fitted = metrics.fit_logistic(x, y, logistic)(x)
        plcc, rmse = metrics.plcc(fitted, y), metrics.rmse(fitted, y)
    return Agreement(len(x), metrics.srcc(x, y), metrics.krcc(x, y), plcc, rmse)


def _types(labelled: Sequence[tuple[str, Prediction]], classes: Sequence[str]) -> TypeSummary | None:
    known = [(name, p) for name, p in labelled if name in classes and p.distortion is not None]
    if not known:
        return None
    actual = [name for name, _ in known]
    predicted = [str(p.distortion) for _, p in known]
    place = {name: i for i, name in enumerate(classes)}
    counts = metrics.confusion_matrix(predicted, actual, classes)
    present = [name for name in classes if name in set(actual)]
    rows = {name: counts[place[name]] for name in present}
    probabilities = np.array([[p.probabilities.get(name, 0.0) for name in classes] for _, p in known])
    return TypeSummary(
        pictures=len(known),
        accuracy=metrics.accuracy(predicted, actual),
        calibration_error=metrics.expected_calibration_error(probabilities, [place[name] for name in actual]),
        classes=tuple(present),
        predicted=tuple(classes),
        confusion=tuple(tuple(int(count) for count in row) for row in rows.values()),
        class_accuracy={name: float(row[place[name]] / row.sum()) for name, row in rows.items()},
    )


def _splits(
    groups: Sequence[str],
    x: Array,
    y: Array,
    logistic: Logistic,
    splits: int,
    test_fraction: float,
    seed: int,
    level: float,
) -> SplitSummary | None:
    found: list[Agreement] = []
    for number in range(splits):
        places = split_places(groups, (1 - test_fraction, test_fraction), seed + number)
        if places is None:
            return None
        found.append(_agreement(x[places[1]], y[places[1]], logistic))
    if not found:
        return None
    return SplitSummary(
        splits,
        seed,
        test_fraction,
        level,
        {name: _median([getattr(agreement, name) for agreement in found], level) for name in _METRICS},
    )


def _median(values: Sequence[float], level: float) -> MedianInterval:
    """Over the splits in which the metric is known."""
    return metrics.median_with_interval([value for value in values if not math.isnan(value)], level)
