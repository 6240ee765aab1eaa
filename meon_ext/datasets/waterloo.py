"""The pristine pictures of the Waterloo Exploration Database (Ma et al., IEEE TIP 2017)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from meon_ext.datasets import folder
from meon_ext.datasets._files import Folder
from meon_ext.datasets._problems import Problems
from meon_ext.datasets._records import Dataset

_REMEDY = "The Waterloo Exploration Database is at https://kedema.org/project/exploration/index.html"


def load(root: Path) -> Dataset:
    """The pristine pictures, without scores: those in ``pristine_images``, or else all in ``root`` and below.

    So any folder of pristine pictures can stand in for the set. Its distorted pictures are made from these: see
    ``meon_ext.distortions``. Each picture is a group of its own.

    Raises DatasetError where there are none.
    """
    problems = Problems("waterloo", root, _REMEDY)
    top = problems.read(lambda: Folder(root))
    found = problems.read(lambda: folder.load(top.find("pristine_images") or root, distortion="pristine"))
    return replace(found, name="waterloo", root=root)
