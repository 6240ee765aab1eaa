"""What is learned from: pictures with their type, level and score, gathered from data sets and pristine folders."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meon_ext import distortions
from meon_ext.datasets import Dataset, Record, load_dataset, split
from meon_ext.datasets._tables import number, read_table
from meon_ext.errors import ConfigError, DatasetError
from meon_ext.training.config import DataConfig, SynthesisConfig, TrainConfig
from meon_ext.training.pictures import PRISTINE, Picture

PARTS = ("training", "validation", "test")
# (image, distortion, level) -> quality 0..100.
Teacher = Mapping[tuple[str, str, int], float]
_SURROGATE_STEP = 16.0
_SPOILED = "anything but pristine"  # the type of the worst of the photographs that people judged
_UNTYPED = ("", _SPOILED)
SPOILED = -2
"""Its label."""
_SHOWN = 20


class Kind(NamedTuple):
    """What step 1 tells apart: a type, and its level where levels count (else 0)."""

    distortion: str
    level: int = 0


@dataclass(frozen=True, eq=False)
class Samples:
    """N pictures to learn from or to test on, as columns.

    pictures: where the pixels come from. distortion: the type's name, "" where unknown. level: int64, 0 for pristine or
    unknown. score: float64, in the unit of the run, NaN where there is none. source: int64, which data set it is from,
    since ranks are compared within one. repeat: int64, how often an epoch goes through it. pair: int64, equal for one
    scene with one type at different levels, and for a photograph that people judged and its damaged copies.
    """

    pictures: tuple[Picture, ...]
    distortion: NDArray[np.str_]
    level: NDArray[np.int64]
    score: NDArray[np.float64]
    source: NDArray[np.int64]
    repeat: NDArray[np.int64]
    pair: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pictures)

    def take(self, places: NDArray[np.int64]) -> Samples:
        """The samples at these places."""
        return Samples(
            tuple(self.pictures[i] for i in places),
            self.distortion[places],
            self.level[places],
            self.score[places],
            self.source[places],
            self.repeat[places],
            self.pair[places],
        )

    def labels(self, kinds: Sequence[Kind]) -> NDArray[np.int64]:
        """The place of each sample among ``kinds``, int64 (N,); -1 where it is none of them, ``SPOILED`` where
        all that is known is that it is not pristine."""
        place = {kind: i for i, kind in enumerate(kinds)} | {Kind(_SPOILED): SPOILED}
        found = [
            place.get(Kind(str(name), int(level)), place.get(Kind(str(name)), -1))
            for name, level in zip(self.distortion, self.level, strict=True)
        ]
        return np.array(found, np.int64)


@dataclass(frozen=True)
class Gathered:
    """All samples of a run by part ("training", "validation", "test") and step, and what the scores mean.

    pretraining, joint: part -> samples. kinds: what step 1 tells apart. classes: what the finished network does.
    score_name, scale, higher_is_better: of ``Samples.score``. names: of the sources.
    """

    pretraining: Mapping[str, Samples]
    joint: Mapping[str, Samples]
    kinds: tuple[Kind, ...]
    classes: tuple[str, ...]
    score_name: str
    scale: tuple[float, float]
    higher_is_better: bool
    names: tuple[str, ...]


def gather(config: TrainConfig) -> Gathered:
    """Read all that the configuration names, without opening a picture.

    Raises ConfigError and DatasetError with everything that is missing or does not fit.
    """
    sets = [_load(data) for data in config.data]
    synthesis = config.synthesis
    teacher = _teacher(Path(synthesis.scores)) if synthesis.pristine and synthesis.scores else None
    synthetic = synthesis_datasets(synthesis, teacher) if synthesis.pristine else None
    joint = [_Source(d, c.repeat, clean=c.clean, spoiled=c.spoiled) for d, c in zip(sets, config.data, strict=True)]
    if synthetic is not None and (synthesis.joint or not sets):
        joint.append(_synthetic(synthesis, synthetic, synthesis.repeat))
    if len(joint) == 1:
        unit = joint[0].dataset
    else:
        joint = [replace(source, dataset=_as_quality(source.dataset)) for source in joint]
        unit = joint[0].dataset
        for i, data in enumerate(config.data):
            if data.damage:
                copies = _damaged(joint[i].dataset, data.damage, config, teacher)
                extra = _Source(copies, synthesis.repeat, synthesis.variants, copies=True)
                joint[i] = replace(joint[i], extra=extra)
    first = [_synthetic(synthesis, synthetic, 1)] if synthetic is not None else joint
    joint_parts, first_parts = (_parts(sources, config) for sources in (joint, first))
    kinds = _kinds(first_parts.values(), config)
    classes = _classes([*joint_parts.values(), *first_parts.values()], config)
    if not np.isfinite(joint_parts["training"].score).any() and config.joint.epochs:
        raise ConfigError("no picture of the data has a score, so step 2 has nothing to learn; name a set with scores")
    return Gathered(
        first_parts,
        joint_parts,
        kinds,
        classes,
        unit.score_name,
        unit.scale,
        unit.higher_is_better,
        tuple(source.dataset.name for source in joint),
    )


def synthesis_datasets(config: SynthesisConfig, teacher: Teacher | None) -> tuple[Dataset, Dataset]:
    """The pictures that step 1 is to make, as data sets whose scores are the teacher's or, without one, the stand-in's:
    those of the photographs that are split, and those of the photographs to learn from alone."""
    types = _types(config)
    pristine: dict[str, Record] = {}
    extra: set[str] = set()
    for place, further in [*((p, False) for p in config.pristine), *((p, True) for p in config.extra)]:
        for record in _pristine(Path(place)):
            if record.group in pristine:
                raise DatasetError(f"{record.path}: another pristine folder has a {record.group} too; rename one")
            pristine[record.group] = record
            if further:
                extra.add(record.group)
    shares = {
        group: _share(types, config.extra_share, config.seed, group) if group in extra else types for group in pristine
    }
    photographs = ((group, record, (PRISTINE, *shares[group])) for group, record in pristine.items())
    made = _versions(photographs, config, teacher)
    root = Path(config.pristine[0])
    split_up, alone = (
        Dataset("synthesis", root, tuple(r for r in made if (r.group in extra) is further), "quality", (0, 100), True)
        for further in (False, True)
    )
    return split_up, alone


def judged_pictures(config: TrainConfig) -> list[tuple[str, Record]]:
    """All pictures that are made of photographs, each with the name that the teacher's table has its photograph by;
    their scores are the stand-in's."""
    made = [(record.group, record) for part in synthesis_datasets(config.synthesis, None) for record in part.records]
    damaged = [(_load(data), data.damage) for data in config.data if data.damage]
    if len({dataset.name for dataset, _ in damaged}) < len(damaged):
        raise ConfigError("data.damage: two of the data sets have one name; damage one of them, or rename its file")
    for dataset, share in damaged:
        made += [(_name_in(dataset, record), record) for record in _copies(dataset, share, config, None)]
    return made


def _types(config: SynthesisConfig) -> tuple[str, ...]:
    types = tuple(distortions.TYPES) if config.types == ("all",) else config.types
    unknown = [name for name in (*types, *config.rare) if name not in distortions.TYPES]
    if unknown:
        known = ", ".join(distortions.TYPES)
        raise ConfigError(f"synthesis: no type is called {unknown[0]!r}; there are {known}")
    lacking = [name for name in types if not distortions.available(name)]
    if lacking and config.types != ("all",):
        raise ConfigError(f"synthesis.types: this Pillow cannot make {', '.join(lacking)}; install a newer Pillow")
    return tuple(name for name in types if name not in lacking)


def _versions(
    photographs: Iterable[tuple[str, Record, Sequence[str]]], config: SynthesisConfig, teacher: Teacher | None
) -> list[Record]:
    """Each photograph with each of its types at each level, with the teacher's or the stand-in's scores.

    photographs: the name that the teacher's table has it by, the photograph, and its types; pristine has level 0 alone.
    """
    made, missing = [], []
    for name, record, types in photographs:
        for kind, level in [(k, lv) for k in types for lv in ((0,) if k == PRISTINE else config.levels)]:
            score: float | None = 100 - _SURROGATE_STEP * level
            if teacher is not None:
                score = teacher.get((name, kind, level), teacher.get((record.path.name, kind, level)))
                if score is None:
                    missing.append(f"{name}, {kind}, level {level}")
            made.append(replace(record, score=score, distortion=kind, level=level or None, reference=record.path))
    if missing:
        shown = "\n  ".join(missing[:_SHOWN])
        raise DatasetError(
            f"{config.scores}: {len(missing)} pictures have no score:\n  {shown}\nWrite a row for each, or leave out "
            "synthesis.scores"
        )
    return made


def _copies(dataset: Dataset, share: float, config: TrainConfig, teacher: Teacher | None) -> list[Record]:
    """Damaged copies of a set's photographs to learn from, with the score of a pristine one so damaged."""
    types = _types(config.synthesis)
    photographs = []
    for record in _split(dataset, config)[0].records:
        if not record.distortion and record.score is not None:
            name = _name_in(dataset, record)
            photographs.append((name, record, _share(types, share, config.synthesis.seed, name)))
    return _versions(photographs, config.synthesis, teacher)


def _damaged(dataset: Dataset, share: float, config: TrainConfig, teacher: Teacher | None) -> Dataset:
    """The same with scores that begin at the photograph's own. dataset: with scores as quality."""
    own = {record.path: record.score for record in dataset.records}
    copies = (
        replace(copy, score=score * copy.score / 100)
        for copy in _copies(dataset, share, config, teacher)
        if (score := own[copy.path]) is not None and copy.score is not None
    )
    return replace(dataset, records=tuple(copies))


def _name_in(dataset: Dataset, record: Record) -> str:
    return f"{dataset.name}/{Path(os.path.relpath(record.path, dataset.root)).as_posix()}"


def _split(dataset: Dataset, config: TrainConfig) -> tuple[Dataset, ...]:
    return split(dataset, [f for f in config.split.fractions if f > 0], config.split.seed)


def _share(types: Sequence[str], share: float, seed: int, name: str) -> tuple[str, ...]:
    """A share of the types, at least one: which, the seed and the photograph's name decide."""
    count = max(1, round(share * len(types)))
    key = zlib.crc32(name.encode("utf-8", "surrogateescape"))
    chosen = np.random.default_rng([seed, key]).permutation(len(types))[:count]
    return tuple(types[i] for i in sorted(chosen))


def _synthetic(config: SynthesisConfig, sets: tuple[Dataset, Dataset], repeat: int) -> _Source:
    pristine = config.variants * config.pristine_repeat
    extra = _Source(sets[1], repeat, config.variants, max(1, round(config.extra_share * pristine)))
    return _Source(sets[0], repeat, config.variants, pristine, extra)


def _pristine(place: Path) -> tuple[Record, ...]:
    if place.is_file():
        return (Record(place, distortion=PRISTINE, group=place.name),)
    return load_dataset("folder", place, distortion=PRISTINE).records


@dataclass(frozen=True)
class _Source:
    """A data set, how often an epoch goes through it, and in how many variants its pictures are made (0: as files).
    extra: what is added to its training part, whatever the split. copies: whether it is damaged copies of photographs.
    clean, spoiled: as ``DataConfig`` has them."""

    dataset: Dataset
    repeat: int
    variants: int = 0
    pristine_variants: int = 0
    extra: _Source | None = None
    copies: bool = False
    clean: float = 0.0
    spoiled: float = 0.0


def _load(data: DataConfig) -> Dataset:
    try:
        dataset = load_dataset(data.name, data.root)
    except ValueError as error:
        if isinstance(error, DatasetError):
            raise
        raise ConfigError(f"data.name: {error}") from None
    dataset = _with_references(dataset)
    if not data.scale:
        return dataset
    low, high = data.scale
    if not dataset.scale[0] <= low < high <= dataset.scale[1]:
        raise ConfigError(
            f"data.scale: {low:g} to {high:g} is not within {dataset.name}'s {dataset.scale[0]:g} to "
            f"{dataset.scale[1]:g}; name two of its scores"
        )
    records = tuple(r if r.score is None else replace(r, score=min(max(r.score, low), high)) for r in dataset.records)
    return replace(dataset, records=records, scale=(low, high))


def _as_quality(dataset: Dataset) -> Dataset:
    """Scores of several sets are brought to one scale, 0 (worst) to 100 (best), linearly by each set's own."""
    low, high = dataset.scale
    worst, best = (low, high) if dataset.higher_is_better else (high, low)

    def quality(record: Record) -> Record:
        if record.score is None:
            return record
        return replace(record, score=100 * (record.score - worst) / (best - worst))

    records = tuple(quality(record) for record in dataset.records)
    return replace(dataset, records=records, score_name="quality", scale=(0.0, 100.0), higher_is_better=True)


def _with_references(dataset: Dataset) -> Dataset:
    """Add the pristine pictures of a set that has them as references only: they teach the type, and what is known of
    their score: a difference score of a picture to itself is 0, if the set's scale has a 0."""
    known = {record.path for record in dataset.records}
    differences = dataset.score_name == "DMOS" and not dataset.higher_is_better
    best = 0.0 if differences and dataset.scale[0] <= 0 <= dataset.scale[1] else None
    added = tuple(replace(r, score=best) for r in dataset.pristine().records if r.path not in known)
    return replace(dataset, records=dataset.records + added)


def _parts(sources: Sequence[_Source], config: TrainConfig) -> dict[str, Samples]:
    parted = [_split(source.dataset, config) for source in sources]
    found = {}
    for i, name in enumerate(PARTS[: len(parted[0])]):
        mine = [(part[i], source) for part, source in zip(parted, sources, strict=True)]
        found[name] = _samples(_to_learn(*one, config.synthesis) if name == "training" else [one] for one in mine)
    return found


def _to_learn(part: Dataset, source: _Source, config: SynthesisConfig) -> list[tuple[Dataset, _Source]]:
    """What training sees of a source: of what is made here, without most of the rare types; of what was judged, with
    the types of the best and the worst; and with the extra."""
    extra = [(source.extra.dataset, source.extra)] if source.extra else []
    return [
        (_without_rare(dataset, config) if one.variants else _with_ends(dataset, one.clean, one.spoiled), one)
        for dataset, one in [(part, source), *extra]
    ]


def _with_ends(dataset: Dataset, clean: float, spoiled: float) -> Dataset:
    """The best of the pictures of no known type as pristine, the worst as anything else: these shares of them, and what
    is level with the last of each. The best come first where all are alike."""
    sign = 1 if dataset.higher_is_better else -1
    worst_first = sorted(sign * r.score for r in dataset.records if not r.distortion and r.score is not None)
    count = len(worst_first)
    least = worst_first[count - round(clean * count)] if round(clean * count) else math.inf
    most = worst_first[round(spoiled * count) - 1] if round(spoiled * count) else -math.inf

    def typed(record: Record) -> Record:
        if record.distortion or record.score is None or most < sign * record.score < least:
            return record
        return replace(record, distortion=PRISTINE if sign * record.score >= least else _SPOILED)

    return replace(dataset, records=tuple(map(typed, dataset.records)))


def _without_rare(dataset: Dataset, config: SynthesisConfig) -> Dataset:
    def shown(record: Record) -> bool:
        what = f"{config.seed} {record.group} {record.distortion}".encode("utf-8", "surrogateescape")
        return record.distortion not in config.rare or zlib.crc32(what) / 2**32 < config.rare_share

    return dataset.where(shown)


def _samples(parts: Iterable[Iterable[tuple[Dataset, _Source]]]) -> Samples:
    """parts: what there is of each source."""
    pictures, names, levels, scores, places, repeats, pairs = [], [], [], [], [], [], []
    numbers: dict[object, int] = {}
    for place, dataset, source in ((i, *one) for i, part in enumerate(parts) for one in part):
        for record in dataset.records:
            count = source.pristine_variants if record.distortion == PRISTINE else source.variants
            for variant in range(count) if source.variants else (-1,):
                made = (record.distortion or PRISTINE, record.level or 0) if source.variants else (PRISTINE, 0)
                pictures.append(Picture(str(record.path), *made, variant))
                names.append(record.distortion or "")
                levels.append(record.level or 0)
                scores.append(math.nan if record.score is None else record.score)
                places.append(place)
                repeats.append(source.repeat)
                pairs.append(numbers.setdefault(_paired(place, record, source), len(numbers)))
    level, source_of, repeat, pair = (np.array(column, np.int64) for column in (levels, places, repeats, pairs))
    return Samples(tuple(pictures), np.array(names, np.str_), level, np.array(scores, float), source_of, repeat, pair)


def _paired(place: int, record: Record, source: _Source) -> object:
    """The same for pictures that may be a pair, of which the better is known."""
    if record.reference and not source.copies:
        return place, record.reference, record.distortion
    # A photograph with its copies, if there are any.
    return place, record.path


def _kinds(parts: Iterable[Samples], config: TrainConfig) -> tuple[Kind, ...]:
    by_level = config.by_level and bool(config.synthesis.pristine)
    found = {
        Kind(str(name), int(level) if by_level else 0)
        for part in parts
        for name, level in zip(part.distortion, part.level, strict=True)
        if name not in _UNTYPED
    }
    order = _type_order(kind.distortion for kind in found)
    return tuple(sorted(found, key=lambda kind: (order.index(kind.distortion), kind.level)))


def _classes(parts: Iterable[Samples], config: TrainConfig) -> tuple[str, ...]:
    if config.network.task == "single":
        return ()
    found = {str(name) for part in parts for name in np.unique(part.distortion) if name not in _UNTYPED}
    if config.classes:
        absent = [name for name in config.classes if name not in found]
        if absent:
            raise ConfigError(f"classes: no picture of the data is {absent[0]!r}; there are {', '.join(sorted(found))}")
        return config.classes
    if len(found) < 2:
        raise ConfigError(
            "the data name fewer than two distortion types; set network.task to 'single', or add pristine pictures "
            "(synthesis.pristine) to learn types from"
        )
    return tuple(_type_order(found))


def _type_order(names: Iterable[str]) -> list[str]:
    """The house's types in their order, then a set's own by name, then pristine."""
    known = list(distortions.TYPES)

    def place(name: str) -> tuple[int, int, str]:
        return (2 if name == PRISTINE else 0 if name in known else 1, known.index(name) if name in known else 0, name)

    return sorted(set(names), key=place)


def _teacher(path: Path) -> Teacher:
    """From a CSV file."""
    table = read_table(path)
    absent = {"image", "distortion", "level", "score"} - set(table.columns)
    if absent:
        raise DatasetError(f"{path}: no column {sorted(absent)[0]}; image, distortion, level and score are needed")
    scores: dict[tuple[str, str, int], float] = {}
    for row in table.rows:
        score, level = number(row.values["score"]), number(row.values["level"] or "0")
        if score is None or not 0 <= score <= 100 or level is None or level not in range(6):
            raise DatasetError(
                f"{path}, line {row.number}: score must be within 0 to 100 and level 0 (pristine) to 5; mend the line"
            )
        scores[row.values["image"], row.values["distortion"], int(level)] = score
    return scores
