"""``meon info``: what is installed and how it was built."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any


def add_parser(commands: Any) -> None:
    """Add the command to those of ``meon``."""
    parser = commands.add_parser(
        "info",
        help="say what is installed and how it was built",
        description="Say what is installed and how it was built: the lines to put into a bug report.",
    )
    parser.add_argument(
        "--torch",
        action="store_true",
        help="load torch and the op libraries, and tell whether they work (a second or two)",
    )
    parser.add_argument("--json", action="store_true", help="as a JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print it; returns 0."""
    import meon_ext

    information = meon_ext.build_info(load_torch=arguments.torch)
    if arguments.json:
        print(json.dumps(information, indent=2))
    else:
        print("\n".join(_lines(information, 0)))
    return 0


def _lines(values: dict[str, Any], indent: int) -> Iterator[str]:
    """Names and values in two columns; a group's name stands alone above its lines."""
    width = max((len(name) for name in values), default=0)
    for name, value in values.items():
        if isinstance(value, dict):
            yield " " * indent + name
            yield from _lines(value, indent + 2)
        else:
            yield f"{' ' * indent}{name:<{width}}  {_text(value)}".rstrip()


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return str(value)
