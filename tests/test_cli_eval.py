"""The command ``meon eval``: its three formats, exit codes, files of scores, and real data."""

from __future__ import annotations

import argparse
import csv
import inspect
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import made_up_sets as made
import numpy as np
import pytest
from PIL import Image

from meon_ext.cli import eval as eval_command
from meon_ext.cli import main
from meon_ext.datasets import DATASETS
from meon_ext.scoring import Scorer
from meon_ext.weights_io import untrained_weights, write_weights

Run = Callable[..., tuple[int, str, str]]
REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    write_weights(path, untrained_weights())
    return str(path)


@pytest.fixture
def run(model: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls ``meon eval`` with the model, and gives exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main(["eval", *map(str, arguments), "--model", model])
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file of 24 noisy pictures of 6 references with DMOS; jpeg and some other type."""
    root = tmp_path_factory.mktemp("set")
    random = np.random.default_rng(0)
    rows = []
    for i in range(24):
        pixels = random.normal(128, 1 + 3 * i, (64, 64, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.png")
        rows.append((f"{i}.png", i, "jpeg" if i % 2 else "fog", f"ref{i % 6}.png"))
    for i in range(6):
        Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8)).save(root / f"ref{i}.png")
    made.table(root / "mine.csv", ("name", "dmos", "distortion", "reference"), rows)
    return root / "mine.csv"


def test_json(run: Run, mine: Path, model: str) -> None:
    code, out, err = run("csv", "--root", mine, "--format", "json", "--splits", 4)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert {k: found[k] for k in ("dataset", "pictures", "contents", "score_name", "scale", "higher_is_better")} == {
        "dataset": "mine",
        "pictures": 24,
        "contents": 6,
        "score_name": "DMOS",
        "scale": [0, 23],
        "higher_is_better": False,
    }
    scorer = Scorer(model)
    quality = [scorer.score(mine.parent / f"{i}.png").quality for i in range(24)]
    ranks = np.argsort(np.argsort(quality))
    assert len(set(quality)) == 24
    assert found["overall"]["srcc"] == pytest.approx(-np.corrcoef(ranks, range(24))[0, 1], abs=1e-12)
    assert list(found["by_type"]) == ["fog", "jpeg"]
    assert found["types"]["pictures"] == 12 + 6  # those of jpeg, and the references
    assert found["splits"]["splits"] == 4
    assert found["errors"] == [] and found["failed"] == 0


def test_csv_holds_the_same(run: Run, mine: Path) -> None:
    _, out, _ = run("csv", "--root", mine, "--test-fraction", "0.5", "--format", "json")
    expected = json.loads(out)
    code, out, _ = run("csv", "--root", mine, "--test-fraction", "0.5", "--format", "csv")
    assert code == 0
    rows = {row["part"]: row for row in csv.DictReader(io.StringIO(out))}
    assert list(rows) == ["all", "fog", "jpeg", "pristine", "splits median", "splits low", "splits high"]
    for metric in ("srcc", "krcc", "plcc", "rmse"):
        assert float(rows["all"][metric]) == expected["overall"][metric]
        assert float(rows["jpeg"][metric]) == expected["by_type"]["jpeg"][metric]
        assert float(rows["splits low"][metric]) == expected["splits"]["metrics"][metric]["low"]
    assert float(rows["jpeg"]["type_accuracy"]) == expected["types"]["class_accuracy"]["jpeg"]
    assert (rows["fog"]["type_accuracy"], rows["pristine"]["srcc"], rows["pristine"]["pictures"]) == ("", "", "6")


def test_table(run: Run, mine: Path) -> None:
    _, out, _ = run("csv", "--root", mine, "--format", "json")
    expected = json.loads(out)
    code, out, _ = run("csv", "--root", mine)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("mine: 24 pictures of 6 contents, DMOS 0 to 23, lower is better; model random (SHA-256 ")
    row = next(line for line in lines if line.startswith("all")).split()
    assert row[:4] == ["all", "24", f"{expected['overall']['srcc']:.4f}", f"{expected['overall']['krcc']:.4f}"]
    assert "10 random splits, tested on 20 % of the contents, seeds from 0:" in lines
    confusion = next(line for line in lines if line.startswith("  pristine "))
    counts = expected["types"]["confusion"][expected["types"]["classes"].index("pristine")]
    assert [0 if cell == "." else int(cell) for cell in confusion.split()[1:]] == counts
    assert max(map(len, lines)) <= 120


def test_few_splits_say_what_their_interval_is_worth(run: Run, mine: Path) -> None:
    _, out, _ = run("csv", "--root", mine, "--splits", 4)
    assert "(so few splits reach 87.5 %)" in out
    _, out, _ = run("csv", "--root", mine, "--splits", 0)
    assert "split" not in out


def test_only_some_types(run: Run, mine: Path) -> None:
    _, known, _ = run("csv", "--root", mine, "--types", "known", "--format", "json")
    _, named, _ = run("csv", "--root", mine, "--types", "jpeg", "--format", "json")
    assert known == named
    assert json.loads(known)["overall"]["pictures"] == 12
    code, _, err = run("csv", "--root", mine, "--types", "jpeg,frost")
    assert code == 2 and "mine has no frost" in err


def test_output_to_a_file_of_its_format(run: Run, mine: Path, tmp_path: Path) -> None:
    code, out, _ = run("csv", "--root", mine, "-o", tmp_path / "result.json")
    assert (code, out) == (0, "")
    assert json.loads((tmp_path / "result.json").read_text())["dataset"] == "mine"
    code, _, err = run("csv", "--root", mine, "-o", tmp_path / "result.jsonl")
    assert code == 2 and "an evaluation is written as table, json, csv" in err


def test_scores_are_kept(run: Run, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = tmp_path / "scores.csv"
    _, first, _ = run("csv", "--root", mine, "--format", "json", "--scores", scores)
    assert len(scores.read_text().splitlines()) == 4 + 1 + 24 + 6  # comments, header, pictures, references

    def score_many(self: Scorer, images: object, **_: object) -> list[object]:
        assert list(images) == []  # type: ignore[call-overload]
        return []

    monkeypatch.setattr(Scorer, "score_many", score_many)
    _, second, _ = run("csv", "--root", mine, "--format", "json", "--scores", scores)
    assert first == second
    code, _, err = run("csv", "--root", mine, "--scores", scores, "--stride", 64)
    assert code == 2 and "was made with stride 128, this run has 64; name another file" in err


def test_pictures_that_cannot_be_scored(run: Run, tmp_path: Path, mine: Path) -> None:
    for i in range(7):
        (tmp_path / f"{i}.png").write_bytes(b"junk")
    (tmp_path / "7.png").write_bytes((mine.parent / "7.png").read_bytes())
    made.table(tmp_path / "x.csv", ("name", "mos"), [(f"{i}.png", i) for i in range(8)])
    code, out, _ = run("csv", "--root", tmp_path / "x.csv")
    assert code == 1
    assert out.splitlines()[-7] == "7 pictures could not be scored"
    assert "0.png: not a picture" in out and out.endswith("and 2 more; --format json names all\n")
    code, out, _ = run("csv", "--root", tmp_path / "x.csv", "--format", "json")
    assert code == 1
    assert len(json.loads(out)["errors"]) == json.loads(out)["failed"] == 7


def test_problems_of_a_set_are_a_line_each(run: Run, tmp_path: Path) -> None:
    made.table(tmp_path / "x.csv", ("name", "mos"), [(f"gone{i}.png", i) for i in range(3)])
    code, out, err = run("csv", "--root", tmp_path / "x.csv")
    assert (code, out) == (2, "")
    assert [line.split()[0] for line in err.splitlines()[1:4]] == ["line"] * 3 and "\\n" not in err


def test_an_older_result_stays_until_there_is_a_new_one(run: Run, tmp_path: Path, mine: Path) -> None:
    result = tmp_path / "result.csv"
    result.write_text("old\n")
    (tmp_path / "empty").mkdir()
    assert run("folder", "--root", mine.parent, "-o", result)[0] == 2
    assert result.read_text() == "old\n"
    assert run("csv", "--root", mine, "-o", result)[0] == 0
    assert result.read_text().startswith("part,pictures")


def test_a_result_takes_no_place_of_what_it_is_made_from(run: Run, tmp_path: Path, mine: Path) -> None:
    before = mine.read_bytes()
    for options, said in (
        (("--scores", tmp_path / "s.csv", "-o", tmp_path / "s.csv"), "is the file of --scores"),
        (("-o", mine), "is the data set's own file"),
        (("--scores", mine), "is the data set's own file"),
    ):
        code, out, err = run("csv", "--root", mine, *options)
        assert (code, out) == (2, "") and said in err
    assert mine.read_bytes() == before and not (tmp_path / "s.csv").exists()


def test_a_broken_set_is_told_before_anything_is_computed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = made.kadid10k(tmp_path)
    (root / "images" / "I01.png").unlink()
    (root / "images" / "I02_25_03.png").unlink()
    monkeypatch.setattr(eval_command, "make_scorer", None)
    code, out, err = run("kadid10k", "--root", root)
    assert (code, out) == (2, "")
    assert "2 problems" in err and "I01.png: missing" in err and "I02_25_03.png: missing" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["folder", "--root", "{}"], "nothing to compare with; meon score gives their quality"),
        (["folder", "--root", "{}", "--part", "test"], "--part does not go with folder"),
        (["folder", "--root", "{}", "--lower-is-better"], "--higher-is-better does not go with folder"),
        (["koniq10k", "--root", "{}", "--part", "x"], "part must be one of training"),
        (["kodak", "--root", "{}"], "invalid choice: 'kodak'"),
        (["folder"], "the following arguments are required: --root"),
        (["folder", "--root", "{}", "--test-fraction", "1"], "'1' is not a number between 0 and 1"),
        (["folder", "--root", "{}", "--margin", "101"], "'101' is not a number within 0..100"),
        (["waterloo", "--root", "{}", "--tests", "--types", "fog"], "--types: no type of distortion is called 'fog'"),
    ],
)
def test_wrong_use(arguments: list[str], message: str, run: Run, mine: Path) -> None:
    code, out, err = run(*(a.format(mine.parent) for a in arguments))
    assert (code, out) == (2, "")
    assert message in err


def test_direction_and_scale_by_options(run: Run, mine: Path) -> None:
    options = ("--score-column", "dmos", "--score-name", "opinion", "--scale", "-1", "50", "--higher-is-better")
    _, out, _ = run("csv", "--root", mine, *options, "--format", "json")
    _, plain, _ = run("csv", "--root", mine, "--format", "json")
    found = json.loads(out)
    assert (found["score_name"], found["scale"], found["higher_is_better"]) == ("opinion", [-1, 50], True)
    assert found["overall"]["srcc"] == -json.loads(plain)["overall"]["srcc"]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pristine")
    y, x = np.mgrid[0:256, 0:256]
    pixels = 128 + 60 * np.sin(x / 9 + y / 17) + 40 * np.cos(y / 5 - x / 31)
    Image.fromarray(np.repeat(pixels[..., None], 3, axis=-1).astype(np.uint8)).save(root / "waves.png")
    return root


def test_waterloo_tests(run: Run, pristine: Path, tmp_path: Path) -> None:
    options = ("--tests", "--types", "gaussian_blur,white_noise", "--margin", "5", "--scores", tmp_path / "s.csv")
    code, out, err = run("waterloo", "--root", pristine, *options, "--format", "json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["pristine"], found["distorted"]) == (1, 10)
    assert found["types"] == ["gaussian_blur", "white_noise"]
    code, out, _ = run("waterloo", "--root", pristine, *options)
    assert re.search(rf"^D-test  {found['d_test']:.4f}  ", out, re.MULTILINE)
    assert re.search(rf"^L-test  {found['l_test']:.4f}  ", out, re.MULTILINE)
    assert f"{found['pairs']} pairs that MS-SSIM, GMSD and VIF agree on by 5 points" in out
    assert max(map(len, out.splitlines())) <= 120
    code, out, _ = run("waterloo", "--root", pristine, *options, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["part"] for row in rows] == ["all", "gaussian_blur", "white_noise"]
    assert float(rows[0]["d_test"]) == found["d_test"]
    code, _, err = run("waterloo", "--root", pristine, *options, "--seed", "1")
    assert code == 2 and "this run has meon_ext" in err  # other noise


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    clock = iter([0.0, 0.0, 0.1, 10.0, 20.0, 30.0])
    monkeypatch.setattr(eval_command.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = eval_command._Progress(100, quiet=False)
    for done in (20, 21, 40):  # 20 were in the file of scores already
        progress(done)
    progress.end()
    assert sys.stderr.getvalue() == "\r40 of 100 pictures, 2.0/s, 30 s left\x1b[K\r\x1b[K"
    monkeypatch.setattr(sys, "stderr", Terminal())
    quiet = eval_command._Progress(100, quiet=True)
    quiet(50)
    quiet.end()
    assert sys.stderr.getvalue() == ""


def test_every_set_and_every_option_of_one_can_be_named() -> None:
    assert tuple(DATASETS) == eval_command.NAMES
    options = {name for loader in DATASETS.values() for name in inspect.signature(loader).parameters} - {"root"}
    assert options - set(eval_command._DATA_OPTIONS) == {"distortion"}  # eval takes pictures as pristine with --tests
    parser = argparse.ArgumentParser()
    eval_command.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["eval", "live", "--root", "x"])
    assert all(getattr(arguments, name) is None for name in eval_command._DATA_OPTIONS)


def test_neither_help_nor_an_evaluation_imports_torch(mine: Path, model: str) -> None:
    code = "import sys; from meon_ext.cli import main; main(sys.argv[1:]); print({'torch', 'numpy'} & set(sys.modules))"
    for arguments, expected in (
        (["eval", "--help"], "set()"),
        (["eval", "csv", "--root", str(mine), "--model", model], "{'numpy'}"),
    ):
        command = [sys.executable, "-c", code, *arguments]
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        assert found.stdout.splitlines()[-1] == expected


def test_the_script_is_the_command(mine: Path, model: str, run: Run) -> None:
    arguments = ["csv", "--root", str(mine), "--format", "csv"]
    script = [sys.executable, str(REPOSITORY / "python" / "evaluate.py"), *arguments, "--model", model]
    found = subprocess.run(script, capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout == run(*arguments)[1]


# Real


def real(shared_data: Path, capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, object]:
    weights = shared_data / "meon_release" / "meon_release.safetensors"
    assert main(["eval", *map(str, arguments), "--model", str(weights), "--format", "json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_released_weights_on_live(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = real(shared_data, capsys, "live", "--root", shared_data / "live")
    assert found["overall"]["srcc"] > 0.99  # type: ignore[index]
    assert found["overall"]["plcc"] > 0.99  # type: ignore[index]
    assert found["types"]["accuracy"] == 1  # type: ignore[index]
    assert found["types"]["pictures"] == 26  # type: ignore[index]


def test_released_weights_on_a_scene_of_tid2013(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = shared_data / "tid2013_i01"
    known = real(shared_data, capsys, "tid2013", "--root", root, "--types", "known")
    every = real(shared_data, capsys, "tid2013", "--root", root)
    # What it was trained for, against 20 further types.
    assert known["overall"]["srcc"] > 0.85 > 0.5 > every["overall"]["srcc"]  # type: ignore[index]
    assert known["overall"]["pictures"] == 16 and every["overall"]["pictures"] == 116  # type: ignore[index]
