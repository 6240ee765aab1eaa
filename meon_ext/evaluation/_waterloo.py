"""The D-, L- and P-test of the Waterloo Exploration Database (Ma et al., IEEE TIP 2017), on any pristine pictures.

They need no human scores: the distorted pictures are made from the pristine ones as they are asked for.
"""

from __future__ import annotations

import math
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meon_ext import metrics
from meon_ext._version import __version__
from meon_ext.datasets import Dataset
from meon_ext.errors import MeonError
from meon_ext.evaluation._agreement import without_nan
from meon_ext.evaluation._predictions import Prediction, ScoreFile, content_of, key_of

if TYPE_CHECKING:
    from meon_ext.scoring import Scorer

_BLOCK = 1 << 20

Pixels = NDArray[np.uint8]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class WaterlooResult:
    """What the three tests give; NaN where one has no pictures or pairs.

    pristine, distorted: how many pictures of each were scored. failed: how many could not be. types: made of each.
    d_test: 0.5 to 1. l_test: -1 to 1, and for each type. p_test: 0 to 1, over ``pairs`` discriminable pairs.
    margin: by how much three full-reference metrics agree that one of a pair is better, in points of 100.
    """

    pristine: int
    distorted: int
    failed: int
    types: tuple[str, ...]
    d_test: float
    l_test: float
    l_test_by_type: Mapping[str, float]
    p_test: float
    pairs: int
    margin: float

    def to_dict(self) -> dict[str, Any]:
        """As plain values that ``json.dumps`` takes; numbers that are not there are None."""
        plain: dict[str, Any] = without_nan(asdict(self))
        return plain


def discriminable_pairs(
    qualities: ArrayLike, margin: float, *, limit: int = 2_000_000, seed: int = 0
) -> NDArray[np.int64]:
    """Pairs of pictures of which every metric says, by more than a margin, that the first is the better one.

    qualities: (M, N), M metrics of N pictures on one scale, higher better.
    limit: all pairs are looked at where there are no more than that, and otherwise so many, drawn at random with seed.

    Returns int64 (P, 2), places of the better and the worse picture. Raises ValueError for another shape.
    """
    q = np.asarray(qualities, np.float64)
    if q.ndim != 2 or q.shape[0] < 1:
        raise ValueError(f"qualities must be (metrics, pictures), got {q.shape}")
    count = q.shape[1]
    found = [np.empty((0, 2), np.int64)]
    for first, second in _pairs(count, limit, np.random.default_rng(seed)):
        difference = q[:, first] - q[:, second]
        better, worse = (difference > margin).all(axis=0), (difference < -margin).all(axis=0)
        found.append(np.stack([first[better], second[better]], axis=1))
        found.append(np.stack([second[worse], first[worse]], axis=1))
    return np.concatenate(found)


def _pairs(
    count: int, limit: int, random: np.random.Generator
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All pairs of different pictures, or ``limit`` at random, in blocks that take little memory."""
    if count * (count - 1) // 2 <= limit:
        for place in range(count - 1):
            second = np.arange(place + 1, count)
            yield np.full_like(second, place), second
        return
    for start in range(0, limit, _BLOCK):
        size = min(_BLOCK, limit - start)
        first = random.integers(0, count, size)
        yield first, (first + random.integers(1, count, size)) % count


def waterloo_tests(
    scorer: Scorer,
    dataset: Dataset,
    *,
    types: Sequence[str] | None = None,
    margin: float = 40.0,
    pair_limit: int = 2_000_000,
    seed: int = 0,
    file: ScoreFile | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> WaterlooResult:
    """Run the three tests on a set's pictures, which are taken as pristine.

    types: of distortion, each made at levels 1 to 5; by default the four of the paper, JPEG 2000, JPEG, white noise and
        blur. margin, pair_limit: which pairs the P-test asks about; see ``discriminable_pairs``. The three metrics are
        MS-SSIM, GMSD and VIF, mapped to one scale (``meon_ext.full_reference.quality``).
    seed: of the noise and of the pairs; each picture has noise of its own.
    file: rows that stand in it are not computed again, and new ones are added to it; its identity must be
        ``waterloo_identity``. on_progress: called with how many pictures are done and how many there are.

    Raises ValueError for a type that is unknown, MeonError for one that this Pillow cannot make.
    """
    from meon_ext.distortions import CLASSIC, LEVELS, TYPES, available

    types = tuple(CLASSIC if types is None else types)
    for name in types:
        if name not in TYPES:
            raise ValueError(f"no type of distortion is called {name!r}; there are {', '.join(TYPES)}")
        if not available(name):
            raise MeonError(f"this Pillow cannot make {name}; install one that can, or name other types")
    total = len(dataset) * (1 + len(types) * len(LEVELS))
    keys = [key_of(dataset, record) for record in dataset.records]
    rows: dict[str, Prediction] = {}
    todo: list[_Job] = []
    for key, record in zip(keys, dataset.records, strict=True):
        content = content_of(record.path) if file is not None else ""
        for job in (_Job(key, record.path, content, type, seed) for type in (None, *types)):
            known = {name: file.get(name, content) for name in job.names} if file is not None else {}
            found = {name: row for name, row in known.items() if row is not None}
            rows.update(found)
            if len(found) < len(job.names):
                todo.append(job)
    failed = 0
    on_progress(len(rows), total)
    for job, made in _ahead(_make, todo, len(os.sched_getaffinity(0))):
        if isinstance(made, MeonError):
            failed += len(job.names)
            continue
        for name, (pixels, full_reference) in zip(job.names, made, strict=True):
            try:
                rows[name] = Prediction.of(scorer.score(pixels, name=name), full_reference)
            except MeonError:
                failed += 1
                continue
            if file is not None:
                file.add(name, job.content, rows[name])
        on_progress(len(rows) + failed, total)
    return _result(keys, rows, types, failed, margin, pair_limit, seed)


def waterloo_identity(scorer: Scorer, seed: int) -> dict[str, str]:
    """What two runs must share for their rows to stand in one file."""
    return {**ScoreFile.identity_of(scorer), "synthesis": f"meon_ext {__version__}, seed {seed}"}


class _Job:
    """A pristine picture as it is (type None), or with all levels of a type; named as their rows are."""

    def __init__(self, key: str, path: Path, content: str, type: str | None, seed: int) -> None:
        self.path, self.content, self.type = path, content, type
        self.seed = zlib.crc32(f"{seed} {key}".encode())
        self.names = names_of(key, type)


def names_of(key: str, type: str | None) -> list[str]:
    """The names of the rows of one picture and type."""
    from meon_ext.distortions import LEVELS

    return [key] if type is None else [f"{key}#{type}-{level}" for level in LEVELS]


class _Made(NamedTuple):
    pixels: Pixels
    full_reference: dict[str, float]


def _make(job: _Job) -> list[_Made] | MeonError:
    from meon_ext import full_reference
    from meon_ext.distortions import LEVELS, distort
    from meon_ext.images import load_image

    try:
        pristine = load_image(job.path).pixels
        if job.type is None:
            return [_Made(pristine, {})]
        made = []
        for level in LEVELS:
            pixels = distort(pristine, job.type, level, seed=job.seed)
            made.append(
                _Made(pixels, {name: metric(pristine, pixels) for name, metric in full_reference.METRICS.items()})
            )
        return made
    except MeonError as error:
        return error


def _ahead(function: Callable[[T], R], jobs: Iterable[T], workers: int) -> Iterator[tuple[T, R]]:
    """Each job and its result, in order, with a few of them in threads at a time."""
    waiting: deque[tuple[T, Future[R]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="meon-make") as executor:
        try:
            for job in jobs:
                waiting.append((job, executor.submit(function, job)))
                if len(waiting) > workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _result(
    keys: Sequence[str],
    rows: Mapping[str, Prediction],
    types: Sequence[str],
    failed: int,
    margin: float,
    pair_limit: int,
    seed: int,
) -> WaterlooResult:
    from meon_ext.full_reference import METRICS, quality

    pristine = [rows[key].quality for key in keys if key in rows]
    of_type = {type: [[rows.get(name) for name in names_of(key, type)] for key in keys] for type in types}
    distorted = [row for lists in of_type.values() for levels in lists for row in levels if row is not None]
    l_rows = {
        type: [[row.quality for row in levels if row is not None] for levels in lists if None not in levels]
        for type, lists in of_type.items()
    }
    qualities = np.array([[quality(name, row.full_reference[name]) for row in distorted] for name in METRICS])
    pairs = discriminable_pairs(qualities, margin, limit=pair_limit, seed=seed)
    model = np.array([row.quality for row in distorted])
    return WaterlooResult(
        pristine=len(pristine),
        distorted=len(distorted),
        failed=failed,
        types=tuple(types),
        d_test=metrics.d_test(pristine, model) if pristine and distorted else math.nan,
        l_test=metrics.l_test([row for lists in l_rows.values() for row in lists])
        if any(l_rows.values())
        else math.nan,
        l_test_by_type={type: metrics.l_test(lists) if lists else math.nan for type, lists in l_rows.items()},
        p_test=metrics.p_test(model[pairs[:, 0]], model[pairs[:, 1]]) if len(pairs) else math.nan,
        pairs=len(pairs),
        margin=margin,
    )
