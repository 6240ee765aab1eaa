"""Data sets of pictures with human scores, read from the user's own copy in its official layout. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from meon_ext.datasets import (
    biq2021,
    clive,
    csiq,
    csv_file,
    folder,
    kadid10k,
    koniq10k,
    live,
    tid2013,
    waterloo,
)
from meon_ext.datasets._records import Dataset, Record, split
from meon_ext.errors import DatasetError

__all__ = ["DATASETS", "Dataset", "DatasetError", "Record", "load_dataset", "split"]

DATASETS: Mapping[str, Callable[..., Dataset]] = MappingProxyType(
    {
        "live": live.load,
        "csiq": csiq.load,
        "tid2013": tid2013.load,
        "kadid10k": kadid10k.load,
        "clive": clive.load,
        "koniq10k": koniq10k.load,
        "waterloo": waterloo.load,
        "biq2021": biq2021.load,
        "folder": folder.load,
        "csv": csv_file.load,
    }
)
"""The loader of each set, by name; ``loader(root, **options) -> Dataset``, and its docstring names its options."""


def load_dataset(name: str, root: str | os.PathLike[str], **options: Any) -> Dataset:
    """Read a data set from its folder (or, for "csv", from its file).

    name: one of ``DATASETS``. root: where the set lies. options: what the set's loader takes beside that.

    Pictures are not opened. Raises DatasetError with the complete list of what is missing or odd and where to get the
    set, ValueError for another name, TypeError for an option that the set does not have.
    """
    if name not in DATASETS:
        raise ValueError(f"no data set is called {name!r}; there are {', '.join(DATASETS)}")
    return DATASETS[name](Path(root), **options)
