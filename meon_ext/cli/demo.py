"""``meon demo``: score real photographs as they are and spoiled in four ways."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meon_ext.cli._output import open_sink
from meon_ext.cli._rows import FORMATS, Row, make_writer, score_row
from meon_ext.errors import MeonError

if TYPE_CHECKING:
    from PIL.Image import Image

    from meon_ext.weights_io import WeightsFile

# The colour photographs that scikit-image's wheel itself holds, without compression losses.
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "motorcycle_left")
_SEED = 0
_DISTORTIONS = ("jpeg", "jpeg2000", "white_noise", "gaussian_blur")
_LEVEL = 4


def add_parser(commands: Any) -> None:
    """Add the command to those of ``meon``."""
    parser = commands.add_parser(
        "demo",
        help="score real photographs, pristine and distorted",
        description="Score photographs that come with scikit-image, pristine and with JPEG, JPEG 2000, white noise "
        "and blur, all made on the spot. Without --model it takes the default weights.",
    )
    parser.add_argument("--model", metavar="NAME|FILE", help="weights that ship with meon_ext, or a weights file")
    parser.add_argument("--format", choices=FORMATS, default="table", help="format of the rows (default: table)")
    parser.add_argument("-o", "--output", metavar="DIR", help="keep the pictures there, as PNG")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Score them; returns 0, or raises MeonError saying what is missing."""
    from meon_ext.scoring import Scorer

    folder = _photograph_folder()
    weights, announcement = _weights(arguments.model)
    scorer = Scorer(weights)
    # Other formats are for programs: only rows may be on standard output then.
    print(announcement, file=sys.stdout if arguments.format == "table" else sys.stderr, flush=True)
    if arguments.output is not None:
        _make_folder(arguments.output)
    rows: list[tuple[str, Row]] = []
    with open_sink(None, arguments.format) as sink:
        writer = make_writer(arguments.format, sink.write, width=sink.width, encoding=sink.encoding, weights=weights)
        for photograph in PHOTOGRAPHS:
            for kind, picture in variants(folder / f"{photograph}.png"):
                path = f"{photograph}-{kind}.png"
                if arguments.output is not None:
                    path = str(Path(arguments.output) / path)
                    picture.save(path)
                row = score_row(path, scorer.score(picture, name=path))
                writer.row(row)
                rows.append((kind, row))
        writer.finish()
    if arguments.format == "table":
        print(_means(rows))
    return 0


def _photograph_folder() -> Path:
    found = importlib.util.find_spec("skimage")  # found, not imported: only its files are needed
    places = found.submodule_search_locations if found is not None else None
    folder = Path(places[0]) / "data" if places else None
    if folder is None or not all((folder / f"{name}.png").is_file() for name in PHOTOGRAPHS):
        raise MeonError('the demonstration needs photographs from scikit-image; run: pip install "meon_ext[demo]"')
    return folder


def _make_folder(name: str) -> None:
    try:
        Path(name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MeonError(f"-o {name}: cannot be made ({error.strerror or error}); choose another folder") from error


def _weights(model: str | None) -> tuple[WeightsFile, str]:
    """The weights, and the line that says which they are."""
    from meon_ext.weights_io import read_weights, resolve_weights

    weights = read_weights(resolve_weights(model))
    return weights, f"weights: {weights.name} ({weights.path}, SHA-256 {weights.sha256[:12]})"


def variants(photograph: Path) -> Iterator[tuple[str, Image]]:
    """The photograph as it is and with each distortion, by name."""
    import numpy as np
    from PIL import Image

    from meon_ext.distortions import distort

    with Image.open(photograph) as opened:
        pristine = opened.convert("RGB")
    yield "pristine", pristine
    for name in _DISTORTIONS:
        yield name, Image.fromarray(distort(np.asarray(pristine), name, _LEVEL, seed=_SEED))


def _means(rows: list[tuple[str, Row]]) -> str:
    means = []
    for kind in ("pristine", *_DISTORTIONS):
        qualities = [row["quality"] for made, row in rows if made == kind]
        means.append(f"{kind} {sum(qualities) / len(qualities):.1f}")
    return "mean quality: " + ", ".join(means)
