"""``meon train``: train a network in two steps."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from meon_ext.cli._options import count, positive, silence_pillow
from meon_ext.errors import MeonError

if TYPE_CHECKING:
    from meon_ext.training import TrainResult


def add_parser(commands: Any) -> None:
    """Add the command to those of ``meon``."""
    parser = commands.add_parser(
        "train",
        help="train a network",
        description="Train a network: step 1 on distortion types, made from pristine photographs; step 2 on types and "
        "scores together. Without data it runs a small complete training on photographs that come with scikit-image, "
        "in a few minutes.",
        epilog="Every setting of docs/training.md can be given in a file (--config) or on its own (--set). Several "
        "processes: torchrun --nproc-per-node N -m meon_ext.cli train ... --out DIR.",
    )
    add_run_options(parser)
    parser.add_argument("--out", metavar="DIR", help="folder of the run (default: runs/train-DATE-TIME)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out, with its own settings")
    parser.add_argument("--pretrained", metavar="FILE", help="begin step 2 with this checkpoint of step 1")
    parser.set_defaults(run=run)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a run learns from and how, which ``settings`` reads."""
    parser.add_argument("--config", metavar="FILE", help="settings, TOML or JSON; what is given beside it wins")
    parser.add_argument("--data", metavar="NAME", help="a data set with scores, e.g. live, tid2013, csv")
    parser.add_argument("--root", metavar="DIR", help="where that data set lies")
    parser.add_argument(
        "--pristine", action="append", metavar="DIR", help="clean photographs to distort, for step 1; may be repeated"
    )
    parser.add_argument("--epochs", type=positive, metavar="N", help="of each of the two steps")
    parser.add_argument("--batch-size", type=positive, metavar="N", help="crops of an update, in both steps")
    parser.add_argument("--lr", type=float, metavar="X", help="learning rate of both steps")
    parser.add_argument("--types", metavar="A,B", help="distortions to make, or all")
    parser.add_argument("--classes", metavar="A,B", help="types that the network tells apart (default: all that occur)")
    parser.add_argument("--seed", type=count, metavar="N", help="of weights, order and split")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--deterministic", action="store_true", help="refuse operations that may differ between runs")
    parser.add_argument("--workers", type=count, metavar="N", help="processes that load pictures (default: 0)")
    parser.add_argument("--threads", type=count, metavar="N", help="of the network (default: torch's choice)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any setting, e.g. joint.epochs=20; repeatable"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train as the arguments say; returns 0, or raises MeonError saying what is wrong."""
    from meon_ext.training.config_io import config_from_mapping

    silence_pillow()
    out = arguments.out or f"runs/train-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        if arguments.resume:
            return _report(_resume(arguments), out)
        config = config_from_mapping(settings(arguments), arguments.config or "arguments")
        from meon_ext.training.run import train

        return _report(train(config, out), out)
    except KeyboardInterrupt:
        print(f"stopped; meon train --resume --out {out} goes on", file=sys.stderr)
        raise


def settings(arguments: argparse.Namespace, demo_changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The settings that the arguments, and the file among them, add up to; unchecked.

    demo_changes: what to change in the settings of the demonstration, if it is that.
    """
    from meon_ext.training.config_io import load_config, override

    found: dict[str, Any] = load_config(arguments.config) if arguments.config else {}
    if (arguments.data is None) != (arguments.root is None):
        raise MeonError("--data and --root belong together: which set, and where it lies")
    if arguments.data is not None:
        found["data"] = [{"name": arguments.data, "root": arguments.root}]
    if arguments.pristine:
        found["synthesis"] = {**found.get("synthesis", {}), "pristine": arguments.pristine}
    if not found.get("data") and not found.get("synthesis", {}).get("pristine"):
        from meon_ext.training.demo import demo_settings

        found = _merged(_merged(demo_settings(), demo_changes or {}), found)
    for key in ("epochs", "batch_size", "learning_rate"):
        value = getattr(arguments, {"learning_rate": "lr"}.get(key, key))
        if value is not None:
            for step in ("pretraining", "joint"):
                found[step] = {**found.get(step, {}), key: value}
    if arguments.types:
        found["synthesis"] = {**found.get("synthesis", {}), "types": arguments.types.split(",")}
    if arguments.classes:
        found["classes"] = arguments.classes.split(",")
    if arguments.seed is not None:
        found["seed"] = arguments.seed
        found["split"] = {**found.get("split", {}), "seed": arguments.seed}
    for key in ("pretrained", "device", "workers", "threads"):
        if getattr(arguments, key, None) is not None:
            found[key] = getattr(arguments, key)
    for key in ("amp", "deterministic"):
        if getattr(arguments, key):
            found[key] = True
    for assignment in arguments.set:
        found = override(found, assignment)
    return found


def _resume(arguments: argparse.Namespace) -> TrainResult:
    from meon_ext.training.run import resume

    if arguments.out is None:
        raise MeonError("--resume needs --out, the folder of the run to go on with")
    others = {**vars(arguments), "out": None, "resume": False, "command": None, "run": None}
    given = sorted(name for name, value in others.items() if value)
    if given:
        raise MeonError(f"--resume goes on with the run's own settings; leave out --{given[0].replace('_', '-')}")
    return resume(arguments.out)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def _report(result: TrainResult, out: str) -> int:
    import os

    if os.environ.get("RANK", "0") == "0":
        print(result.summary)
        print(f"run: {out}")
    return 0
