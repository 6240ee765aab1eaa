"""Metrics against SciPy and brute force, and what they do at the edges."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, stats

from meon_ext import metrics

Array = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)


@pytest.fixture(params=range(5))
def random(request: pytest.FixtureRequest) -> np.random.Generator:
    return np.random.default_rng([20, request.param])


def with_ties(random: np.random.Generator, count: int) -> tuple[Array, Array]:
    x = random.integers(0, 12, count).astype(float)
    return x, np.round(x + random.normal(0, 4, count))


# Correlations


def test_srcc(random: np.random.Generator) -> None:
    x, y = with_ties(random, 60)
    # Sums of 60 products of ranks that are exact: each rounds once.
    assert metrics.srcc(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=4 * 60 * EPS)
    assert metrics.srcc(x, -y) == pytest.approx(-metrics.srcc(x, y), abs=4 * 60 * EPS)


def test_krcc_counts_pairs(random: np.random.Generator) -> None:
    x, y = with_ties(random, 30)
    pairs = list(itertools.combinations(range(30), 2))
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in pairs]
    agree = sum(a * b for a, b in signs)
    expected = agree / math.sqrt(sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs))
    assert metrics.krcc(x, y) == pytest.approx(expected, abs=8 * EPS)


def test_plcc_and_rmse(random: np.random.Generator) -> None:
    x, y = random.normal(3, 2, (2, 50))
    assert metrics.plcc(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=8 * 50 * EPS)
    assert metrics.rmse(x, y) == pytest.approx(math.sqrt(sum((x - y) ** 2) / 50), rel=50 * EPS)


def test_plcc_of_values_whose_squares_overflow_or_vanish() -> None:
    x = np.array([1.0, 2.0, 4.0])
    for scale in (1e200, 1e-200):
        assert metrics.plcc(scale * x, x) == pytest.approx(1, abs=16 * EPS)


@pytest.mark.parametrize("function", [metrics.srcc, metrics.krcc, metrics.plcc, metrics.rmse])
def test_what_correlations_refuse(function: Callable[..., float]) -> None:
    with pytest.raises(ValueError, match="one length"):
        function([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="prediction must be finite"):
        function([1, math.nan], [1, 2])
    with pytest.raises(ValueError, match="target must be finite"):
        function([1, 2], [1, math.inf])
    with pytest.raises(ValueError, match="dimension"):
        function([[1, 2]], [[1, 2]])


@pytest.mark.parametrize("function", [metrics.srcc, metrics.krcc, metrics.plcc])
def test_correlation_with_a_constant_is_unknown(function: Callable[..., float]) -> None:
    assert math.isnan(function([1, 1, 1], [1, 2, 3]))
    assert math.isnan(function([1, 2, 3], [5, 5, 5]))
    assert math.isnan(function([1], [1]))
    assert math.isnan(function([], []))


def test_plcc_after_the_logistic_of_a_constant_is_unknown() -> None:
    assert math.isnan(metrics.plcc([1.0] * 9, list(range(9)), 4))
    assert math.isnan(metrics.plcc(list(range(9)), [1.0] * 9, 5))


# Logistic


def four(x: Array, b1: float, b2: float, b3: float, b4: float) -> Array:
    return np.asarray((b1 - b2) / (1 + np.exp((b3 - x) / b4)) + b2)


def five(x: Array, b1: float, b2: float, b3: float, b4: float, b5: float) -> Array:
    return np.asarray(b1 * (0.5 - 1 / (1 + np.exp(b2 * (x - b3)))) + b4 * x + b5)


FORMS: dict[int, Callable[..., Array]] = {4: four, 5: five}


@pytest.mark.parametrize(
    "parameters",
    [(90.0, 12.0, 40.0, 6.0), (10.0, 80.0, 55.0, 15.0), (30.0, 0.1, 50.0, 0.4, 3.0), (-60.0, 0.3, 20.0, -0.2, 90.0)],
)
def test_a_logistic_is_found_again(parameters: tuple[float, ...]) -> None:
    x = np.linspace(0, 100, 41)
    y = FORMS[len(parameters)](x, *parameters)
    fit = metrics.fit_logistic(x, y, len(parameters))  # type: ignore[arg-type]
    # The sum of squares is flat to EPS of itself, so the curve is known to the root of that.
    np.testing.assert_allclose(fit(x), y, atol=np.ptp(y) * math.sqrt(EPS))
    np.testing.assert_allclose(fit.parameters, parameters, rtol=1e-4)
    np.testing.assert_allclose(fit(x), FORMS[len(parameters)](x, *fit.parameters), rtol=1e-12)


@pytest.mark.parametrize("parameters", [4, 5])
def test_no_other_start_finds_a_better_logistic(random: np.random.Generator, parameters: Any) -> None:
    x = random.uniform(0, 100, 80)
    y = four(x, 9, 1, random.uniform(20, 80), random.uniform(2, 25)) + random.normal(0, random.uniform(0.1, 2), 80)
    ours = float(np.sum((metrics.fit_logistic(x, y, parameters)(x) - y) ** 2))
    best = math.inf
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(40):
            place, width = random.uniform(0, 100), random.uniform(1, 40)
            start = (
                [y.max(), y.min(), place, width] if parameters == 4 else [np.ptp(y), 1 / width, place, 0.0, y.mean()]
            )
            found = optimize.least_squares(lambda p: FORMS[parameters](x, *p) - y, start, max_nfev=200)
            best = min(best, 2 * found.cost)
    # least_squares stops where a step changes the sum by less than 1e-8 of it.
    assert ours <= best * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_five_parameters_do_no_worse_than_four_on_quality_that_is_cut_off(seed: int) -> None:
    """They hold every curve of four, but are found only if a start lies between the many values at the ends."""
    random = np.random.default_rng([7, seed])
    x = np.clip(random.uniform(-40, 160, 120), 0, 100)
    y = four(x, 1, 0, random.uniform(35, 65), random.uniform(3, 6)) + random.normal(0, 0.03, 120)
    four_, five_ = (float(np.sum((metrics.fit_logistic(x, y, n)(x) - y) ** 2)) for n in (4, 5))  # type: ignore[arg-type]
    assert five_ <= four_ * (1 + 1e-6)


@pytest.mark.parametrize("parameters", [4, 5])
def test_the_fit_does_not_depend_on_units(random: np.random.Generator, parameters: Any) -> None:
    x = random.uniform(0, 100, 50)
    y = four(x, 9, 1, 50, 12) + random.normal(0, 0.5, 50)
    plain = metrics.fit_logistic(x, y, parameters)(x)
    scaled = metrics.fit_logistic(1e6 * x - 7, -1e-3 * y + 5, parameters)(1e6 * x - 7)
    np.testing.assert_allclose((5 - scaled) / 1e-3, plain, atol=1e-3 * np.ptp(y))


def test_four_parameters_are_monotone_and_five_do_no_worse(random: np.random.Generator) -> None:
    x, y = np.sort(random.uniform(0, 1, 40)), random.normal(0, 1, 40)
    four_, five_ = metrics.fit_logistic(x, y, 4), metrics.fit_logistic(x, y, 5)
    steps = np.diff(four_(x))
    assert (steps >= 0).all() or (steps <= 0).all()
    line = np.polyval(np.polyfit(x, y, 1), x)  # five parameters hold every straight line
    assert np.sum((five_(x) - y) ** 2) <= np.sum((line - y) ** 2) * (1 + 1e-9)
    assert four_.parameters[3] > 0


def test_plcc_after_the_logistic_is_positive_for_a_falling_relation() -> None:
    x = np.linspace(0, 100, 30)
    y = four(x, 5, 90, 50, 9)
    assert metrics.plcc(x, y) < 0
    assert metrics.plcc(x, y, 4) == pytest.approx(1, abs=1e-9)
    assert metrics.plcc(x, y, 5) == pytest.approx(1, abs=1e-9)


def test_what_the_fit_refuses() -> None:
    with pytest.raises(ValueError, match="at least as many pairs, got 3"):
        metrics.fit_logistic([1, 2, 3], [1, 2, 3], 4)
    with pytest.raises(ValueError, match="all equal"):
        metrics.fit_logistic([1] * 6, [1, 2, 3, 4, 5, 6], 5)
    with pytest.raises(ValueError, match="4 or 5"):
        metrics.fit_logistic([1, 2, 3], [1, 2, 3], 3)  # type: ignore[arg-type]


def test_a_constant_target_is_fitted_by_itself() -> None:
    np.testing.assert_allclose(metrics.fit_logistic(np.arange(9.0), [3.0] * 9)(np.arange(9.0)), 3, atol=1e-9)


# Types


def test_accuracy_and_confusion() -> None:
    actual = ["a", "a", "b", "c", "c", "c"]
    predicted = ["a", "b", "b", "a", "c", "c"]
    assert metrics.accuracy(predicted, actual) == 4 / 6
    counts = metrics.confusion_matrix(predicted, actual, ["c", "a", "b"])
    np.testing.assert_array_equal(counts, [[2, 1, 0], [0, 1, 1], [0, 0, 1]])
    assert math.isnan(metrics.accuracy([], []))
    with pytest.raises(ValueError, match="not among the classes: x"):
        metrics.confusion_matrix(["x"], ["a"], ["a"])
    with pytest.raises(ValueError, match="got 1 and 2"):
        metrics.confusion_matrix(["a"], ["a", "a"], ["a"])
    with pytest.raises(ValueError, match="one length"):
        metrics.accuracy(["a"], ["a", "b"])


def test_calibration_error_by_its_definition(random: np.random.Generator) -> None:
    probabilities = random.dirichlet(np.ones(4), 300)
    labels = random.integers(0, 4, 300)
    for bins in (1, 7, 15):
        expected = 0.0
        for i in range(bins):
            top = probabilities.max(axis=1)
            inside = (top > i / bins) & (top <= (i + 1) / bins)
            if inside.any():
                right = probabilities.argmax(axis=1)[inside] == labels[inside]
                expected += inside.mean() * abs(top[inside].mean() - right.mean())
        assert metrics.expected_calibration_error(probabilities, labels, bins) == pytest.approx(expected, abs=300 * EPS)


def test_calibration_error_of_the_sure() -> None:
    sure = np.eye(3)
    assert metrics.expected_calibration_error(sure, [0, 1, 2]) == 0
    assert metrics.expected_calibration_error(sure, [1, 2, 0]) == 1
    assert math.isnan(metrics.expected_calibration_error(np.empty((0, 3)), np.empty(0, int)))


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([[0.5, 0.5]], [0, 1], "labels"),
        ([[0.5, 0.2]], [0], "add up to 1"),
        ([[1.5, -0.5]], [0], "add up to 1"),
        ([[math.nan, 1.0]], [0], "add up to 1"),
        ([[0.5, 0.5]], [2], "within 0..1"),
        ([[0.5, 0.5]], [-1], "within 0..1"),
        ([[0.5, 0.5]], [0.0], "integers"),
    ],
)
def test_what_calibration_refuses(probabilities: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.expected_calibration_error(probabilities, labels)


def test_calibration_needs_a_bin() -> None:
    for count in (0, 1):  # pictures: it is refused for none, too
        with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
            metrics.expected_calibration_error(np.ones((count, 1)), [0] * count, bins=0)


# Median


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 10, 25])
def test_the_interval_is_the_narrowest_that_covers(count: int) -> None:
    values = np.random.default_rng(count).permutation(count).astype(float)
    found = metrics.median_with_interval(values)
    assert found.median == (count - 1) / 2
    k = int(found.low)  # the values are their ranks
    assert found.high == count - 1 - k

    def coverage(k: int) -> float:
        # The median lies between ranks k and count - 1 - k unless at most k of the values are below it, or above it.
        outside = sum(math.comb(count, below) for below in range(count + 1) if below <= k or below >= count - k)
        return 1 - outside / 2**count

    assert found.coverage == pytest.approx(max(coverage(k), 0), abs=count * EPS)
    assert coverage(k) >= 0.95 or k == 0
    assert k + 1 > (count - 1) / 2 or coverage(k + 1) < 0.95


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    trials = 2000
    held = 0
    for _ in range(trials):
        found = metrics.median_with_interval(random.exponential(1, 12))
        held += found.low <= math.log(2) <= found.high
    deviation = math.sqrt(found.coverage * (1 - found.coverage) / trials)
    assert held / trials == pytest.approx(found.coverage, abs=4.5 * deviation)


def test_the_median_of_nothing_and_what_it_refuses() -> None:
    assert all(map(math.isnan, metrics.median_with_interval([])))
    for level in (0, 1):
        with pytest.raises(ValueError, match="level"):
            metrics.median_with_interval([1.0], level=level)
    with pytest.raises(ValueError, match="values must be finite"):
        metrics.median_with_interval([math.nan])


# Waterloo tests


def test_d_test_tries_every_threshold(random: np.random.Generator) -> None:
    pristine, distorted = random.integers(3, 12, 15), random.integers(0, 9, 40)
    expected = max(
        (np.mean(pristine > t) + np.mean(distorted <= t)) / 2 for t in [-math.inf, *np.arange(-0.5, 13, 0.5), math.inf]
    )
    assert metrics.d_test(pristine, distorted) == pytest.approx(expected, abs=8 * EPS)


def test_d_test_at_its_ends() -> None:
    assert metrics.d_test([5, 6], [1, 2, 3]) == 1
    assert metrics.d_test([1, 2], [5, 6]) == 0.5
    assert metrics.d_test([1, 1], [1]) == 0.5
    for pristine, distorted in (([], [1]), ([1], [])):
        with pytest.raises(ValueError, match="needs pristine and distorted"):
            metrics.d_test(pristine, distorted)
    with pytest.raises(ValueError, match="pristine must be finite"):
        metrics.d_test([math.nan], [1])
    with pytest.raises(ValueError, match="distorted must be finite"):
        metrics.d_test([1], [math.nan])


def test_l_test_is_the_mean_rank_correlation(random: np.random.Generator) -> None:
    quality = random.integers(0, 6, (20, 5)).astype(float)
    quality[3] = 2.0  # orders nothing
    rows = [0.0 if np.ptp(row) == 0 else stats.spearmanr(row, [5, 4, 3, 2, 1]).statistic for row in quality]
    assert metrics.l_test(quality) == pytest.approx(np.mean(rows), abs=64 * EPS)
    assert metrics.l_test([[9, 7, 5, 3, 1]]) == 1
    assert metrics.l_test([[1, 2, 3]]) == -1
    for quality in ([[1], [2]], np.empty((0, 5))):
        with pytest.raises(ValueError, match=r"\(G, L\)"):
            metrics.l_test(quality)
    with pytest.raises(ValueError, match="2 dimensions, got 1"):
        metrics.l_test([1, 2])


def test_p_test_counts_ties_as_wrong() -> None:
    assert metrics.p_test([3, 2, 1, 5], [1, 2, 3, 4]) == 0.5
    with pytest.raises(ValueError, match="needs pairs"):
        metrics.p_test([], [])
