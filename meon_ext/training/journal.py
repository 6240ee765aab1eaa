"""What a run writes down as it goes: ``log.jsonl``, and TensorBoard's event files where that is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from meon_ext._files import write_whole


class Journal:
    """The log of a run; one JSON object a line, each with ``step`` ("pretraining" or "joint") and ``update``.

    folder: of the run. resume_at: (step, update) of the checkpoint that the run goes on from, so that what was written
    after it, and will be again, is taken out; None for a new run. enabled: False writes nothing.
    """

    def __init__(
        self, folder: Path, resume_at: tuple[str, int] | None, tensorboard: bool = True, enabled: bool = True
    ) -> None:
        self._path = folder / "log.jsonl"
        self._enabled = enabled
        self._writers: dict[str, Any] = {}
        self._folder = folder
        self._resume_at = resume_at
        self._tensorboard = tensorboard and enabled and importlib.util.find_spec("tensorboard") is not None
        if enabled and self._path.exists():
            kept = [line for line in read_log(self._path) if _is_before(line, resume_at)]
            write_whole(self._path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def write(self, step: str, update: int, **values: float) -> None:
        """Add a line, and the values to TensorBoard under ``step/name``."""
        if not self._enabled:
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, "update": update, **values}) + "\n")
        if self._tensorboard:
            for name, value in values.items():
                self._writer(step).add_scalar(f"{step}/{name}", value, update)

    def close(self) -> None:
        """Flush what TensorBoard holds."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, step: str) -> Any:
        if step not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            at = self._resume_at
            purge = at[1] + 1 if at is not None and at[0] == step else None
            self._writers[step] = SummaryWriter(str(self._folder / "tensorboard" / step), purge_step=purge)
        return self._writers[step]


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; the last one, if a crash cut it short, is left out."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _is_before(line: dict[str, Any], at: tuple[str, int] | None) -> bool:
    if at is None:
        return False
    order = ("pretraining", "joint")
    return (order.index(line["step"]), line["update"]) <= (order.index(at[0]), at[1])
