"""``python benchmarks/memory.py BACKEND WIDTH HEIGHT [THREADS]``: MiB that scoring needs over the decoded image."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from meon_ext.scoring import Scorer
from meon_ext.weights_io import untrained_weights
from pictures import SMALL, photograph


def _status(field: str) -> int:
    """KiB. Not getrusage's ru_maxrss: that begins with the peak of the process which started this one."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise OSError(f"no {field} in /proc/self/status")


def main() -> None:
    backend, width, height = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    threads = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    scorer = Scorer(untrained_weights(), backend=backend, threads=threads)
    scorer.score(photograph(*SMALL))  # code and weights are in memory from here on
    # Else the large picture would reuse, uncounted, what the small one left in the heap.
    ctypes.CDLL(None).malloc_trim(0)
    image = photograph(width, height)
    before = _status("VmRSS")
    scorer.score(image)
    print((_status("VmHWM") - before) / 1024)


if __name__ == "__main__":
    main()
