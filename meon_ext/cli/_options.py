"""Options that several commands have, and what they make of their values."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from meon_ext.errors import MeonError

if TYPE_CHECKING:
    from meon_ext.scoring import Scorer


def add_scorer_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that say with which model, and how, pictures are scored."""
    parser.add_argument("--model", metavar="NAME|FILE", help="weights that ship with meon_ext, or a weights file")
    parser.add_argument(
        "--stride", type=positive, default=128, metavar="U", help="step between crops in pixels (default: 128)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto, the CPU)")
    parser.add_argument(
        "--backend",
        choices=("auto", "core", "fused", "reference"),
        default="auto",
        help="core: C++ without torch; fused: torch ops; reference: plain PyTorch (default: core where it can run)",
    )
    parser.add_argument(
        "--threads", type=count, default=0, metavar="N", help="threads of the network (default: 0, all processors)"
    )
    parser.add_argument(
        "--pool",
        choices=("mean", "min", "p5"),
        default="mean",
        help="quality from the crops': their mean, the worst, or the 5th percentile (default: mean)",
    )


def make_scorer(arguments: argparse.Namespace) -> Scorer:
    """The Scorer that those options ask for. Raises MeonError for a setting out of range, or whatever Scorer raises."""
    from meon_ext.scoring import Scorer

    try:
        return Scorer(
            arguments.model,
            stride=arguments.stride,
            device=arguments.device,
            backend=arguments.backend,
            pool=arguments.pool,
            threads=arguments.threads,
        )
    except (ValueError, RuntimeError) as error:  # the latter: a device that torch does not know
        if isinstance(error, MeonError):
            raise
        raise MeonError(str(error).partition("\n")[0]) from error


def silence_pillow() -> None:
    """What Pillow warns of (odd metadata, truncated tags) belongs to no row and would mix into the output."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").addHandler(logging.NullHandler())


def positive(text: str) -> int:
    return int(number(text, int, 1, None, "a whole number, at least 1"))


def count(text: str) -> int:
    return int(number(text, int, 0, None, "a whole number, 0 or more"))


def quality(text: str) -> float:
    return number(text, float, 0, 100, "a number within 0..100")


def number(text: str, kind: type[int] | type[float], low: float, high: float | None, wanted: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = float("nan")
    if not (low <= value and (high is None or value <= high)):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value
