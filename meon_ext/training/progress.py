"""A line on standard error that tells how far a run is, how fast it goes and how long it will take."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_EVERY_SECONDS = 0.2
_RATE_SECONDS = 10.0
_WIDTH = 20


class Progress:
    """Shows a bar while something is done ``total`` times; nothing where standard error is no terminal.

    label: what is done. unit: of what ``weight`` counts at each step, for the rate.
    """

    def __init__(self, label: str, total: int, done: int = 0, unit: str = "", stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._shown = self._stream.isatty()
        self._label = label
        self._total = total
        self._done = done
        self._unit = unit
        self._last = 0.0
        # The rate is that of the last seconds: the first epoch, which fills the cache, is slower than the others.
        self._marks = [(time.monotonic(), done, 0.0)]
        self._weight = 0.0

    def step(self, note: str = "", weight: float = 1) -> None:
        """One more is done; note: what else to show."""
        self._done += 1
        self._weight += weight
        now = time.monotonic()
        if not self._shown or now - self._last < _EVERY_SECONDS:
            return
        self._last = now
        self._marks.append((now, self._done, self._weight))
        while len(self._marks) > 2 and now - self._marks[1][0] > _RATE_SECONDS:
            self._marks.pop(0)
        self._stream.write(f"\r{self.line(note)}\x1b[K")
        self._stream.flush()

    def line(self, note: str = "") -> str:
        """The line as it stands."""
        (start, done_then, weight_then), (now, done, weight) = self._marks[0], self._marks[-1]
        seconds = max(now - start, 1e-9)
        filled = _WIDTH * self._done // max(self._total, 1)
        parts = [f"{self._label} [{'#' * filled}{'.' * (_WIDTH - filled)}] {self._done}/{self._total}"]
        if done > done_then:
            if self._unit:
                parts.append(f"{(weight - weight_then) / seconds:.0f} {self._unit}/s")
            parts.append(f"{clock((self._total - self._done) * seconds / (done - done_then))} left")
        return "  ".join([*parts, note] if note else parts)

    def clear(self) -> None:
        """Take the line away, so that something else can be written."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def clock(seconds: float) -> str:
    """Seconds as 7 s, 3:05 or 1:02:03."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
