"""What every data set becomes: records of pictures, and splits of them by content."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meon_ext.errors import DatasetError


@dataclass(frozen=True, slots=True)
class Record:
    """One picture of a data set.

    path: the file.
    score: what people gave it, on the scale of its Dataset; None where the set has no scores.
    score_std: standard deviation of the score as the set gives it; None where it does not.
    distortion: what was done to the picture, by the name that ``meon_ext.distortions`` has for it, "pristine" for
        nothing; None where that is not known, as for photographs as people take them.
    level: 1 (least) to 5 (most); None where the set has no levels.
    reference: the file of the picture before the distortion; None where there is none.
    group: the content. Pictures of one scene share it, and a split never parts them.
    """

    path: Path
    score: float | None = None
    score_std: float | None = None
    distortion: str | None = None
    level: int | None = None
    reference: Path | None = None
    group: str = ""


@dataclass(frozen=True)
class Dataset:
    """The records of a data set, or of a part of it.

    name: of the set. root: its folder. records: in the set's own order.
    score_name: "MOS" or "DMOS". scale: the least and the greatest value that the score can take by the set's
        definition; where that is not bounded, among those it does take. higher_is_better: direction of the score.
        A set without scores has "MOS", (0, 100) and True.
    """

    name: str
    root: Path
    records: tuple[Record, ...]
    score_name: str = "MOS"
    scale: tuple[float, float] = (0.0, 100.0)
    higher_is_better: bool = True

    def __len__(self) -> int:
        return len(self.records)

    def subset(self, indices: Iterable[int]) -> Dataset:
        """The records at these places, in this order. Raises IndexError for a place that is not there."""
        return replace(self, records=tuple(self.records[int(i)] for i in indices))

    def where(self, predicate: Callable[[Record], bool]) -> Dataset:
        """The records for which ``predicate`` is true."""
        return replace(self, records=tuple(record for record in self.records if predicate(record)))

    def scores(self) -> NDArray[np.float64]:
        """The scores as the set has them, float64 (N,); NaN where there is none."""
        return np.array([math.nan if r.score is None else r.score for r in self.records], np.float64)

    def oriented_scores(self) -> NDArray[np.float64]:
        """The scores, negated where lower is better, so that larger is better in every set; float64 (N,)."""
        return self.scores() if self.higher_is_better else -self.scores()

    def pristine(self) -> Dataset:
        """The distinct references as records of their own: distortion "pristine", no score, the group of theirs."""
        seen: dict[Path, str] = {}
        for record in self.records:
            if record.reference is not None:
                seen.setdefault(record.reference, record.group)
        return replace(
            self, records=tuple(Record(path, distortion="pristine", group=group) for path, group in seen.items())
        )


def split(dataset: Dataset, fractions: Sequence[float] = (0.8, 0.2), seed: int = 0) -> tuple[Dataset, ...]:
    """Part a data set at random so that pictures of one content (``Record.group``) all go to one part.

    fractions: of the groups, one for each part; positive, adding up to 1. A part has as many groups as rounding allows,
        at least one. Records keep their order.
    seed: which of the splits. A group's place in the order follows from a hash (SHA-256) of the seed and its name, so
        the same names give the same parts on every machine and with every version of NumPy, in whatever folder.

    Raises ValueError for fractions that are anything else, DatasetError where there are fewer groups than parts.
    """
    places = split_places([record.group for record in dataset.records], fractions, seed)
    if places is None:
        raise DatasetError(
            f"{dataset.name}: its pictures are of too few contents to be parted into {len(fractions)}; "
            "name more pictures, or give their groups in a column of that name"
        )
    return tuple(dataset.subset(part) for part in places)


def split_places(groups: Sequence[str], fractions: Sequence[float], seed: int) -> list[list[int]] | None:
    """For each part of a split, as ``split`` says, the places of its pictures; None where there are too few groups."""
    if len(fractions) < 1 or not all(f > 0 for f in fractions) or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"fractions must be positive and add up to 1, got {tuple(fractions)}")
    order = sorted(set(groups), key=lambda group: _rank(seed, group))
    parts = len(fractions)
    if len(order) < parts:
        return None
    part_of: dict[str, int] = {}
    start, total = 0, 0.0
    for part, fraction in enumerate(fractions):
        total += fraction
        # At least one group for this part, and one left for each that follows.
        end = min(max(math.floor(total * len(order) + 0.5), start + 1), len(order) - (parts - 1 - part))
        part_of.update(dict.fromkeys(order[start:end], part))
        start = end
    places: list[list[int]] = [[] for _ in fractions]
    for place, group in enumerate(groups):
        places[part_of[group]].append(place)
    return places


def _rank(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{group}".encode("utf-8", "surrogateescape")).digest()
