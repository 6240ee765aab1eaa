"""Takes each __syncthreads() of kernel files away in turn; ThreadSanitizer must report a race every time.

With all of them in place it must report none. So no barrier is missing, none is superfluous, and the tool that says so
is seen to work.

    python tests/cuda_on_host/every_barrier_matters.py RACE_PROGRAM KERNELS.cuh ...
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RACE = 66  # ThreadSanitizer's own exit code


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TSAN_OPTIONS": f"halt_on_error=1:exitcode={RACE}:report_bugs=1"}
    return subprocess.run([program, *arguments], env=environment, capture_output=True, text=True)


def main() -> int:
    program, files = sys.argv[1], [Path(name) for name in sys.argv[2:]]
    barriers = []
    for file in files:
        lines = [
            (file, number, line)
            for number, line in enumerate(file.read_text().splitlines(), start=1)
            if "__syncthreads();" in line.split("//")[0]
        ]
        if not lines:
            print(f"no __syncthreads() in {file}")
            return 1
        barriers += lines

    failures = 0
    whole = run(program)
    if whole.returncode != 0:
        print(f"FAILED with every barrier in place: exit code {whole.returncode}\n{whole.stderr}")
        failures += 1
    else:
        print("ok     every barrier in place: no race")
    for file, number, line in barriers:
        taken = run(program, f"/{file.name}", str(number))
        found = taken.returncode == RACE and "WARNING: ThreadSanitizer: data race" in taken.stderr
        print(f"{'ok    ' if found else 'FAILED'} without {file.name}:{number} {line.strip()}")
        if not found:
            print(f"       no race was reported (exit code {taken.returncode})\n{taken.stderr}")
            failures += 1
    print(f"{len(barriers)} barriers, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
