"""The weights that ship: whole, as their cards say, and right about photographs that they were not trained on."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meon_ext import distortions
from meon_ext.cli import demo, main
from meon_ext.distortions import CLASSIC, TYPES
from meon_ext.images import load_image
from meon_ext.scoring import Scorer
from meon_ext.weights_io import WEIGHTS_FOLDER, WeightsFile, read_weights, resolve_weights

NAMES = ("meon", "meon-classic")
pytest.importorskip("skimage")


@pytest.fixture(scope="module", params=NAMES)
def scorer(request: pytest.FixtureRequest) -> Iterator[Scorer]:
    yield Scorer(request.param)


def photographs() -> list[Path]:
    return [demo._photograph_folder() / f"{name}.png" for name in demo.PHOTOGRAPHS]


@pytest.mark.parametrize("name", NAMES)
def test_files_are_those_of_their_cards(name: str) -> None:
    path = resolve_weights(name)
    assert path == WEIGHTS_FOLDER / f"{name}.safetensors" and path.stat().st_size < 1_000_000
    card = (WEIGHTS_FOLDER / f"{name}.md").read_text()
    weights = read_weights(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == weights.sha256
    assert f"`{weights.sha256}`" in card
    assert f"{parameters(weights):,} parameters" in card
    assert dict(weights.words) == {"excellent": 80, "good": 60, "fair": 40, "poor": 20, "bad": 0}
    for heading in ("Data", "Protocol", "Results", "Limits", "Licence"):
        assert re.search(rf"^## {heading}$", card, re.MULTILINE)


def parameters(weights: WeightsFile) -> int:
    return sum(tensor.size for tensor in weights.tensors.values())


def test_the_default_is_small_and_knows_many_types() -> None:
    assert resolve_weights() == resolve_weights("meon")
    weights = read_weights(resolve_weights())
    assert parameters(weights) <= 160_000
    assert len(weights.classes) >= 13 and "pristine" in weights.classes
    assert set(weights.classes) <= {*TYPES, "pristine"}
    assert set(read_weights(resolve_weights("meon-classic")).classes) == {*CLASSIC, "pristine"}


@pytest.mark.parametrize("name", CLASSIC)
def test_more_damage_is_worse(scorer: Scorer, name: str) -> None:
    # Each level from one to the next but one; and a photograph as it is above its worse copies.
    for path in photographs():
        picture = load_image(path).pixels
        qualities = [scorer.score(distortions.distort(picture, name, level)).quality for level in distortions.LEVELS]
        assert all(better > worse for better, worse in zip(qualities, qualities[2:], strict=False)), (path, qualities)
        assert scorer.score(picture).quality > qualities[2] + 10, (path, qualities)


def test_a_jpeg_file_is_not_suspect() -> None:
    """A photograph that is coded where nobody sees it has hardly less quality than it had, and no codec spoils it."""
    scorer = Scorer()
    for path in photographs():
        picture = load_image(path).pixels
        own = scorer.score(picture)
        for quality in (98, 95, 90):
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "JPEG", quality=quality)
            coded = scorer.score(file.getvalue())
            assert coded.quality > own.quality - 8, (path, quality)
            assert coded.distortion not in {"jpeg", "jpeg_transmission", "webp", "jpeg2000"}, (path, quality)


def test_the_demonstration_is_sensible(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--format", "jsonl"]) == 0
    out, err = capfd.readouterr()
    assert err.startswith("weights: meon (")
    rows = [json.loads(line) for line in out.splitlines()]
    kinds = [re.sub(r"^[a-z]+(_left)?-|\.png$", "", row["path"]) for row in rows]
    quality = {kind: [row["quality"] for row, k in zip(rows, kinds, strict=True) if k == kind] for kind in set(kinds)}
    for kind, values in quality.items():
        assert len(values) == len(demo.PHOTOGRAPHS)
        if kind != "pristine":
            assert np.mean(quality["pristine"]) > np.mean(values) + 20
            assert all(clean > spoiled for clean, spoiled in zip(quality["pristine"], values, strict=True)), kind
