"""From the network's answers for single crops to one answer for the picture. Pure NumPy functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Pool = Literal["mean", "min", "p5"]
POOLS: tuple[Pool, ...] = ("mean", "min", "p5")


def pool_raw(raw: NDArray[np.floating[Any]], pool: Pool, lower_is_better: bool) -> float:
    """Pool the raw values (K,) of the crops, K at least 1.

    "mean": their mean. "min": the worst crop's. "p5": the value that 5 % of the crops are worse than (linear
    interpolation between crops, as np.percentile). Which end is worse, ``lower_is_better`` says.
    """
    values = raw.astype(np.float64)  # float64 in crop order: the same sum however the crops were batched
    if pool == "mean":
        return float(values.mean())
    if pool == "min":
        return float(values.max() if lower_is_better else values.min())
    if pool == "p5":
        return float(np.percentile(values, 95 if lower_is_better else 5))
    raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {pool!r}")


def vote(probabilities: NDArray[np.floating[Any]]) -> int:
    """The class most crops give the largest probability, from (K, C).

    Of classes with equally many votes the one of larger mean probability wins, then the lower index; within a crop the
    lower index wins.
    """
    means = probabilities.astype(np.float64).mean(axis=0)
    votes = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    tied = np.flatnonzero(votes == votes.max())
    return int(tied[means[tied].argmax()])


def cover_mean(
    boxes: NDArray[np.int64], values: NDArray[np.floating[Any]], rows: NDArray[Any], columns: NDArray[Any]
) -> NDArray[np.float32]:
    """Mean of the values (K,) of the boxes (K, 4) that cover each point of rows x columns; NaN where none does.

    The mean is constant between neighbouring box edges, so it is worked out once for each such patch (a difference
    array, summed up) and then looked up: the cost does not depend on how large the boxes are.
    """
    x_edges, y_edges = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
    left, top, right, bottom = (
        np.searchsorted(edges, boxes[:, i]) for i, edges in enumerate((x_edges, y_edges, x_edges, y_edges))
    )
    total, count = (np.zeros((len(y_edges), len(x_edges))) for _ in range(2))
    for sums, weight in ((total, values.astype(np.float64)), (count, np.ones(len(values)))):
        np.add.at(sums, (top, left), weight)
        np.add.at(sums, (bottom, right), weight)
        np.add.at(sums, (top, right), -weight)
        np.add.at(sums, (bottom, left), -weight)
        np.cumsum(sums, axis=0, out=sums)
        np.cumsum(sums, axis=1, out=sums)
    covered = count > 0.5
    patch = np.where(covered, total / np.where(covered, count, 1), np.nan).astype(np.float32)
    # A point before the first edge or after the last lies in no box; the last edge's own patch is uncovered too.
    row = np.searchsorted(y_edges, rows, side="right") - 1
    column = np.searchsorted(x_edges, columns, side="right") - 1
    return patch[row[:, None], column]
