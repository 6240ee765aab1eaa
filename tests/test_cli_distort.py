"""``meon distort``."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meon_ext.cli import distort as distort_command
from meon_ext.cli import main
from meon_ext.distortions import TYPES, available, distort


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 300, 3), np.uint8)).save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("suffix", [".png", ".BMP", ".tif", ".ppm", ".webp"])
def test_the_file_holds_what_the_function_makes(picture: Path, tmp_path: Path, suffix: str) -> None:
    """To the pixel, and of the picture's own size although scoring would continue it to 256."""
    out = tmp_path / f"out{suffix}"
    assert main(["distort", str(picture), "--type", "white_noise", "--level", "3", "--seed", "7", "-o", str(out)]) == 0
    assert (pixels(out) == distort(pixels(picture), "white_noise", 3, seed=7)).all()


def test_sheet(picture: Path, tmp_path: Path) -> None:
    """A row for each type, a column for each level: every cell is the middle of the picture so damaged."""
    out = tmp_path / "sheet.png"
    names = ["jpeg", "white_noise", "mean_shift"]
    arguments = [part for name in names for part in ("--type", name)]
    assert main(["distort", str(picture), "--sheet", *arguments, "-o", str(out)]) == 0
    sheet, clean = pixels(out), pixels(picture)
    assert sheet.shape == (3 * 64 + 4, 170 + 5 * 164 + 4, 3)
    for row, name in enumerate(names):
        for column in range(5):
            cell = sheet[4 + row * 64 :, 170 + column * 164 :][:60, :160]
            made = distort(clean, name, column + 1)[:, 70:230]
            assert (cell[20:] == made[20:]).all(), (name, column)  # above stands the level's parameter


def test_sheet_shows_scattered_damage_where_it_is() -> None:
    """Level 1 spoils a few blocks of a wide picture: those that leave the middle alone are seen nevertheless."""
    clean = np.random.default_rng(2).integers(0, 256, (300, 1500, 3), np.uint8)
    seen = 0
    for seed in range(5):
        made = distort(clean, "local_blocks", 1, seed=seed)
        error = ((made.astype(float) - clean) ** 2).sum(axis=2)
        top, left = distort_command._shown(clean, made, 160, 160)
        assert 0 <= top <= 140 and 0 <= left <= 1340
        shown = error[top : top + 160, left : left + 160].sum()
        assert shown >= error.mean() * 160 * 160 / 2
        if (top, left) != (70, 670):
            seen += 1
            assert error[70:230, 670:830].sum() < error.mean() * 160 * 160 / 2
            every = [error[y : y + 160, x : x + 160].sum() for y in range(0, 141, 20) for x in range(0, 1341, 20)]
            assert shown >= max(every)
    assert seen


def test_sheet_of_all_types(picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    assert main(["distort", str(picture), "--sheet", "-o", str(out)]) == 0
    assert pixels(out).shape[0] == sum(map(available, TYPES)) * 64 + 4


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distort", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(TYPES)
    assert "60  30  15  8  4" in lines[1 + list(TYPES).index("jpeg")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--type", "jpeg", "--level", "1"], "-o FILE is needed"),
        (["--type", "jpeg", "--level", "1", "-o", "out.jpg"], "out.jpg: name a file that keeps every pixel: .png"),
        (["--level", "1", "-o", "out.png"], "--type and --level are needed"),
        (["--type", "jpeg", "-o", "out.png"], "--type and --level are needed"),
        (["--type", "jpeg", "--type", "avif", "--level", "1", "-o", "out.png"], "once each"),
        (["--sheet", "--level", "1", "-o", "out.png"], "leave out --level"),
        (["--type", "fog", "--level", "1", "-o", "out.png"], "unknown type of distortion 'fog'"),
        (["--type", "jpeg", "--level", "9", "-o", "out.png"], "level is 9"),
        (["--type", "jpeg", "--level", "1", "--seed", "-1", "-o", "out.png"], "seed is -1"),
        (["--type", "jpeg", "--level", "1", "-o", "nowhere/out.png"], "cannot be written"),
    ],
)
def test_wrong_use(
    picture: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["distort", str(picture), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["picture.png"]


def test_a_limit_that_is_no_number(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEON_MAX_PIXELS", "many")
    arguments = ["distort", str(picture), "--type", "jpeg", "--level", "1", "-o", str(tmp_path / "out.png")]
    assert main(arguments) == 2
    assert "MEON_MAX_PIXELS must be a positive whole number" in capsys.readouterr().err


def test_more_pixels_than_the_format_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.zeros((64, 17000, 3), np.uint8)).save(tmp_path / "wide.png")
    arguments = ["distort", str(tmp_path / "wide.png"), "--type", "mean_shift", "--level", "1"]
    assert main([*arguments, "-o", str(tmp_path / "wide.webp")]) == 2
    assert "choose another format" in capsys.readouterr().err


def test_the_picture_itself_is_not_overwritten(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = picture.read_bytes()
    assert main(["distort", str(picture), "--type", "jpeg", "--level", "1", "-o", str(picture)]) == 2
    assert "is the picture itself" in capsys.readouterr().err and picture.read_bytes() == before
    assert main(["distort", str(picture.parent / "none.png"), "--type", "jpeg", "--level", "1", "-o", "out.png"]) == 2
    assert "none.png" in capsys.readouterr().err
    assert main(["distort"]) == 2
    assert "name a picture, or --list" in capsys.readouterr().err
