"""meon demo: the main job on real photographs, with whatever weights there are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from meon_ext.cli import demo, main
from meon_ext.distortions import distort
from meon_ext.scoring import Scorer
from meon_ext.weights_io import check_weights, untrained_weights, write_weights

pytest.importorskip("skimage")
KINDS = ("pristine", "jpeg", "jpeg2000", "white_noise", "gaussian_blur")


def test_untrained_weights_are_whole_and_always_the_same() -> None:
    weights = untrained_weights()
    check_weights(weights, "untrained")
    for name, tensor in untrained_weights().tensors.items():
        np.testing.assert_array_equal(tensor, weights.tensors[name])
        assert tensor.dtype == np.float32


def test_an_installation_without_its_weights_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("meon_ext.weights_io.WEIGHTS_FOLDER", tmp_path)
    assert main(["demo"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and "the default weights are missing from this installation" in err


def test_default_weights_are_taken_where_they_ship(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_weights(tmp_path / "meon.safetensors", untrained_weights())
    monkeypatch.setattr("meon_ext.weights_io.WEIGHTS_FOLDER", tmp_path)
    assert main(["demo"]) == 0
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("weights: meon (")
    assert len(lines) == 2 + 4 * 5 + 1
    assert lines[-1].startswith("mean quality: pristine ")
    assert err == ""
    assert main(["demo"]) == 0
    assert capfd.readouterr().out == out


def test_kept_pictures_score_the_same(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "w.safetensors"
    write_weights(model, untrained_weights())
    folder = tmp_path / "new" / "pictures"
    assert main(["demo", "--model", str(model), "--format", "jsonl", "-o", str(folder)]) == 0
    out, err = capfd.readouterr()
    assert err.startswith("weights: w (")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [Path(row["path"]).name for row in rows] == [
        f"{name}-{kind}.png" for name in demo.PHOTOGRAPHS for kind in KINDS
    ]
    scorer = Scorer(model)
    for row in rows:
        assert scorer.score(row["path"]).quality == pytest.approx(row["quality"], abs=1e-6)


def test_released_weights_rank_the_pictures_and_name_what_spoils_them(
    shared_data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = shared_data / "meon_release" / "meon_release.safetensors"
    assert main(["demo", "--model", str(model), "--format", "jsonl"]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    for start in range(0, len(rows), len(KINDS)):
        pristine, *spoiled = rows[start : start + len(KINDS)]
        assert pristine["quality"] > max(row["quality"] for row in spoiled) + 15
    named = [row["distortion"] == kind for row, kind in zip(rows, KINDS * len(demo.PHOTOGRAPHS), strict=True)]
    assert sum(named) >= 16


def test_distortions_are_what_they_say() -> None:
    folder = demo._photograph_folder()
    made = dict(demo.variants(folder / "coffee.png"))
    assert tuple(made) == KINDS
    pristine = np.asarray(made["pristine"]).astype(float)
    for kind in KINDS[1:]:
        assert made[kind].mode == "RGB"
        error = np.asarray(made[kind]) - pristine
        assert 4 < np.sqrt((error**2).mean()) < 40, kind
        assert (np.asarray(made[kind]) == distort(pristine.astype(np.uint8), kind, 4)).all(), kind


def test_missing_photographs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(demo, "PHOTOGRAPHS", ("no such photograph",))
    assert main(["demo"]) == 2
    assert 'pip install "meon_ext[demo]"' in capsys.readouterr().err


def test_bad_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--model", str(tmp_path / "gone.safetensors")]) == 2
    (tmp_path / "file").touch()
    assert main(["demo", "-o", str(tmp_path / "file")]) == 2
    assert "cannot be made" in capsys.readouterr().err


def test_demo_imports_neither_torch_nor_skimage() -> None:
    code = (
        "import sys\nfrom meon_ext.cli import main\nmain(['demo'])\n"
        "print([name for name in ('torch', 'skimage') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    assert result.stdout.splitlines()[-1] == "[]"
