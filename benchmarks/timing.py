"""Timing several ways of doing one thing so that a drift of the machine meets all of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Run = Callable[[], object]

# A call longer than this is repeated less often, lest one slow contender take all the time there is.
_LONG = 2.0
_LONG_ROUNDS = 3
# OpenMP's threads spin for some milliseconds after their work and would take a processor from whoever comes next.
_SETTLE = 0.02


@dataclass(frozen=True)
class Timing:
    """Seconds for a call, the mean of each round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def low(self) -> float:
        return min(self.rounds)

    @property
    def high(self) -> float:
        return max(self.rounds)


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds, and the least seconds that a contender has in each."""

    rounds: int = 9
    least: float = 0.2


def interleaved(contenders: Mapping[str, Run], effort: Effort) -> dict[str, Timing]:
    """Time the contenders in turn, A B C A B C ..., after two calls of each that do not count.

    In every round a contender is called once untimed, so that the caches are its own, and then as often as ``effort``
    wants.
    """
    calls: dict[str, int] = {}
    rounds: dict[str, int] = {}
    for name, run in contenders.items():
        run()  # compiles, faults memory in
        once = _seconds(run, 1)
        calls[name] = max(1, math.ceil(effort.least / max(once, 1e-9)))
        rounds[name] = effort.rounds if once < _LONG else min(effort.rounds, _LONG_ROUNDS)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(effort.rounds):
        for name, run in contenders.items():
            if number >= rounds[name]:
                continue
            time.sleep(_SETTLE)
            if rounds[name] == effort.rounds:
                run()
            seconds[name].append(_seconds(run, calls[name]))
    return {name: Timing(tuple(each)) for name, each in seconds.items()}


def _seconds(run: Run, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls
