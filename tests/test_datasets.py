"""Records, splits by content, and the sets of one's own: a folder, a CSV file."""

from __future__ import annotations

import errno
import math
import subprocess
import sys
from pathlib import Path

import made_up_sets as made
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meon_ext.datasets import DATASETS, Dataset, DatasetError, Record, load_dataset, split
from meon_ext.errors import MeonError


def dataset(groups: list[str]) -> Dataset:
    return Dataset("made", Path(), tuple(Record(Path(f"{i}.png"), float(i), group=g) for i, g in enumerate(groups)))


def test_importing_it_imports_neither_torch_nor_scipy() -> None:
    modules = "meon_ext.datasets, meon_ext.metrics, meon_ext.evaluation, meon_ext.full_reference"
    code = f"import sys, {modules}; print({{'torch', 'scipy'}} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_parts_of_a_data_set() -> None:
    whole = dataset(["a", "b", "a"])
    assert [r.score for r in whole.subset([2, 0]).records] == [2, 0]
    assert [r.score for r in whole.where(lambda r: r.group == "b").records] == [1]
    assert len(whole.where(lambda r: False)) == 0
    with pytest.raises(IndexError):
        whole.subset([3])


def test_scores_and_their_direction() -> None:
    records = (Record(Path("a"), 3.0), Record(Path("b")))
    dmos = Dataset("x", Path(), records, "DMOS", (0, 9), higher_is_better=False)
    np.testing.assert_array_equal(dmos.scores(), [3, math.nan])
    np.testing.assert_array_equal(dmos.oriented_scores(), [-3, math.nan])
    mos = Dataset("x", Path(), records)
    np.testing.assert_array_equal(mos.oriented_scores(), [3, math.nan])


# Splits


@given(
    groups=st.lists(st.text(max_size=3), min_size=3, max_size=60),
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    seed=st.integers(0, 2**40),
)
def test_a_split_parts_contents_and_loses_nothing(groups: list[str], weights: list[int], seed: int) -> None:
    fractions = [weight / sum(weights) for weight in weights]
    whole = dataset(groups)
    count = len(set(groups))
    if count < len(weights):
        with pytest.raises(DatasetError, match="too few contents"):
            split(whole, fractions, seed)
        return
    parts = split(whole, fractions, seed)
    assert sorted(r.score or 0.0 for part in parts for r in part.records) == list(range(len(groups)))
    contents = [{r.group for r in part.records} for part in parts]
    assert sum(map(len, contents)) == count
    assert all(contents)
    for part in parts:
        assert [r.score for r in part.records] == sorted(r.score or 0.0 for r in part.records)
    # Each boundary between parts is rounded, or moved to leave a content for each part.
    for content, fraction in zip(contents, fractions, strict=True):
        assert abs(len(content) - fraction * count) <= max(1.0, len(weights))


def test_a_split_is_the_same_everywhere() -> None:
    names = [f"i{n:02d}" for n in range(1, 26)]
    train, test = split(dataset(names), seed=0)
    # for i in $(seq -w 1 25); do echo $(printf "0\ni$i" | sha256sum) i$i; done | sort | tail -5
    assert [r.group for r in test.records] == ["i13", "i14", "i16", "i17", "i23"]
    assert len(train) == 20
    again = split(dataset(names[::-1]), seed=0)  # whatever order and folder the pictures are in
    assert {r.group for r in again[1].records} == {r.group for r in test.records}


def test_seeds_give_different_splits_that_test_every_content_alike() -> None:
    names = [str(n) for n in range(20)]
    tested = [frozenset(r.group for r in split(dataset(names), seed=seed)[1].records) for seed in range(400)]
    assert len(set(tested)) > 350  # of 4845
    counts = [sum(name in part for part in tested) for name in names]
    # Binomial, 400 draws of 0.2: mean 80, deviation 8; 5 deviations on 20 names.
    assert all(40 <= count <= 120 for count in counts)


@pytest.mark.parametrize("fractions", [(), (0.5, 0.6), (1.2, -0.2), (0.5, 0.5, 0.0), (math.nan, 0.5)])
def test_fractions_that_are_none(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="fractions must be positive"):
        split(dataset(["a", "b", "c"]), fractions)


# Folder


def test_folder(tmp_path: Path) -> None:
    made.touch(tmp_path, "img10.png", "img2.JPG", "b/x.webp", "notes.txt", ".hidden.png", ".git/y.png")
    found = load_dataset("folder", tmp_path)
    assert [r.group for r in found.records] == ["img2.JPG", "img10.png", "b/x.webp"]
    assert all(r.score is None and r.distortion is None for r in found.records)
    assert {r.distortion for r in load_dataset("folder", tmp_path, distortion="pristine").records} == {"pristine"}


def test_names_that_differ_in_case_are_all_read(tmp_path: Path) -> None:
    made.touch(tmp_path, "IMG_1.png", "img_1.PNG", "Img_1.jpg")
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this file system holds no two names that differ in case alone")
    assert {r.group for r in load_dataset("folder", tmp_path).records} == {"IMG_1.png", "img_1.PNG", "Img_1.jpg"}


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"(?s)1 problem.*no pictures in it or below.*Name a folder"):
        load_dataset("folder", tmp_path)


# CSV


def csv_file(folder: Path, text: str) -> Path:
    made.touch(folder, "a.png", "b.png", "sub/c.png", "ref.png")
    path = folder / "mine.csv"
    path.write_text(text, "utf-8")
    return path


def test_csv_with_everything(tmp_path: Path) -> None:
    path = csv_file(
        tmp_path,
        "\ufeff# score_name: opinion\n# scale: 1 7\n# higher_is_better: no\n# anything else\n"
        "Path;score;distortion;level;reference;group;score_std;camera\n"
        'a.png;2.5;jpeg;3;ref.png;scene 1;0.25;"Leica; old"\n'
        "\n"
        "sub/c.png;;;;;;;\n",
    )
    found = load_dataset("csv", path)
    assert found.records == (
        Record(tmp_path / "a.png", 2.5, 0.25, "jpeg", 3, tmp_path / "ref.png", "scene 1"),
        Record(tmp_path / "sub/c.png", None, None, None, None, None, "sub/c.png"),
    )
    assert (found.name, found.score_name, found.scale, found.higher_is_better) == ("mine", "opinion", (1, 7), False)


@pytest.mark.parametrize(("column", "higher"), [("mos", True), ("MOS", True), ("dmos", False), ("quality", True)])
def test_the_column_tells_the_direction(column: str, higher: bool, tmp_path: Path) -> None:
    found = load_dataset("csv", csv_file(tmp_path, f"name,{column}\na.png,2\nb.png,5\n"))
    assert (found.higher_is_better, found.scale) == (higher, (2, 5))
    assert found.score_name == ("MOS" if higher else "DMOS")


def test_options_come_before_what_the_file_says(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "data", "# scale: 0 9\n# higher_is_better: yes\nname,mos,other\na.png,2,30\n")
    elsewhere = tmp_path / "elsewhere.csv"
    path.rename(elsewhere)
    found = load_dataset(
        "csv",
        elsewhere,
        images=tmp_path / "data",
        score_column="other",
        score_name="loss",
        scale=(0, 50),
        higher_is_better=False,
    )
    assert found.records[0].path == tmp_path / "data" / "a.png"
    assert (found.records[0].score, found.score_name, found.scale) == (30, "loss", (0, 50))
    assert not found.higher_is_better


def test_pictures_of_one_reference_share_a_group(tmp_path: Path) -> None:
    found = load_dataset("csv", csv_file(tmp_path, "path,reference\na.png,ref.png\nb.png,ref.png\nsub/c.png,\n"))
    assert [r.group for r in found.records] == ["ref.png", "ref.png", "sub/c.png"]


def test_a_content_is_one_however_its_path_is_written(tmp_path: Path) -> None:
    """Else a split may train on the reference of what it tests on."""
    path = csv_file(
        tmp_path,
        f"path,reference\n./ref.png,\na.png,ref.png\nb.png,{tmp_path}/sub/../ref.png\n{tmp_path}/sub/c.png,sub//c.png\n",
    )
    assert [r.group for r in load_dataset("csv", path).records] == ["ref.png", "ref.png", "ref.png", "sub/c.png"]
    path.write_text(f"path\na.png\n{tmp_path / 'a.png'}\n")
    with pytest.raises(DatasetError, match=r"line 3: .*a\.png stands in line 2 already"):
        load_dataset("csv", path)


def test_a_group_is_also_that_of_the_reference_and_its_other_pictures(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "path,reference,group\nref.png,,\na.png,ref.png,scene 1\nb.png,ref.png,\nsub/c.png,,\n")
    assert [r.group for r in load_dataset("csv", path).records] == ["scene 1"] * 3 + ["sub/c.png"]


@pytest.mark.parametrize(
    "head",
    [
        "\n# score_name: opinion\n\n# scale: 1 5\n\n",  # blank lines
        "# score_name: opinion,,\n# scale: 1 5,,\n,,\n",  # as a spreadsheet writes it again
        "# score_name: opinion\r# scale: 1 5\r",
    ],
)
def test_what_stands_before_the_header(head: str, tmp_path: Path) -> None:
    end = "\r" if "\r" in head else "\n"
    text = end.join(["path,mos,camera", "a.png,2,", "b.png,one,", ""])
    path = csv_file(tmp_path, head + text.replace("one", "4"))
    found = load_dataset("csv", path)
    assert (found.score_name, found.scale, [r.score for r in found.records]) == ("opinion", (1, 5), [2, 4])
    line = (head + text).split("b.png")[0].count(end) + 1
    with pytest.raises(DatasetError, match=f"line {line}: mos 'one' is not a number"):
        load_dataset("csv", csv_file(tmp_path, head + text))


def test_a_model_s_quality_is_not_taken_for_the_mos_beside_it(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "path,quality,mos\na.png,81,2\nb.png,20,4\n")
    with pytest.raises(DatasetError, match="quality or mos may be the score; name it by score_column"):
        load_dataset("csv", path)
    assert [r.score for r in load_dataset("csv", path, score_column="mos").records] == [2, 4]


def test_a_name_too_long_for_the_file_system_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"line 2: .*x\.png is missing"):
        load_dataset("csv", csv_file(tmp_path, f"path\n{'x' * 300}.png\n"))


def test_csv_all_that_is_wrong_at_once(tmp_path: Path) -> None:
    path = csv_file(
        tmp_path,
        "# scale: 9 0\n# higher_is_better: perhaps\nname,mos,level,reference\n"
        "a.png,one,1,ref.png\ngone.png,2,6,\na.png,3,,\n,4,,\nb.png,inf,,nowhere.png\n",
    )
    with pytest.raises(DatasetError) as caught:
        load_dataset("csv", path)
    head, *lines, _ = str(caught.value).splitlines()
    assert head == f"csv in {path}: 9 problems"
    assert [line.strip() for line in lines] == [
        "comment 'scale: 9 0': a scale is two numbers, the lower first",
        "comment 'higher_is_better: perhaps': yes or no was expected",
        "line 4: mos 'one' is not a number",
        f"line 5: {tmp_path / 'gone.png'} is missing",
        "line 5: level 6 is not one of 1 to 5",
        "line 6: a.png stands in line 4 already",
        "line 7: no name",
        f"line 8: {tmp_path / 'nowhere.png'} is missing",
        "line 8: mos 'inf' is not a number",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("score\n1\n", "no column path, name, image, image_name or filename; the columns are score"),
        ("path,score\na.png,1\n", "whether a higher score is better is not said"),
        ("path\n", "no rows"),
        ("", "empty; a header and rows were expected"),
        ("path,path\na.png,b.png\n", "two columns of one name"),
        ("path,mos\na.png\n", "line 2: 1 values for 2 columns"),
        ('path,mos\n"a.png,1\n', "not CSV"),
        ("# scale: 0 1\npath,mos\na.png,2\n", "a.png: score 2 is outside 0 to 1"),
    ],
)
def test_csv_files_of_anything_else(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"mine\.csv") as caught:
        load_dataset("csv", csv_file(tmp_path, text))
    assert message in str(caught.value)


@pytest.mark.parametrize(("count", "end"), [(5, "line 6: 1 values for 2 columns"), (7, "; and 2 more")])
def test_of_many_short_lines_the_first_five_are_named(count: int, end: str, tmp_path: Path) -> None:
    path = csv_file(tmp_path, "path,mos\n" + "a.png\n" * count)
    with pytest.raises(DatasetError) as caught:
        load_dataset("csv", path)
    assert str(caught.value).count("1 values for 2 columns") == 5
    assert end in str(caught.value) and ("more" in str(caught.value)) == (count > 5)


def test_a_csv_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = csv_file(tmp_path, "path\na.png\n")
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(DatasetError, match=r"mine\.csv: cannot be read \(Permission denied\)"):
        load_dataset("csv", path)


def test_csv_that_is_no_text_or_no_file(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="not text in UTF-8"):
        load_dataset("csv", path)
    with pytest.raises(DatasetError, match="no such file"):
        load_dataset("csv", tmp_path)
    with pytest.raises(DatasetError, match="no column loss"):
        load_dataset("csv", csv_file(tmp_path, "path,mos\na.png,1\n"), score_column="loss")


def test_sets_and_options_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data set is called 'kodak'; there are live, csiq"):
        load_dataset("kodak", tmp_path)
    with pytest.raises(TypeError):
        load_dataset("clive", tmp_path, part="test")
    assert issubclass(DatasetError, MeonError)
    assert all(loader.__doc__ for loader in DATASETS.values())
