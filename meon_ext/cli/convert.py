"""``meon convert``: a checkpoint of the authors' MEON to a weights file."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(commands: Any) -> None:
    """Add the command to those of ``meon``."""
    parser = commands.add_parser(
        "convert",
        help="convert a checkpoint to a weights file",
        description="Convert a checkpoint of TensorFlow 1, as MEON's authors released it, to a weights file "
        "(safetensors), which meon score --model reads. Needs TensorFlow: pip install meon_ext[convert]",
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="PREFIX or PREFIX.index of the checkpoint")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the weights file to write")
    parser.add_argument(
        "--classes",
        metavar="NAME,NAME,...",
        type=lambda text: tuple(text.split(",")),
        help="distortion types in the order of the outputs, which a checkpoint does not name (default: the release's)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Convert; returns 0, or raises MeonError saying what is wrong."""
    from meon_ext.convert import convert_checkpoint
    from meon_ext.weights_io import RELEASE_CLASSES, write_weights

    weights = convert_checkpoint(arguments.checkpoint, classes=arguments.classes or RELEASE_CLASSES)
    digest = write_weights(arguments.output, weights)
    numbers = sum(tensor.size for tensor in weights.tensors.values())
    kinds = ", ".join(weights.classes) or "none"
    print(f"{arguments.output}: {numbers} numbers; raw score {weights.score_name}; distortion types {kinds}")
    print(f"SHA-256 {digest}")
    return 0
