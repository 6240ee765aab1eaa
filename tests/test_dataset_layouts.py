"""Every data set in its official layout, whole and broken, made up and real."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_up_sets as made
import numpy as np
import pytest
from scipy.io import savemat

from meon_ext.datasets import DATASETS, Dataset, DatasetError, load_dataset
from meon_ext.datasets._mat import MatFile
from meon_ext.distortions import TYPES

MAKE: dict[str, Callable[[Path], Path]] = {
    name: getattr(made, name) for name in ("live", "csiq", "tid2013", "kadid10k", "clive", "koniq10k", "biq2021")
}


def brief(dataset: Dataset) -> list[tuple[Any, ...]]:
    """Name, score, standard deviation, type, level, reference's name and group of each record."""
    return [
        (r.path.name, r.score, r.score_std, r.distortion, r.level, r.reference and r.reference.name, r.group)
        for r in dataset.records
    ]


def complaint(name: str, root: Path, **options: Any) -> list[str]:
    """The lines of the error that loading raises."""
    with pytest.raises(DatasetError) as caught:
        load_dataset(name, root, **options)
    head, *lines, remedy = str(caught.value).split("\n")
    assert head.startswith(f"{name} in {root}: {len(lines)} problem")
    assert "http" in remedy  # where to get the set
    return [line.strip() for line in lines]


# Whole


def test_live(tmp_path: Path) -> None:
    dataset = load_dataset("live", made.live(tmp_path))
    # Places 0, 3, 5 and 7 of the scores belong to copies of references.
    assert brief(dataset) == [
        ("img2.bmp", 7.5, 0.1, "jpeg2000", None, "caps.bmp", "live/caps"),
        ("img3.bmp", 17.5, 0.2, "jpeg2000", None, "bikes.bmp", "live/bikes"),
        ("img2.bmp", 37.5, 0.4, "jpeg", None, "caps.bmp", "live/caps"),
        ("img2.bmp", 57.5, pytest.approx(0.6), "white_noise", None, "caps.bmp", "live/caps"),
        ("img2.bmp", 77.5, 0.8, "gaussian_blur", None, "caps.bmp", "live/caps"),
        ("img1.bmp", 87.5, 0.9, "jpeg2000_transmission", None, "bikes.bmp", "live/bikes"),
    ]
    assert [r.path.parent.name for r in dataset.records] == ["jp2k", "jp2k", "jpeg", "wn", "gblur", "fastfading"]
    assert (dataset.score_name, dataset.scale, dataset.higher_is_better) == ("DMOS", (0.0, 100.0), False)
    np.testing.assert_array_equal(dataset.oriented_scores(), -dataset.scores())


def test_live_with_the_first_scores_and_either_source_of_reference_names(tmp_path: Path) -> None:
    by_text = load_dataset("live", made.live(tmp_path / "text", realigned=False, refnames=False))
    assert [r.score for r in by_text.records] == [10, 20, 40, 60, 80, 90]
    assert [r.score_std for r in by_text.records] == [None] * 6
    both = load_dataset("live", made.live(tmp_path / "both", realigned=False))
    assert brief(by_text) == brief(both)


def test_live_of_the_official_size_needs_no_info(tmp_path: Path) -> None:
    counts = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
    made.touch(tmp_path / "refimgs", "bikes.bmp")
    for kind, count in counts.items():
        made.touch(tmp_path / kind, *(f"img{n}.bmp" for n in range(1, count + 1)))
    (tmp_path / "jp2k" / "info.txt").write_text("not as expected\n")
    savemat(tmp_path / "dmos.mat", {"dmos": np.arange(982.0)[None] / 10, "orgs": np.zeros((1, 982), bool)})
    savemat(tmp_path / "refnames_all.mat", {"refnames_all": made.cells(["bikes.bmp"] * 982)})
    dataset = load_dataset("live", tmp_path)
    assert len(dataset) == 982
    first_of_jpeg = dataset.records[227]
    assert (first_of_jpeg.path, first_of_jpeg.score) == (tmp_path / "jpeg" / "img1.bmp", 22.7)
    (tmp_path / "jp2k" / "img9.bmp").unlink()  # moves no other picture's score
    assert complaint("live", tmp_path) == [f"{tmp_path / 'jp2k' / 'img9.bmp'}: missing"]


def test_live_that_was_converted_to_png(tmp_path: Path) -> None:
    root = made.live(tmp_path)
    before = brief(load_dataset("live", root))
    for path in root.rglob("*.bmp"):
        path.rename(path.with_suffix(".PNG"))
    after = load_dataset("live", root)
    assert [row[1:5] for row in brief(after)] == [row[1:5] for row in before]
    assert {r.path.suffix for r in after.records} == {".PNG"}


def test_live_by_a_table(tmp_path: Path) -> None:
    made.touch(tmp_path, "jp2k/img2.png", "distorted/wnoise/a.webp", "reference/bikes.webp")
    columns = ("live_name", "reference", "type", "dmos_realigned", "dmos_std")
    rows = [("jp2k/img2.bmp", "bikes.webp", "jp2k", 12.5, 1.5), ("wnoise/a.webp", "bikes.webp", "wnoise", 110, 2)]
    made.table(tmp_path / "scores.csv", columns, rows)
    dataset = load_dataset("live", tmp_path, table=tmp_path / "scores.csv")
    assert brief(dataset) == [
        ("img2.png", 12.5, 1.5, "jpeg2000", None, "bikes.webp", "live/bikes"),
        ("a.webp", 110.0, 2.0, "white_noise", None, "bikes.webp", "live/bikes"),
    ]
    assert dataset.scale == (0.0, 110.0)
    nowhere = tmp_path / "nowhere"
    lines = complaint("live", tmp_path, table=tmp_path / "scores.csv", references=nowhere)
    assert lines == [f"{nowhere}: no such folder"]


def test_live_from_a_table_that_names_references_in_other_ways(tmp_path: Path) -> None:
    made.touch(tmp_path, "a.png", "b.png", "c.png")
    columns = ("name", "type", "reference", "dmos")
    rows = [("a.png", "jpeg", "Bikes", 10), ("b.png", "wn", "refimgs/bikes.bmp", 20), ("c.png", "wn", "caps", 30)]
    made.table(tmp_path / "dmos.csv", columns, rows)
    assert [r.group for r in load_dataset("live", tmp_path).records] == ["live/bikes", "live/bikes", "live/caps"]
    made.table(
        tmp_path / "dmos.csv", columns, [*rows[:2], ("c.png", "wn", "", 30), ("x" * 300 + "/d.png", *rows[2][1:])]
    )
    no_reference, missing = complaint("live", tmp_path)
    assert "line 4: no reference" in no_reference
    assert missing.endswith("d.png: missing")


@pytest.mark.parametrize("xlsx", [True, False])
def test_csiq(tmp_path: Path, xlsx: bool) -> None:
    dataset = load_dataset("csiq", made.csiq(tmp_path, xlsx=xlsx))
    assert brief(dataset) == [
        ("1600.AWGN.1.png", 0.1, 0.05, "white_noise", 1, "1600.png", "csiq/1600"),
        ("1600.BLUR.3.png", 0.4, 0.06, "gaussian_blur", 3, "1600.png", "csiq/1600"),
        ("trolley.contrast.2.png", 0.2, 0.07, "contrast_change", 2, "trolley.png", "csiq/trolley"),
        ("trolley.fnoise.5.png", 0.9, 0.08, "pink_noise", 5, "trolley.png", "csiq/trolley"),
        ("trolley.JPEG.4.png", 0.8, 0.09, "jpeg", 4, "trolley.png", "csiq/trolley"),
        ("1600.jpeg2000.5.png", 1.0, 0.1, "jpeg2000", 5, "1600.png", "csiq/1600"),
    ]
    assert (dataset.score_name, dataset.scale, dataset.higher_is_better) == ("DMOS", (0.0, 1.0), False)


def test_tid2013_in_mixed_case(tmp_path: Path) -> None:
    dataset = load_dataset("tid2013", made.tid2013(tmp_path))
    assert brief(dataset) == [
        ("i01_01_1.bmp", 5.5, 0.1, "white_noise", 1, "I01.BMP", "tid2013/i01"),
        ("I01_08_5.BMP", 2.25, 0.2, "gaussian_blur", 5, "I01.BMP", "tid2013/i01"),
        ("i02_24_3.bmp", 4.0, 0.3, "sparse_sampling", 3, "i02.bmp", "tid2013/i02"),
    ]
    assert (dataset.score_name, dataset.scale, dataset.higher_is_better) == ("MOS", (0.0, 9.0), True)
    assert [(r.path.name, r.distortion, r.score, r.group) for r in dataset.pristine().records] == [
        ("I01.BMP", "pristine", None, "tid2013/i01"),
        ("i02.bmp", "pristine", None, "tid2013/i02"),
    ]


def test_kadid10k_calls_dmos_what_is_better_higher(tmp_path: Path) -> None:
    dataset = load_dataset("kadid10k", made.kadid10k(tmp_path))
    assert brief(dataset) == [
        ("I01_01_01.png", 4.57, pytest.approx(0.7), "gaussian_blur", 1, "I01.png", "kadid10k/i01"),
        ("I01_10_05.png", 1.0, 0.0, "jpeg", 5, "I01.png", "kadid10k/i01"),
        ("I02_25_03.png", 3.2, 0.5, "contrast_change", 3, "I02.png", "kadid10k/i02"),
    ]
    assert (dataset.score_name, dataset.scale, dataset.higher_is_better) == ("DMOS", (1.0, 5.0), True)


def test_clive_without_the_training_pictures(tmp_path: Path) -> None:
    dataset = load_dataset("clive", made.clive(tmp_path))
    assert brief(dataset) == [
        ("3.bmp", 63.96, 18.1, None, None, None, "clive/3.bmp"),
        ("10.bmp", 25.3, 19.2, None, None, None, "clive/10.bmp"),
        ("1024.JPG", 48.9, 20.3, None, None, None, "clive/1024.jpg"),
    ]


def test_koniq10k_in_each_of_its_tables(tmp_path: Path) -> None:
    root = made.koniq10k(tmp_path)
    dataset = load_dataset("koniq10k", root)
    assert [row[:3] for row in brief(dataset)] == [("10004473376.jpg", 77.38, None), ("10007357496.jpg", 68.73, None)]
    assert dataset.scale == (0.0, 100.0)
    assert [r.path.name for r in load_dataset("koniq10k", root, part="test").records] == ["10007357496.jpg"]
    with pytest.raises(ValueError, match="part must be one of training"):
        load_dataset("koniq10k", root, part="tset")
    (root / "koniq10k_distributions_sets.csv").unlink()
    columns = ("image_name", "MOS", "SD", "MOS_zscore")
    made.table(root / "koniq10k_scores_and_distributions.csv", columns, [("10004473376.jpg", 3.8, 0.5, 78.0)])
    assert brief(load_dataset("koniq10k", root))[0][1:3] == (78.0, None)
    made.table(root / "koniq10k_scores_and_distributions.csv", columns[:3], [("10004473376.jpg", 3.8, 0.5)])
    one_to_five = load_dataset("koniq10k", root)
    assert brief(one_to_five)[0][1:3] == (3.8, 0.5)
    assert one_to_five.scale == (1.0, 5.0)
    assert complaint("koniq10k", root, part="test")[0].endswith("use koniq10k_distributions_sets.csv")


def test_koniq10k_by_the_name_of_its_archive(tmp_path: Path) -> None:
    assert len(load_dataset("koniq10k", made.koniq10k(tmp_path, folder="koniq10k_512x384"))) == 2


def test_biq2021(tmp_path: Path) -> None:
    root = made.biq2021(tmp_path)
    dataset = load_dataset("biq2021", root)
    assert brief(dataset)[0] == ("ss03 (3753).jpg", 0.8471, None, None, None, None, "biq2021/ss03 (3753).jpg")
    assert [r.score for r in dataset.records] == [0.8471, 0.2874, 0.5103]
    assert [r.score for r in load_dataset("biq2021", root, part="test").records] == [0.5103]
    with pytest.raises(ValueError, match="part must be one of train"):
        load_dataset("biq2021", root, part="training")
    made.table(root / "mos.csv", ("name", "mos", "content_group"), [("ss02 (8).jpg", 0.5, 17)])
    assert [(r.score, r.group) for r in load_dataset("biq2021", root).records] == [(0.5, "biq2021/17")]
    rows = [("ss02 (8).jpg", 0.5, ""), ("ss03 (3753).jpg", 0.6, "")]  # of which nobody said that they are one scene
    made.table(root / "mos.csv", ("name", "mos", "content_group"), rows)
    groups = [r.group for r in load_dataset("biq2021", root).records]
    assert groups == ["biq2021/ss02 (8).jpg", "biq2021/ss03 (3753).jpg"]


@pytest.mark.parametrize("inner", ["pristine_images", "some/where"])
def test_waterloo_takes_any_pristine_folder(tmp_path: Path, inner: str) -> None:
    made.touch(tmp_path / inner, "00002.bmp", "00010.bmp", "read.me", ".hidden.png")
    dataset = load_dataset("waterloo", tmp_path)
    assert [(r.path.name, r.distortion, r.score) for r in dataset.records] == [
        ("00002.bmp", "pristine", None),
        ("00010.bmp", "pristine", None),
    ]
    assert len({r.group for r in dataset.records}) == 2


def test_all_types_of_the_house_that_have_a_number_are_loaded(tmp_path: Path) -> None:
    names = [f"I01_{number:02d}_1.bmp" for number in range(1, 25)]
    made.touch(tmp_path / "distorted_images", *names)
    made.touch(tmp_path / "reference_images", "I01.bmp")
    (tmp_path / "mos_with_names.txt").write_text("".join(f"5 {name}\n" for name in names))
    records = load_dataset("tid2013", tmp_path).records
    assert [TYPES[str(r.distortion)].tid2013 for r in records] == list(range(1, 25))
    assert [r.score_std for r in records] == [None] * 24


# Broken


@pytest.mark.parametrize("name", DATASETS)
def test_a_root_that_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere: (the folder cannot be listed|no such file)"):
        load_dataset(name, tmp_path / "nowhere")


@pytest.mark.parametrize("name", MAKE)
def test_an_empty_root(name: str, tmp_path: Path) -> None:
    assert "no such" in complaint(name, tmp_path)[0]


@pytest.mark.parametrize("name", MAKE)
def test_every_missing_picture_is_named(name: str, tmp_path: Path) -> None:
    root = MAKE[name](tmp_path)
    records = load_dataset(name, root).records
    gone = [path for path in (records[0].path, records[-1].path, records[0].reference) if path is not None]
    for path in gone:
        path.unlink()
    # Names as the tables have them, which may differ from the files' in case and suffix.
    missing = {line.casefold().rpartition(".")[0] for line in complaint(name, root) if line.endswith(": missing")}
    assert missing == {str(path.with_suffix("")).casefold() for path in gone}


@pytest.mark.parametrize("name", MAKE)
def test_a_link_to_nowhere_and_a_folder_are_no_pictures(name: str, tmp_path: Path) -> None:
    root = MAKE[name](tmp_path)
    records = load_dataset(name, root).records
    records[0].path.unlink()
    records[0].path.symlink_to(tmp_path / "nowhere")
    records[-1].path.unlink()
    records[-1].path.mkdir()
    assert len([line for line in complaint(name, root) if line.endswith(": missing")]) == 2


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("live", "dmos_realigned.mat"),
        ("csiq", "csiq.DMOS.xlsx"),
        ("clive", "Data/AllMOS_release.mat"),
        ("tid2013", "mos_with_names.txt"),
    ],
)
def test_a_pipe_in_place_of_scores_is_not_waited_for(name: str, file: str, tmp_path: Path) -> None:
    path = MAKE[name](tmp_path) / file
    (path.parent / "dmos.mat").unlink(missing_ok=True)
    path.unlink()
    os.mkfifo(path)
    code = "import sys; from meon_ext.datasets import load_dataset; load_dataset(sys.argv[1], sys.argv[2])"
    found = subprocess.run([sys.executable, "-c", code, name, tmp_path], capture_output=True, text=True, timeout=30)
    assert "no such file" in found.stderr


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("live", "wn/img3.bmp"),
        ("csiq", "dst_imgs/jpeg/trolley.JPEG.5.png"),
        ("tid2013", "distorted_images/i26_01_1.bmp"),
        ("kadid10k", "images/I03.png"),
    ],
)
def test_an_extra_picture_is_odd(name: str, extra: str, tmp_path: Path) -> None:
    root = MAKE[name](tmp_path)
    (root / extra).touch()
    assert complaint(name, root) == [f"{root / extra}: a picture that the scores do not name; move it away"]


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "message"),
    [
        ("tid2013", "mos_with_names.txt", "5.5 I01", "5,5 I01", "line 1: '5,5' is not a number"),
        ("tid2013", "mos_with_names.txt", "5.5 I01", "15.5 I01", "line 1: 15.5 is outside 0 to 9"),
        ("tid2013", "mos_with_names.txt", "5.5 I01", "nan I01", "line 1: 'nan' is not a number"),
        ("tid2013", "mos_with_names.txt", "5.5 I01_01_1.bmp", "5.5", "line 1: '5.5' is not a score and a name"),
        ("tid2013", "mos_with_names.txt", "I01_01_1", "I01_25_1", "'I01_25_1.bmp' is not the name of a picture"),
        ("tid2013", "mos_with_names.txt", "I01_08_5", "I01_01_1", "I01_01_1.bmp: named more than once"),
        ("tid2013", "mos_std.txt", "0.1", "", "2 values for 3 scores"),
        ("kadid10k", "dmos.csv", "dist_img", "image", "no column dist_img; the columns are image, ref_img"),
        ("kadid10k", "dmos.csv", "4.57,0.49", "4.57,-1", "line 2: var '-1' is not a variance"),
        ("kadid10k", "dmos.csv", "4.57,0.49", "0.57,0.49", "line 2: 0.57 is outside 1 to 5"),
        ("kadid10k", "dmos.csv", "4.57,0.49", "4.57", "line 2: 3 values for 4 columns"),
        ("kadid10k", "dmos.csv", "I01_10_05", "I01_01_01", "I01_01_01.png: named more than once"),
        ("koniq10k", "koniq10k_distributions_sets.csv", "77.38", "", "line 2: '' is not a number"),
        ("koniq10k", "koniq10k_distributions_sets.csv", "image_name", "MOS", "two columns of one name"),
        ("biq2021", "Test (Images and MOS).csv", "0.5103", "5.1", "line 2: 5.1 is outside 0 to 1"),
        ("biq2021", "Test (Images and MOS).csv", "ss02 (8)", "ss03 (3753)", "ss03 (3753).jpg: named more than once"),
        ("live", "jp2k/info.txt", "img2.bmp", "img7.bmp", "the pictures in it are not img1 to img3, each once"),
        ("live", "jp2k/info.txt", "caps.bmp img2", "bikes.bmp img2", "says caps.bmp, info.txt bikes.bmp"),
        ("live", "jp2k/info.txt", " 1.0", "", "line 2: 'caps.bmp img2.bmp' is not a reference, a picture"),
    ],
)
def test_tables_that_are_odd(name: str, file: str, old: str, new: str, message: str, tmp_path: Path) -> None:
    path = MAKE[name](tmp_path) / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert any(message in line for line in complaint(name, tmp_path))


def test_live_whose_numbers_of_scores_and_pictures_differ(tmp_path: Path) -> None:
    root = made.live(tmp_path, info=False)
    (line,) = {line.split(" for ")[1] for line in complaint("live", root)}
    assert line.startswith("982 pictures")  # without info.txt only the official counts are known
    root = made.live(tmp_path)
    savemat(root / "refnames_all.mat", {"refnames_all": made.cells(["bikes.bmp"])})
    assert complaint("live", root)[0].startswith("1 reference names for 10 pictures")


def test_csiq_with_rows_of_no_picture(tmp_path: Path) -> None:
    root = made.csiq(tmp_path, xlsx=False)
    path = root / "csiq.DMOS.csv"
    path.write_text(path.read_text().replace("noise,1,", "noise,6,").replace("trolley,5,jpeg,", "trolley,5,gif,"))
    lines = complaint("csiq", root)
    assert any("line 2: no picture of type 'noise' and level '6'" in line for line in lines)
    assert any("line 6: no picture of type 'gif' and level '4'" in line for line in lines)


def test_clive_with_a_score_too_few(tmp_path: Path) -> None:
    root = made.clive(tmp_path)
    savemat(root / "Data" / "AllMOS_release.mat", {"AllMOS_release": np.array([[1.0, 2.0]])})
    assert "5 names, 2 MOS and 5 standard deviations" in complaint("clive", root)[0]


# Hostile files


def mat_complaint(root: Path, **variables: Any) -> str:
    savemat(root / "dmos_realigned.mat", variables, do_compression=True)
    return complaint("live", root)[-1]


def test_mat_files_of_anything_else(tmp_path: Path) -> None:
    root = made.live(tmp_path)
    assert "no variable dmos in it (it holds x)" in mat_complaint(root, x=[1.0])
    assert "dmos_new is of class struct, not numbers" in mat_complaint(root, dmos_new={"a": 1.0})
    assert "dmos_new is of class char" in mat_complaint(root, dmos_new="text")
    assert "dmos_new has values that are not finite" in mat_complaint(root, dmos_new=[1.0, np.nan])
    assert "too large" in mat_complaint(root, dmos_new=np.zeros(9_000_000))
    assert "an array of more than 1000000 elements" in mat_complaint(root, dmos_new=np.zeros(1_000_001, np.uint8))
    path = root / "dmos_realigned.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(64))
    assert "save it again with -v7" in complaint("live", root)[-1]
    for junk in (b"", b"\0", b"junk" * 100, bytes(400), (root / "dmos.mat").read_bytes()[:300]):
        path.write_bytes(junk)
        assert "dmos_realigned.mat" in complaint("live", root)[-1]
    savemat(path, {"refnames_all": made.cells(["a"])})
    shutil.copy(path, root / "refnames_all.mat")
    cells = np.empty((1, 2), object)
    cells[0, :] = ["bikes.bmp", 5.0]
    savemat(root / "refnames_all.mat", {"refnames_all": cells})
    path.unlink()
    assert "not a cell array of texts" in complaint("live", root)[-1]


def element(kind: int, data: bytes, order: str = "<") -> bytes:
    """Of a .mat file."""
    return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)


def array(
    flags: int, shape: tuple[int, int], name: str, *inside: bytes, size: int | None = None, order: str = "<"
) -> bytes:
    """An array of a .mat file; size: as it says, where that is not so."""
    words = {kind: struct.pack(f"{order}{len(w)}I", *w) for kind, w in ((6, (flags, 0)), (5, shape))}
    parts = [*(element(kind, data, order) for kind, data in words.items()), element(1, name.encode(), order), *inside]
    whole = b"".join(parts)
    return struct.pack(f"{order}II", 14, len(whole) if size is None else size) + whole


def mat_file(path: Path, *variables: bytes, order: str = "<", mark: bytes | None = None) -> None:
    ends = {"<": b"\x00\x01IM", ">": b"\x01\x00MI"}
    path.write_bytes(b"MATLAB 5.0".ljust(124) + (mark or ends[order]) + b"".join(variables))


def packed(variable: bytes, order: str = "<") -> bytes:
    data = zlib.compress(variable)
    return struct.pack(f"{order}II", 15, len(data)) + data


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compressed", [False, True])
def test_names_in_every_encoding_of_a_mat_file(order: str, compressed: bool, tmp_path: Path) -> None:
    codec = "utf-16-le" if order == "<" else "utf-16-be"
    short = struct.pack(f"{order}I", 3 << 16 | 16) + b"abc\0"  # up to four bytes stand in the tag
    texts = [
        array(4, (1, 9), "", element(4, "bikes.bmp".encode(codec), order), order=order),
        array(4, (1, 8), "", element(16, b"caps.bmp", order), order=order),
        array(4, (1, 4), "", element(17, "blå1".encode(codec), order), order=order),
        array(4, (1, 4), "", element(16, "blå2".encode(), order), order=order),
        array(4, (1, 3), "", short, order=order),
    ]
    variable = array(1, (1, len(texts)), "x", *texts, order=order)
    mat_file(tmp_path / "x.mat", packed(variable, order) if compressed else variable, order=order)
    assert MatFile(tmp_path / "x.mat").names("x") == ["bikes.bmp", "caps.bmp", "blå1", "blå2", "abc"]


@pytest.mark.parametrize("flags", [1, 1 | 0x200])  # a cell, and one marked as logical, by which it passes for numbers
def test_cells_in_cells_do_not_overflow_the_reader_s_stack(flags: int, tmp_path: Path) -> None:
    """SciPy's reader ends the process at some ten thousand, so another one reads."""
    inner = array(1, (1, 1), "", size=8) * 100_000 + array(4, (1, 1), "", element(16, b"a"))
    mat_file(tmp_path / "x.mat", packed(array(flags, (1, 1), "x", inner)))
    found = read_elsewhere(tmp_path / "x.mat", f"{'names' if flags == 1 else 'numbers'}('x')")
    assert "DatasetError" in found and "x is not " in found


def read_elsewhere(path: Path, call: str) -> str:
    """What another process that may not survive it says."""
    code = "import sys; from pathlib import Path; from meon_ext.datasets._mat import MatFile; "
    code += f"MatFile(Path(sys.argv[1])).{call}"
    found = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert found.returncode == 1
    return found.stderr


def test_numbers_of_a_type_that_there_is_not(tmp_path: Path) -> None:
    """With which one wrong byte ended the process."""
    mat_file(tmp_path / "x.mat", array(6, (1, 1), "x", element(104, bytes(8))))
    assert "x is not numbers, or damaged" in read_elsewhere(tmp_path / "x.mat", "numbers('x')")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compressed", [False, True])
def test_numbers_in_every_type_of_a_mat_file(order: str, compressed: bool, tmp_path: Path) -> None:
    types = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
    values = np.arange(6) + 1
    variables = [
        array(6, (2, 3), kind, element(number, values.astype(f"{order}{kind}").tobytes(), order), order=order)
        for number, kind in types.items()
    ]
    mat_file(tmp_path / "x.mat", *(packed(v, order) if compressed else v for v in variables), order=order)
    mat = MatFile(tmp_path / "x.mat")
    assert all(mat.numbers(kind).tolist() == values.tolist() for kind in types.values())


@pytest.mark.parametrize("form", ["4", "5"])
def test_numbers_are_in_the_order_of_columns(form: str, tmp_path: Path) -> None:
    variables = {"x": np.array([[1.5, 2.5], [3.5, 4.5]]), "y": np.array([[True, False]]), "z": np.array([1j])}
    savemat(tmp_path / "x.mat", variables if form == "5" else {"x": variables["x"]}, format=form)  # type: ignore[arg-type]
    mat = MatFile(tmp_path / "x.mat")
    assert mat.numbers("x").tolist() == [1.5, 3.5, 2.5, 4.5]
    if form == "5":
        assert mat.numbers("y").tolist() == [1, 0]
        with pytest.raises(DatasetError, match="z is not numbers"):
            mat.numbers("z")


def test_text_that_is_declared_but_not_there_is_not_made(tmp_path: Path) -> None:
    """The reader fills it with blanks: gigabytes of them from a file of 200 bytes."""
    mat_file(tmp_path / "x.mat", array(1, (1, 1), "x", array(4, (1, 5_000_000), "", element(16, b""))))
    with pytest.raises(DatasetError, match="x is not a cell array of texts"):
        MatFile(tmp_path / "x.mat").names("x")


def test_a_mat_file_with_a_wrong_mark_of_byte_order_is_measured_too(tmp_path: Path) -> None:
    """The reader takes whatever is not IM for the other order."""
    numbers = array(9, (1, 1), "x", element(2, bytes(65 << 20), ">"), order=">")
    mat_file(tmp_path / "x.mat", packed(numbers, ">"), mark=b"\x01\x00XX")
    with pytest.raises(DatasetError, match="too large"):
        MatFile(tmp_path / "x.mat")


def test_two_variables_of_one_name(tmp_path: Path) -> None:
    """Of which the last was looked at and the first was read."""
    twice = (array(9, (1, 1), "x", element(2, b"\1")), array(1, (0, 0), "x"))
    mat_file(tmp_path / "x.mat", *twice)
    with pytest.raises(DatasetError, match="two variables of one name"):
        MatFile(tmp_path / "x.mat")


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("xl/workbook.xml", b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>', "declares entities"),
        # In an encoding in which they do not look like that.
        ("xl/workbook.xml", '<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>'.encode("utf-16"), "not an Excel workbook"),
        ("xl/workbook.xml", b"<workbook", "not an Excel workbook, or damaged"),
        ("xl/worksheets/sheet2.xml", b" " * (8 * 1024 * 1024 + 1), "is larger than"),
    ],
)
def test_workbooks_of_anything_else(part: str, content: bytes, message: str, tmp_path: Path) -> None:
    root = made.csiq(tmp_path)
    path = root / "csiq.DMOS.xlsx"
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        for name, data in (parts | {part: content}).items():
            book.writestr(name, data)
    assert message in complaint("csiq", root)[-1]


def test_a_workbook_of_any_length_is_not_read(tmp_path: Path) -> None:
    path = made.csiq(tmp_path) / "csiq.DMOS.xlsx"
    with path.open("ab") as file:
        file.truncate(32 * 1024 * 1024 + 1)
    assert "larger than 33554432 bytes" in complaint("csiq", tmp_path)[-1]


def test_workbooks_without_the_sheet_or_its_columns(tmp_path: Path) -> None:
    root = made.csiq(tmp_path)
    made.workbook(root / "csiq.DMOS.xlsx", {"other": [("image",)]})
    assert "no sheet all_by_image in it; the sheets are other" in complaint("csiq", root)[-1]
    made.workbook(root / "csiq.DMOS.xlsx", {"all_by_image": [("image", "dmos")]})
    assert "no row with image, dst_type" in complaint("csiq", root)[-1]
    (root / "csiq.DMOS.xlsx").write_bytes(b"PK junk")
    assert "export the sheet all_by_image as CSV" in complaint("csiq", root)[-1]


# Real


def test_real_tid2013(shared_data: Path) -> None:
    dataset = load_dataset("tid2013", shared_data / "tid2013_i01")
    assert len(dataset) == 116
    assert len({r.distortion for r in dataset.records}) == 24
    assert {r.group for r in dataset.records} == {"tid2013/i01"}


def test_real_live(shared_data: Path) -> None:
    dataset = load_dataset("live", shared_data / "live")
    assert len(dataset) == 24
    assert {r.distortion for r in dataset.records} == {"jpeg", "white_noise", "gaussian_blur"}
    assert len(dataset.pristine()) == 2


def test_real_biq2021(shared_data: Path) -> None:
    dataset = load_dataset("biq2021", shared_data / "biq2021")
    assert len(dataset) == 1150
    assert len({r.group for r in dataset.records}) < 1150  # scenes that several photographs show
    assert 0 < np.median(dataset.scores()) < 1


def test_real_pristine_folder(shared_data: Path) -> None:
    assert len(load_dataset("waterloo", shared_data / "pristine")) == 257
