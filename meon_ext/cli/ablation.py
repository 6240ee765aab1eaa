"""``meon ablation``: which parts of the network matter."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from meon_ext.cli import train
from meon_ext.cli._options import positive
from meon_ext.errors import MeonError

_DEMO = {"pretraining": {"epochs": 4}, "joint": {"epochs": 4}}


def add_parser(commands: Any) -> None:
    """Add the command to those of ``meon``."""
    parser = commands.add_parser(
        "ablation",
        help="train variants of the network and compare them",
        description="Train the network, and variants that lack a part of it, on the same random splits with the same "
        "budget, and write tables (Markdown, CSV) and a plot. What is finished is not run again. Without data it "
        "shows how, on photographs that come with scikit-image, too few and too short to mean anything.",
    )
    train.add_run_options(parser)
    parser.add_argument("--out", metavar="DIR", help="folder of runs and tables (default: runs/ablation-DATE-TIME)")
    parser.add_argument(
        "--splits", type=positive, metavar="N", help="random splits by content (default: 10; 2 without data)"
    )
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="runs at once (default: 1)")
    parser.add_argument(
        "--variants", metavar="A,B", help="only these: single, multitask, scratch, relu, ... (default: all)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run what is not finished and write the tables; returns 0, or raises MeonError saying what went wrong."""
    from meon_ext.training.ablation import VARIANTS, run_ablation, write_tables
    from meon_ext.training.config_io import config_from_mapping

    is_demo = not (arguments.config or arguments.data or arguments.pristine)
    splits = arguments.splits if arguments.splits is not None else 2 if is_demo else 10
    names = arguments.variants.split(",") if arguments.variants else [v.name for v in VARIANTS]
    known = {variant.name: variant for variant in VARIANTS}
    if unknown := [name for name in names if name not in known]:
        raise MeonError(f"--variants: there is no {unknown[0]!r}; there are {', '.join(known)}")
    variants = [variant for variant in VARIANTS if variant.name in names]
    config = config_from_mapping(train.settings(arguments, _DEMO), arguments.config or "arguments")
    out = arguments.out or f"runs/ablation-{time.strftime('%Y%m%d-%H%M%S')}"
    print(f"ablation in {out}: {len(variants)} networks on {splits} splits", file=sys.stderr, flush=True)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    cells = run_ablation(config, out, splits=splits, jobs=arguments.jobs, variants=variants, say=say)
    print(write_tables(cells, out, variants), end="")
    print(f"tables: {out}/ablation.md, {out}/ablation.csv, {out}/ablation.png")
    return 0
