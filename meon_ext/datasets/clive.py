"""LIVE In the Wild Image Quality Challenge Database (Ghadiyaram and Bovik, IEEE TIP 2016)."""

from __future__ import annotations

import re
from pathlib import Path

from meon_ext.datasets._files import Folder
from meon_ext.datasets._mat import MatFile
from meon_ext.datasets._problems import Problems
from meon_ext.datasets._records import Dataset, Record

_REMEDY = "LIVE In the Wild is at https://live.ece.utexas.edu/research/ChallengeDB/index.html"
_SCALE = (0.0, 100.0)
_TRAINING = re.compile(r"t\d+\.\w+")  # shown to the observers to train them


def load(root: Path) -> Dataset:
    """The photographs of LIVE In the Wild with their MOS, 0 to 100, higher is better; each is a group of its own.

    Layout: ``Images`` and ``Data`` with ``AllImages_release.mat``, ``AllMOS_release.mat`` and
    ``AllStdDev_release.mat``. The seven pictures in ``Images/trainingImages`` that the observers were trained with are
    left out, as is the custom.

    Raises DatasetError with all that is missing or odd.
    """
    problems = Problems("clive", root, _REMEDY)
    top = problems.read(lambda: Folder(root))
    images, data = problems.folder(top, "Images"), problems.folder(top, "Data")
    names, scores, deviations = (_variable(data, name, problems) for name in ("AllImages", "AllMOS", "AllStdDev"))
    if not len(names) == len(scores) == len(deviations):
        problems.add(f"{data.path}: {len(names)} names, {len(scores)} MOS and {len(deviations)} standard deviations")
    problems.no_duplicates(names)
    records = [
        Record(
            problems.picture(images, name),
            problems.score(f"{name}, MOS", str(score), _SCALE),
            float(std),
            group=f"clive/{name.casefold()}",
        )
        for name, score, std in zip(names, scores, deviations, strict=False)
        if not _TRAINING.fullmatch(name)
    ]
    problems.raise_if_any()
    return Dataset("clive", root, tuple(records), "MOS", _SCALE, higher_is_better=True)


def _variable(data: Folder, name: str, problems: Problems) -> list[str]:
    path = problems.file(data, f"{name}_release.mat")
    mat = problems.read(lambda: MatFile(path))
    variable = f"{name}_release"
    if name == "AllImages":
        return problems.read(lambda: mat.names(variable))
    return [repr(float(value)) for value in problems.read(lambda: mat.numbers(variable))]
