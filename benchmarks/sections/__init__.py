"""The sections of compare.py's table, by the name that ``--only`` takes."""

from __future__ import annotations

from collections.abc import Callable

from rows import Row, Settings
from sections import network, ops, process

SECTIONS: dict[str, Callable[[Settings], list[Row]]] = {
    "forward": network.forward,
    "photo": network.photo,
    "image": network.image,
    "train": network.train,
    "gdn": ops.gdn,
    "shapes": ops.shapes,
    "peak": ops.peak,
    "memory": process.memory,
    "startup": process.startup,
}
