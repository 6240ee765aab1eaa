"""The rows of the table: contenders built, timed in turn, and compared with the first."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from cases import Unavailable
from timing import Effort, Run, Timing, interleaved


@dataclass(frozen=True)
class Settings:
    """What the sections are measured with."""

    threads: int
    quick: bool = False

    @property
    def effort(self) -> Effort:
        return Effort(rounds=2, least=0.0) if self.quick else Effort()

    @property
    def inductor(self) -> str:
        """torch.compile's backend. A quick run traces only: compiling would be most of its time."""
        return "eager" if self.quick else "inductor"


@dataclass(frozen=True)
class Row:
    """One figure: the median over the rounds, and their least and greatest. None where there is no figure."""

    section: str
    name: str
    unit: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    note: str = ""
    rounds: tuple[float, ...] = field(default=(), repr=False)  # seconds for a call

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


Make = Callable[[], Run]
Unit = Callable[[float], float]
"""From seconds for a call to the unit of a row."""


def milliseconds(seconds: float) -> float:
    return 1e3 * seconds


def per_second(count: float) -> Unit:
    return lambda seconds: count / seconds


def race(
    section: str,
    unit: str,
    convert: Unit,
    contenders: Mapping[str, Make],
    effort: Effort,
    *,
    notes: Mapping[str, str] | None = None,
    same: Sequence[str] = (),
    against: str | None = None,
) -> list[Row]:
    """Build the contenders, time them in turn, and make a row of each.

    A row's ratio is its time over the first contender's. One that cannot run here has a row that says why. same: those
    whose results must agree with the first's (or that contender's which ``against`` names), since a wrong answer sooner
    is no gain; raises AssertionError.
    """
    runs: dict[str, Run] = {}
    reasons: dict[str, str] = {}
    for name, make in contenders.items():
        progress(f"{section}: {name}")
        try:
            runs[name] = make()
        except Unavailable as reason:
            reasons[name] = str(reason)
    first = next(iter(runs), None)
    if first is not None and same:
        expected = torch.as_tensor(runs[against or first]())
        for name in same:
            if name in runs:
                found = torch.as_tensor(runs[name]())
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3, msg=f"{section}: {name} disagrees")
    progress(f"{section}: {effort.rounds} rounds of {len(runs)}")
    timings = interleaved(runs, effort)
    rows = []
    for name in contenders:
        note = (notes or {}).get(name, "")
        if name in reasons:
            rows.append(Row(section, name, unit, note=reasons[name]))
        else:
            assert first is not None
            row = row_of(section, name, unit, convert, timings[name], note)
            rows.append(replace(row, ratio=timings[name].median / timings[first].median))
    return rows


def row_of(section: str, name: str, unit: str, convert: Unit, timing: Timing, note: str = "") -> Row:
    """A row without a ratio."""
    low, high = sorted((convert(timing.low), convert(timing.high)))
    return Row(section, name, unit, convert(timing.median), low, high, note=note, rounds=timing.rounds)


def with_best_marked(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The rows, with a note on the fastest of those named: who compares batches should see the best one."""
    best = min((row for row in rows if row.name in names), key=lambda row: row.ratio or float("inf"))
    return [replace(row, note="plain PyTorch's best") if row is best else row for row in rows]


def progress(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)
