"""The meon command: rows in every format, exit codes, bad input, odd names, pipes and terminals."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import meon_ext
from meon_ext import __version__
from meon_ext.cli import main
from meon_ext.cli._paths import expand, natural_key
from meon_ext.cli._rows import COLUMNS, make_writer, printable, shortened
from meon_ext.cli._terminal import terminal_width
from meon_ext.scoring import Scorer
from meon_ext.weights_io import read_weights, untrained_weights, write_weights

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX file names, pipes and signals")
linux = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full, and paths as long as Linux takes them")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    write_weights(path, untrained_weights())
    return str(path)


def picture(path: Path | str | bytes, seed: int = 0, size: tuple[int, int] = (300, 260)) -> None:
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    with open(path, "wb") as target:  # noqa: PTH123  also for names in bytes
        target.write(file.getvalue())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two good pictures and a bad one, and we are in their folder."""
    picture(tmp_path / "img10.png", 1)
    picture(tmp_path / "img2.png", 2, (100, 120))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(model: str, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Calls ``meon score`` with the model, and gives exit code, standard output and standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(["score", "--model", model, *arguments])
        out, err = capfdbinary.readouterr()
        return code, out.decode("utf-8", "surrogateescape"), err.decode("utf-8", "surrogateescape")

    return call


def process(*arguments: str | bytes, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "meon_ext.cli", *arguments]
    return subprocess.run(command, capture_output=True, timeout=120, **options)


def parse_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


# Formats


def test_jsonl(folder: Path, run: Run, model: str) -> None:
    code, out, err = run("img2.png", "broken.png", "--format", "jsonl")
    assert code == 1
    good, bad = (json.loads(line) for line in out.splitlines())
    assert tuple(good) == COLUMNS
    expected = Scorer(model).score(folder / "img2.png")
    assert good == {
        "path": "img2.png",
        "width": 100,
        "height": 120,
        "quality": pytest.approx(expected.quality, abs=1e-6),
        "quality_std": pytest.approx(expected.quality_std, abs=1e-6),
        "word": None,
        "raw": pytest.approx(expected.raw, abs=1e-6),
        "distortion": expected.distortion,
        "probabilities": pytest.approx(expected.probabilities, abs=1e-6),
        "crops": 1,
        "padded": True,
        "model": "random",
        "error": None,
    }
    assert tuple(bad) == COLUMNS
    assert bad["path"] == "broken.png"
    assert bad["error"].startswith("broken.png: ")
    assert bad["model"] == "random"
    assert all(bad[column] is None for column in COLUMNS if column not in ("path", "model", "error"))
    assert re.match(r"1 scored, 1 failed, mean quality \d+\.\d\d, model random, \d+\.\d\d s\n$", err)


def test_json_is_an_array_of_the_same_rows(folder: Path, run: Run) -> None:
    _, lines, _ = run(str(folder), "--format", "jsonl")
    code, out, _ = run(str(folder), "--format", "json")
    assert code == 1
    assert json.loads(out) == [json.loads(line) for line in lines.splitlines()]


def test_csv_holds_the_same_rows(folder: Path, run: Run) -> None:
    _, lines, _ = run(str(folder), "--format", "jsonl")
    _, out, _ = run(str(folder), "--format", "csv")
    assert out.splitlines()[0] == ",".join(COLUMNS)
    rows = parse_csv(out)
    assert len(rows) == 3
    for row, expected in zip(rows, map(json.loads, lines.splitlines()), strict=True):
        for column in COLUMNS:
            if expected[column] is None:
                assert row[column] == ""
            elif isinstance(expected[column], str):
                assert row[column] == expected[column]
            else:
                assert json.loads(row[column]) == expected[column]


def test_table(folder: Path, run: Run) -> None:
    code, out, _ = run("broken.png", "img2.png", "img10.png")
    assert code == 1
    header, bad, small, plain = out.splitlines()
    assert header.split() == ["quality", "+/-", "distortion", "prob", "size", "path"]
    assert bad.startswith("  failed  broken.png: ")
    assert small.endswith("100x120  img2.png  (padded)")
    assert plain.endswith("300x260  img10.png")
    assert header.index("path") == small.index("img2") == plain.index("img10")


def test_table_says_the_weights_word_for_the_quality(folder: Path, run: Run) -> None:
    code, out, _ = run("img2.png", "img10.png", "--model", "meon")
    assert code == 0
    header, *lines = out.splitlines()
    assert header.split() == ["quality", "+/-", "word", "distortion", "prob", "size", "path"]
    _, rows, _ = run("img2.png", "img10.png", "--format", "jsonl", "--model", "meon")
    for line, row in zip(lines, map(json.loads, rows.splitlines()), strict=True):
        assert row["word"] == Scorer().score(folder / row["path"]).word
        assert line.split()[2:4] == [row["word"], row["distortion"]]
        assert line.index(row["distortion"]) == header.index("distortion") and line.index("img") == header.index("path")


def test_numbers_that_json_cannot_hold_are_refused() -> None:
    writer = make_writer("jsonl", lambda _: None, width=None, encoding="utf-8")
    with pytest.raises(ValueError, match="JSON"):
        writer.row({**dict.fromkeys(COLUMNS), "quality": float("nan")})


def test_json_of_no_rows() -> None:
    written: list[bytes] = []
    make_writer("json", written.append, width=None, encoding="utf-8").finish()
    assert json.loads(b"".join(written)) == []


# Exit codes


def test_all_scored(folder: Path, run: Run) -> None:
    assert run("img2.png", "img10.png")[0] == 0


def test_fail_under(folder: Path, run: Run) -> None:
    assert run("img2.png", "--fail-under", "0")[0] == 0
    code, _, err = run("img2.png", "img10.png", "--fail-under", "100")
    assert code == 3
    assert "2 below 100" in err
    assert run("img2.png", "broken.png", "--fail-under", "100")[0] == 1  # a failure comes first


def test_nothing_matches(tmp_path: Path, run: Run) -> None:
    code, out, _ = run(str(tmp_path / "*.png"), "--format", "jsonl")
    assert code == 1
    assert "nothing matches" in json.loads(out)["error"]
    code, out, _ = run(str(tmp_path), "--format", "jsonl")
    assert code == 1
    assert "no pictures" in json.loads(out)["error"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["score"],
        ["paint", "a.png"],
        ["score", "a.png", "--format", "xml"],
        ["score", "a.png", "--stride", "0"],
        ["score", "a.png", "--stride", "x"],
        ["score", "a.png", "--threads", "-1"],
        ["score", "a.png", "--pool", "max"],
        ["score", "a.png", "--fail-under", "101"],
        ["score", "a.png", "--fail-under", "nan"],
        ["score", "a.png", "--backend", "cuda"],
    ],
)
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: meon" in err


@pytest.mark.parametrize(
    "arguments", [["-", "-"], ["a.png", "--device", "gpu"], ["a.png", "--device", "cuda", "--backend", "core"]]
)
def test_contradictions(arguments: list[str], run: Run) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("meon score: error: ")
    assert len(err.splitlines()) == 1


def test_bad_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"no weights")
    for bad in (garbage, tmp_path / "gone.safetensors", tmp_path):
        assert main(["score", "--model", str(bad), "a.png"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"meon score: error: {bad}")


def test_messages_hold_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--model", "a\x1b[31m.safetensors", "a.png"]) == 2
    assert r"a\x1b[31m" in capsys.readouterr().err


def test_quiet(folder: Path, run: Run) -> None:
    assert run("img2.png", "broken.png", "--quiet")[2] == ""


def test_settings_reach_the_scorer(folder: Path, run: Run, model: str) -> None:
    _, out, _ = run("img10.png", "--format", "jsonl", "--stride", "11", "--pool", "p5", "--threads", "1")
    expected = Scorer(model, stride=11, pool="p5").score(folder / "img10.png")
    row = json.loads(out)
    assert (row["crops"], row["quality"]) == (expected.meta["crops"], pytest.approx(expected.quality, abs=1e-6))


# Output files


@pytest.mark.parametrize("format", ["csv", "json", "jsonl"])
def test_output_file_takes_its_format_from_its_suffix(folder: Path, run: Run, format: str) -> None:
    _, expected, _ = run("img2.png", "broken.png", "--format", format)
    code, out, _ = run("img2.png", "broken.png", "-o", f"rows.{format}")
    assert (code, out) == (1, "")
    assert (folder / f"rows.{format}").read_bytes().decode() == expected
    assert sorted(path.name for path in folder.iterdir()) == ["broken.png", "img10.png", "img2.png", f"rows.{format}"]


def test_output_file_of_a_table_is_not_cut(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert run(str(folder / "img2.png"), "-o", "rows.txt")[0] == 0
    assert str(folder / "img2.png") in (folder / "rows.txt").read_text()


@posix
def test_the_list_on_stdin_is_not_overwritten(folder: Path, model: str) -> None:
    """It would be read without end, as rows were added to it."""
    for name in ("list.csv", "other.csv"):
        (folder / "list.csv").write_text("img2.png\n")
        with (folder / "list.csv").open("rb") as stdin:
            command = [sys.executable, "-m", "meon_ext.cli", "score", "-", "-o", name, "--model", model]
            done = subprocess.run(
                command, cwd=folder, stdin=stdin, capture_output=True, text=True, check=False, timeout=60
            )
        same = name == "list.csv"
        assert done.returncode == (2 if same else 0), done.stderr
        assert ("-o list.csv: this is the list on stdin; name another file" in done.stderr) is same
        assert (folder / "list.csv").read_text() == "img2.png\n"


@linux
def test_what_the_system_refuses_is_a_message(folder: Path, model: str) -> None:
    """A full disk behind standard output, a name too long, a link to itself, closed descriptors."""
    (folder / "loop.json").symlink_to("loop.json")
    (folder / "long.csv").write_text("path,mos\n" + "n" * 300 + ".png,3\n")
    run = f"{sys.executable} -m meon_ext.cli"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for command, said in (
        (f"{run} score img2.png --model {model} > /dev/full", "No space left"),
        (f"{run} info > /dev/full", "No space left"),
        (f"{run} score img2.png --model {model} >&-", "standard output is closed"),
        (f"{run} score - --model {model} <&-", "standard input is closed"),
        (f"{run} score img2.png --model {model} -o {'n' * 300}.csv", "File name too long"),
        (f"{run} score img2.png --model {model} -o loop.json", "cannot be written"),
        (f"{run} distort img2.png --type jpeg --level 1 -o {'n' * 300}.png", "File name too long"),
        (f"{run} eval csv --root long.csv --model {model}", "n.png is missing"),
    ):
        done = subprocess.run(
            ["/bin/sh", "-c", command], cwd=folder, env=buffered, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2 and said in done.stderr, (command, done.stderr)
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, command


def test_a_temporary_file_left_behind_is_in_nobody_s_way(folder: Path, run: Run) -> None:
    """In a container every run has the same process number."""
    left = folder / f".rows.json.{os.getpid()}.tmp"
    left.touch()
    code, _, _ = run("img2.png", "-o", "rows.json")
    assert code == 0 and json.loads((folder / "rows.json").read_text())
    assert left.exists() and {path.name for path in folder.glob("*.tmp")} <= {left.name}


@linux
def test_deep_folders(folder: Path, run: Run) -> None:
    deep = "deep/" + "d/" * 1100
    subprocess.run(["mkdir", "-p", deep], check=True)
    try:
        picture(deep + "in.png")
        code, out, _ = run("deep", "--format", "jsonl")
    finally:
        subprocess.run(["rm", "-rf", "deep"], check=True)  # shutil.rmtree goes no deeper than Python's own stack
    assert code == 0 and [json.loads(line)["path"] for line in out.splitlines()] == [deep + "in.png"]


def test_output_that_cannot_be_written(folder: Path, run: Run) -> None:
    for place in ("gone/rows.csv", "gone/rows.json", "broken.png/rows.json", str(folder)):
        code, _, err = run("img2.png", "-o", place)
        assert code == 2
        assert f"-o {place}: cannot be written" in err


def test_a_picture_is_not_overwritten(folder: Path, run: Run) -> None:
    before = (folder / "img2.png").read_bytes()
    code, _, err = run("img10.png", "-o", "img2.png")
    assert code == 2
    assert "picture" in err
    assert (folder / "img2.png").read_bytes() == before


@posix
def test_output_to_a_device_or_link(folder: Path, run: Run) -> None:
    assert run("img2.png", "-o", "/dev/null", "--format", "json")[0] == 0
    assert not Path("/dev/null").is_file()
    (folder / "link.json").symlink_to("target.json")
    assert run("img2.png", "-o", "link.json")[0] == 0
    assert (folder / "link.json").is_symlink()
    assert len(json.loads((folder / "target.json").read_text())) == 1


@posix
def test_full_disk(folder: Path, run: Run) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    for format in ("csv", "json"):
        code, _, err = run("img2.png", "-o", "/dev/full", "--format", format)
        assert code == 2
        assert "cannot be written" in err


# Which pictures


def test_folder_is_walked_in_natural_order(tmp_path: Path) -> None:
    for name in ("b.jpg", "img10.png", "img2.PNG", "notes.txt", ".hidden.png", "a/z.webp", "a/y.tif", ".git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [Path(item.path).relative_to(tmp_path).as_posix() for item in expand(str(tmp_path))]
    assert found == ["b.jpg", "img2.PNG", "img10.png", "a/y.tif", "a/z.webp"]


@posix
def test_links_in_folders(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    assert [Path(item.path).name for item in expand(str(tmp_path))] == ["a.png", "b.png"]
    assert [Path(item.path).name for item in expand(str(tmp_path / "loop"))] == ["a.png", "b.png"]


def test_natural_order() -> None:
    names = ["x10", "X9", "x1a2", "x1a10", "10", "9", "", "x"]
    assert sorted(names, key=natural_key) == ["", "9", "10", "x", "x1a2", "x1a10", "X9", "x10"]


def test_globs(tmp_path: Path) -> None:
    for name in ("a1.png", "a2.txt", "sub/a3.png", "[1].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def found(pattern: str) -> list[str]:
        return [Path(item.path).relative_to(tmp_path).as_posix() for item in expand(f"{tmp_path}/{pattern}")]

    assert found("a*") == ["a1.png", "a2.txt"]  # as the shell would: whatever its suffix
    assert found("[1].png") == ["[1].png"]  # the file itself comes before the pattern
    assert found("**/*.png") == ["[1].png", "a1.png", "sub/a3.png"]
    assert found("s*") == ["sub/a3.png"]
    assert found("**") == ["[1].png", "a1.png", "a2.txt", "sub/a3.png"]  # each once
    assert found("s*/**/*.png") == found("**/sub/**") == found("sub/**/**/a3.*") == ["sub/a3.png"]
    assert found("**/[[]1].png") == ["[1].png"]


def test_globs_pass_over_links_to_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links that lead back above would be followed for ever: with two, each level doubles what is to be looked at."""
    (tmp_path / "a[b]" / "c").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    for place in (tmp_path / "a[b]" / "1.png", tmp_path / "a[b]" / "c" / "2.png", tmp_path / ".hidden" / "3.png"):
        place.touch()
    for name in ("loop", "again"):
        (tmp_path / "a[b]" / name).symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    both = ["a[b]/1.png", "a[b]/c/2.png"]
    for pattern in ("**/*.png", "**", "**/*", "./**/*.png"):
        assert [os.path.normpath(item.path) for item in expand(pattern)] == both
    assert [item.path for item in expand(f"{tmp_path}/**/*.png")] == [f"{tmp_path}/{name}" for name in both]
    assert [item.path for item in expand("**/loop/**/1.png")] == ["a[b]/loop/a[b]/1.png"]  # named, so followed
    assert [item.path for item in expand("**/.hidden/*")] == [".hidden/3.png"]


def test_empty_path_is_no_folder(folder: Path, run: Run) -> None:
    code, out, _ = run("", "--format", "jsonl")
    assert code == 1
    assert "no such file" in json.loads(out)["error"]


@posix
def test_special_files_in_a_folder_do_not_hang(folder: Path, run: Run) -> None:
    os.mkfifo(folder / "fifo.png")
    _, out, _ = run(str(folder), "--format", "jsonl")
    errors = {Path(row["path"]).name: row["error"] for row in map(json.loads, out.splitlines())}
    assert "not a regular file" in errors["fifo.png"]
    assert errors["img2.png"] is None


def test_bad_inputs_keep_their_place(folder: Path, run: Run) -> None:
    (folder / "empty").mkdir()
    paths = ["gone.png", "img2.png", "empty", "no*.png", "img10.png", "broken.png", "img2.png", "empty"]
    code, out, _ = run(*paths, "--format", "jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [row["path"] for row in rows] == paths
    assert [row["error"] is None for row in rows] == [False, True, False, False, True, False, True, False]


@posix
@pytest.mark.parametrize(("option", "separator"), [((), b"\n"), ((), b"\r\n"), (("-0",), b"\0")])
def test_list_on_stdin(folder: Path, model: str, option: tuple[str, ...], separator: bytes) -> None:
    picture(folder / "[x] *.png")
    (folder / "sub").mkdir()
    picture(folder / "sub" / "in.png")
    names = [b"img2.png", b"", b"[x] *.png", b"sub", b"gone*.png", b"img10.png"]
    result = process(
        *("score", "img10.png", "-", "img2.png", *option, "--format", "jsonl", "--model", model),
        cwd=folder,
        input=separator.join(names),
    )
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    expected = [
        "img10.png",
        "img2.png",
        "[x] *.png",
        f"sub{os.sep}in.png",
        "gone*.png",
        "img10.png",
        "img2.png",
    ]
    assert [row["path"] for row in rows] == expected
    assert [row["path"] for row in rows if row["error"]] == ["gone*.png"]
    assert result.returncode == 1


@posix
def test_rows_appear_while_the_list_is_still_open(folder: Path, model: str) -> None:
    command = [sys.executable, "-m", "meon_ext.cli", "score", "-", "--format", "csv", "--model", model]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdin is not None and running.stdout is not None
        assert running.stdout.readline().startswith(b"path,")
        for name in (b"img2.png", b"gone.png", b"img10.png"):
            running.stdin.write(name + b"\n")
            running.stdin.flush()
            assert running.stdout.readline().startswith(name + b",")
        running.stdin.close()
        assert running.wait(60) == 1


# Odd names


ODD_NAMES = [
    b"new\nline.png",
    b"a,b.png",
    b'quo"te.png',
    b"\x1b[31mred.png",
    b"latin\xe9.png",
    b" space .png",
    b"cr\r.png",
]


@posix
@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_come_back_from_every_format(tmp_path: Path, model: str, name: bytes) -> None:
    picture(os.fsencode(tmp_path) + b"/" + name)
    for format in ("json", "jsonl", "csv"):
        result = process("score", name, "--format", format, "--model", model, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        text = result.stdout.decode("utf-8", "surrogateescape")
        if format == "csv":
            (row,) = parse_csv(text)
        else:
            loaded = json.loads(text)
            row = loaded[0] if format == "json" else loaded
        assert os.fsencode(row["path"]) == name
    table = process("score", name, name + b".gone", "--model", model, cwd=tmp_path)
    assert table.returncode == 1
    assert len(table.stdout.splitlines()) == 3
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", table.stdout)
    assert b"Traceback" not in table.stderr


@posix
def test_names_on_a_terminal_that_knows_ascii_only(tmp_path: Path, model: str) -> None:
    name = "bär-写真.png"
    picture(tmp_path / name)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    table = process("score", name, "--model", model, cwd=tmp_path, env=environment)
    assert table.returncode == 0
    assert rb"b\xe4r-\u5199\u771f.png" in table.stdout
    row = process("score", name, "--model", model, "--format", "csv", cwd=tmp_path, env=environment)
    assert name.encode() in row.stdout


def test_printable() -> None:
    assert printable("plain ünïcode.png") == "plain ünïcode.png"
    assert printable("a\x1b[2J\r\n\t\x7f\x9b") == r"a\x1b[2J\r\n\t\x7f\x9b"
    assert printable("left\u202eright\u2066") == r"left\u202eright\u2066"  # would turn the line round
    assert printable("latin\udce9") == r"latin\xe9"


def test_shortened() -> None:
    assert shortened("short.png", 80) == "short.png"
    assert shortened("x" * 300, None) == "x" * 300
    assert shortened("a" * 20, 20) == "a" * 20
    assert shortened("long/folder/name.png", 14) == "…/name.png"
    assert shortened("long/folder/name.png", 17) == "…/folder/name.png"
    assert shortened("写真" * 20 + ".png", 15) == "…真写真写真.png"  # each of these takes two columns
    assert shortened("a" * 50, 3) == "…" + "a" * 11


# Processes, pipes and terminals


def modules_after(code: str, cwd: Path) -> set[str]:
    program = (
        f"import sys\nfrom meon_ext.cli import main\ncode = {code}\nprint('modules', *sys.modules)\nsys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=cwd)
    return set(result.stdout.rsplit("modules ", 1)[1].split())


def test_help_and_score_import_no_torch(folder: Path, model: str) -> None:
    for arguments in (["--help"], ["score", "--help"]):
        assert not {"torch", "numpy", "PIL"} & modules_after(f"main({arguments!r})", folder)
    for arguments in (["info"], ["score", "img2.png", "--model", model]):
        assert "torch" not in modules_after(f"main({arguments!r})", folder)
    loaded = modules_after(f"main(['score', 'img2.png', '--quiet', '--model', {model!r}])", folder)
    assert "numpy" in loaded
    # Each takes time that one picture does not need, unless NumPy or Pillow have taken it already.
    without = {
        *("scipy", "concurrent.futures", "glob", "unicodedata", "shutil", "secrets", "random", "subprocess"),
        *(f"PIL.{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Ppm", "Tiff")),
        *("numpy.typing", "safetensors.numpy", "meon_ext.convert", "meon_ext.cli.demo", "meon_ext.cli.info"),
    }
    theirs = modules_after("__import__('numpy') and __import__('PIL.Image') and 0", folder)
    assert not (without - theirs) & loaded


@pytest.mark.parametrize("columns", ["", "0", "-5", "many", "57"])
@pytest.mark.parametrize("size", [None, (0, 0), (123, 45)])
def test_terminal_width_is_that_of_shutil(
    columns: str, size: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object) -> os.terminal_size:
        if size is None:
            raise OSError
        return os.terminal_size(size)

    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(os, "get_terminal_size", ask)
    assert terminal_width() == (shutil.get_terminal_size().columns or 80)  # Python 3.10 says 0, later ones 80


@posix
def test_broken_pipe_is_quiet(folder: Path, model: str) -> None:
    for format in ("csv", "jsonl", "json", "table"):
        command = [sys.executable, "-m", "meon_ext.cli", "score", "-", "--format", format, "--model", model, "--quiet"]
        with subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as running:
            assert running.stdin and running.stdout and running.stderr
            running.stdin.write(b"img2.png\n" * 50)
            running.stdin.close()
            running.stdout.readline()
            running.stdout.close()
            assert running.wait(60) == 141
            assert running.stderr.read() == b""


@posix
@pytest.mark.parametrize("format", ["csv", "json", "table"])
@pytest.mark.parametrize("to_file", [False, True])
def test_interrupt_keeps_what_was_written(folder: Path, model: str, format: str, to_file: bool) -> None:
    # A shell's background jobs, and all they start, ignore SIGINT.
    heeding = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    heeding += "from meon_ext.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", heeding, "score", "-", "--format", format, "--model", model]
    command += ["-o", "rows"] if to_file else []
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdin and running.stdout and running.stderr
        running.stdin.write(b"img2.png\n")
        running.stdin.flush()
        text = b""
        deadline = time.monotonic() + 60
        while b"img2.png" not in text:  # the row; the list is still open, so the command goes on waiting
            assert time.monotonic() < deadline
            if to_file:
                text = b"".join(path.read_bytes() for path in folder.iterdir() if "rows" in path.name)
            else:
                text += os.read(running.stdout.fileno(), 1 << 16)
        running.send_signal(signal.SIGINT)
        text += running.stdout.read()
        assert running.wait(60) == 130
        assert b"Traceback" not in running.stderr.read()
    if to_file:
        text = (folder / "rows").read_bytes()
    if format == "table":
        assert [line.split()[-1] for line in text.splitlines()] == [b"path", b"(padded)"]
    else:
        rows = json.loads(text) if format == "json" else parse_csv(text.decode())
        assert [row["path"] for row in rows] == ["img2.png"]


def on_terminal(*arguments: str, columns: int, cwd: Path, on_stdout: bool) -> tuple[str, str]:
    """Runs with a terminal so wide as stderr, and as stdout too if asked; gives what each showed.

    Progress is shown at every row: how long a row takes is for the machine to say.
    """
    import fcntl
    import pty
    import struct
    import termios

    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    code = "import sys; from meon_ext.cli import _tally, console; _tally._PROGRESS_SECONDS = 0; sys.exit(console())"
    command = [sys.executable, "-c", code, *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    with subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=terminal if on_stdout else subprocess.PIPE, stderr=terminal
    ) as running:
        os.close(terminal)
        shown = b""
        while True:
            try:
                block = os.read(controller, 1 << 16)
            except OSError:  # how Linux says that the other end is closed
                break
            if not block:
                break
            shown += block
        out = running.stdout.read() if running.stdout else b""
    os.close(controller)
    return shown.decode().replace("\r\n", "\n"), out.decode()


@posix
@pytest.mark.parametrize("columns", [80, 140])
def test_table_fits_the_terminal(tmp_path: Path, model: str, columns: int) -> None:
    deep = tmp_path / ("a" * 60) / ("b" * 60)
    deep.mkdir(parents=True)
    picture(deep / "the name.png")
    picture(deep / "写真.png", 1, (64, 64))
    (deep / "broken.png").write_bytes(b"no picture")
    shown, _ = on_terminal("score", str(tmp_path), "--model", model, columns=columns, cwd=tmp_path, on_stdout=True)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= columns
    assert any(line.endswith("/the name.png") and "…" in line for line in lines)
    assert any(line.endswith("/写真.png  (padded)") for line in lines)
    assert lines[1].startswith("  failed  …") or lines[1].startswith(f"  failed  {str(tmp_path)[:20]}")
    assert "\x1b" not in shown  # no progress between the rows
    assert lines[-1].startswith("2 scored, 1 failed")


@posix
def test_progress_is_shown_while_rows_go_to_a_file(folder: Path, model: str) -> None:
    for index in range(8):
        picture(folder / f"more{index}.png", index)
    shown, out = on_terminal("score", ".", "-o", "rows.csv", "--model", model, columns=80, cwd=folder, on_stdout=False)
    assert re.findall(r"\r(\d+ scored, \d failed)\x1b\[K", shown)[-1] == "10 scored, 1 failed"
    assert shown.rpartition("\r\x1b[K")[2].startswith("10 scored, 1 failed, mean quality")
    assert out == ""
    quiet, out = on_terminal("score", ".", "--quiet", "--model", model, columns=80, cwd=folder, on_stdout=False)
    assert quiet == ""
    assert len(out.splitlines()) == 12


# The other commands


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"meon_ext {__version__}\n"


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in ("score", "demo", "convert", "info"):
        assert re.search(rf"^    {command} ", out, re.MULTILINE)


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert re.search(rf"^meon_ext +{re.escape(__version__)}$", capsys.readouterr().out, re.MULTILINE)
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["meon_ext"] == __version__


def test_info_with_torch_tells_whether_the_libraries_load(capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    assert main(["info", "--torch", "--json"]) == 0
    information = json.loads(capsys.readouterr().out)
    # A wheel's name may lack what torch itself says of its build, as in 2.14.1+cu130.
    assert torch.__version__.startswith(information["packages"]["torch"])
    assert information["torch_ops"] == {"built": True, "status": "loaded"}
    assert information["cuda"]["status"] == meon_ext.ops.CUDA_STATUS


def test_convert_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(tmp_path / "gone"), "-o", str(tmp_path / "out.safetensors")]) == 2
    assert capsys.readouterr().err.startswith("meon convert: error: ")
    assert not (tmp_path / "out.safetensors").exists()


def test_convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from meon_ext import convert

    given: list[Any] = []

    def converted(path: str, *, classes: tuple[str, ...]) -> Any:  # the reading itself is tested elsewhere
        given.append((path, classes))
        return dataclasses.replace(untrained_weights(), classes=classes)

    monkeypatch.setattr(convert, "convert_checkpoint", converted)
    target = tmp_path / "out.safetensors"
    assert main(["convert", "CKPT", "-o", str(target), "--classes", "a,b,c,d,e"]) == 0
    assert given == [("CKPT", ("a", "b", "c", "d", "e"))]
    weights = read_weights(target)
    assert weights.classes == ("a", "b", "c", "d", "e")
    out = capsys.readouterr().out
    assert "149906 numbers" in out
    assert weights.sha256 in out
