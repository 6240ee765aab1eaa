"""``python benchmarks/compare.py``: meon_ext beside plain PyTorch and what else one could install, in one table.

Contenders of a section run in turn, A B C A B C ..., so that a drift of the machine meets all of them. A figure is the
median over the rounds; docs/performance.md says how to read the table.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

import torch

import machine
from rows import Row, Settings, progress
from sections import SECTIONS


def main() -> int:
    arguments = _arguments()
    settings = Settings(threads=arguments.threads, quick=arguments.quick)
    torch.set_num_threads(settings.threads)
    # What torch says of itself when inductor is imported is not for the reader of the table.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.jit\._script")
    about = machine.description(settings.threads)
    print("\n".join(f"{name}: {value}" for name, value in about.items() if name != "packages"), flush=True)
    _warn(about["load_average"])
    if settings.quick:
        print("a quick run: few rounds, small pictures, torch.compile without inductor; its figures mean nothing")
    rows: list[Row] = []
    for name in arguments.only or SECTIONS:
        progress(name)
        rows += SECTIONS[name](settings)
    print(*table(rows), sep="\n")
    if arguments.json is not None:
        about |= {"quick": settings.quick, "load_average_at_end": round(machine.load(), 2)}
        report = {"machine": about, "rows": [row.to_dict() for row in rows]}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write machine and rows there")
    parser.add_argument("--quick", action="store_true", help="a check that everything runs, no more")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="NAME", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument(
        "--threads", type=int, default=machine.usable_processors(), metavar="N", help="default: all processors"
    )
    arguments = parser.parse_args()
    if arguments.threads < 1:
        parser.error("--threads must be at least 1")
    if arguments.json is not None and not arguments.json.parent.is_dir():  # else it would be found out at the end
        parser.error(f"--json: there is no folder {arguments.json.parent}")
    return arguments


def _warn(load: float) -> None:
    if load > machine.LOAD_LIMIT:
        print(
            f"WARNING: load average {load:.2f}, above {machine.LOAD_LIMIT}: others are using this machine, and these "
            f"figures are not for publishing",
            flush=True,
        )


def table(rows: list[Row]) -> list[str]:
    """Markdown, so that it can go into the documentation as it is."""
    header = ("", "median", "least to most", "unit", "ratio", "")
    lines: list[tuple[str, ...]] = []
    section = None
    for row in rows:
        if row.section != section:
            section = row.section
            lines.append((f"**{section}**", "", "", "", "", ""))
        spread = "" if row.low is None or row.high is None else f"{_number(row.low)} to {_number(row.high)}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        value = "-" if row.value is None else _number(row.value)
        lines.append((row.name, value, spread, row.unit, ratio, row.note))
    widths = [max(len(line[i]) for line in (header, *lines)) for i in range(len(header))]
    right = {1, 2, 4}

    def line_of(cells: tuple[str, ...]) -> str:
        padded = (c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (w + 1) + ":" if i in right else "-" * (w + 2) for i, w in enumerate(widths))
    legend = "ratio: time or memory over that of the section's first row; above 1 is slower or larger"
    return [line_of(header), f"|{rule}|", *map(line_of, lines), "", legend]


def _number(value: float) -> str:
    """Four significant digits: more is noise."""
    return f"{value:,.{max(0, 4 - len(str(int(abs(value)))))}f}"


if __name__ == "__main__":
    sys.exit(main())
