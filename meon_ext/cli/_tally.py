"""Counting rows: the progress and the summary on standard error, and the exit code."""

from __future__ import annotations

import sys
import time

from meon_ext.cli._rows import Row, printable

_PROGRESS_SECONDS = 0.1


class Tally:
    """Counts rows, shows progress, and knows the exit code."""

    def __init__(self, model: str, fail_under: float | None, show_progress: bool) -> None:
        self._model = model
        self._fail_under = fail_under
        self._show_progress = show_progress
        self._start = self._shown = time.monotonic()
        self._line_open = False
        self._scored = self._failed = self._below = 0
        self._sum = 0.0

    def count(self, row: Row) -> None:
        """Take account of a row that was written."""
        if row["error"] is not None:
            self._failed += 1
        else:
            self._scored += 1
            self._sum += row["quality"]
            self._below += self._fail_under is not None and row["quality"] < self._fail_under
        now = time.monotonic()
        if self._show_progress and now - self._shown >= _PROGRESS_SECONDS:
            self._shown = now
            print(f"\r{self._counts()}\x1b[K", end="", file=sys.stderr, flush=True)
            self._line_open = True

    def end(self, *, quiet: bool) -> None:
        """Write the summary in place of the progress."""
        if self._line_open:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        if quiet:
            return
        seconds = time.monotonic() - self._start
        parts = [self._counts()]
        if self._scored:
            parts.append(f"mean quality {self._sum / self._scored:.2f}")
        if self._fail_under is not None:
            parts.append(f"{self._below} below {self._fail_under:g}")
        parts += [f"model {printable(self._model)}", f"{seconds:.2f} s"]
        print(", ".join(parts), file=sys.stderr)

    def _counts(self) -> str:
        return f"{self._scored} scored, {self._failed} failed"

    @property
    def exit_code(self) -> int:
        """As documented: inputs that failed count before pictures that are below the limit."""
        if self._failed or not self._scored:
            return 1
        return 3 if self._below else 0
