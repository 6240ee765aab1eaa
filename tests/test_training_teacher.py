"""The teacher: its scale, what its metrics do not see, and the file that a run takes its scores from."""

from __future__ import annotations

import csv
import itertools
import subprocess
import sys
from pathlib import Path

import made_up_sets
import numpy as np
import pytest
from training_runs import scene, small_settings, write_scenes

from meon_ext import distortions
from meon_ext.datasets import load_dataset
from meon_ext.errors import ImageError
from meon_ext.training import config_from_mapping
from meon_ext.training.cache import PictureCache
from meon_ext.training.pictures import Picture, PictureLoader
from meon_ext.training.samples import gather
from meon_ext.training.teacher import dmos_as_quality, luminance_shift, quality_of, teacher_quality, write_scores


def test_the_scale_begins_at_100_and_falls() -> None:
    values = [{"mdsi": t * 0.9, "haarpsi": 1 - t * 0.95} for t in np.linspace(0, 1, 50)]
    qualities = [quality_of(each, 0.0) for each in values]
    assert qualities[0] == 100 and qualities[-1] == 0
    assert all(a > b or a == b == 0 for a, b in itertools.pairwise(qualities))
    one_only = [quality_of({**values[0], name: values[20][name]}, 0.0) for name in values[0]]
    assert qualities[20] == pytest.approx(sum(one_only) - 100) and max(one_only) < 100
    assert quality_of(values[9], 10.0) == pytest.approx(quality_of(values[9], 0.0) - 4)
    assert quality_of(values[40], 255.0) == 0


def test_peoples_scores_are_on_the_same_scale() -> None:
    assert dmos_as_quality(100.0) == 0 and dmos_as_quality(-20.0) == 100
    assert 45 < dmos_as_quality(50.0) < 55


def test_a_shift_of_brightness_counts() -> None:
    picture = scene(3) // 2 + 40  # far from black and white, where nothing is clipped
    shifted = (picture + 20).astype(np.uint8)
    assert luminance_shift(picture, shifted) == pytest.approx(20, abs=1e-9)
    assert teacher_quality(picture, shifted) < teacher_quality(picture, picture) - 7
    with pytest.raises(ImageError):
        teacher_quality(picture, shifted[:-1])


def test_lives_pictures_become_a_set_to_train_on(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parent.parent / "python" / "fit_full_reference.py"
    root, table = made_up_sets.live(tmp_path / "live"), tmp_path / "live.csv"
    command = [sys.executable, str(script), str(root), "--write", str(table)]
    subprocess.run(command, check=True, capture_output=True)
    own = load_dataset("live", root).where(lambda record: record.distortion in distortions.CLASSIC)
    written = {record.path: record for record in load_dataset("csv", table).records}
    assert len(written) == len(own.records) + 2
    for record in own.records:
        assert record.score is not None
        copy = written[record.path.resolve()]
        assert copy.score == pytest.approx(dmos_as_quality(record.score), abs=0.005)
        assert copy.reference is not None and (copy.distortion, copy.group) == (record.distortion, copy.reference.stem)
    pristine = [record for record in written.values() if record.distortion == "pristine"]
    assert {r.path.name for r in pristine} == {"bikes.bmp", "caps.bmp"} and all(r.score == 100 for r in pristine)
    subprocess.run([*command, "--without", "caps"], check=True, capture_output=True)
    assert {record.group for record in load_dataset("csv", table).records} == {"bikes"}
    wrong = subprocess.run([*command, "--without", "cups"], check=False, capture_output=True, text=True)
    assert wrong.returncode == 2 and "no reference is called cups" in wrong.stderr


@pytest.mark.parametrize("name", ["jpeg", "white_noise", "gaussian_blur", "saturation_change"])
def test_more_damage_is_worse(name: str) -> None:
    picture = scene(1)
    # Level 5 turns colours into their opposites, which HaarPSI takes for the same as long as they are as strong.
    levels = distortions.LEVELS[: 4 if name == "saturation_change" else None]
    found = [teacher_quality(picture, distortions.distort(picture, name, level)) for level in levels]
    assert sorted(found, reverse=True) == found and found[0] - found[-1] > 10


def test_the_file_scores_what_the_run_makes(tmp_path: Path) -> None:
    write_scenes(tmp_path / "pristine", ("a", "b"))
    path = tmp_path / "teacher.csv"
    changes = {"side": 256, "variants": 2, "pristine_repeat": 2, "scores": str(path)}
    config = config_from_mapping(
        small_settings(tmp_path, synthesis=changes, split={"training": 0.5, "validation": 0.5, "test": 0.0})
    )
    cache = PictureCache(tmp_path / "cache", 1 << 27)
    assert write_scores(config, path, cache) == 2 * 5
    with path.open() as file:
        rows = {
            (row["image"], row["distortion"], int(row["level"])): float(row["score"]) for row in csv.DictReader(file)
        }
    assert len(rows) == 2 * 5 and all(score == 100 for (_, name, _), score in rows.items() if name == "pristine")

    samples = gather(config).joint["training"]
    loader = PictureLoader(PictureCache(tmp_path / "none", 0), 256, (1.0, 1.0), config.seed)
    expected: dict[tuple[str, str, int], list[float]] = {}
    for picture, score in zip(samples.pictures, samples.score, strict=True):
        key = (Path(picture.path).name, picture.distortion, picture.level)
        assert score == rows[key]
        expected.setdefault(key, []).append(teacher_quality(loader.undistorted(picture), loader.load(picture)))
    for key, scores in expected.items():
        assert rows[key] == pytest.approx(np.mean(scores), abs=0.005 + 1e-9)


def test_extra_photographs_are_judged_too(tmp_path: Path) -> None:
    write_scenes(tmp_path / "pristine")
    write_scenes(tmp_path / "more", ("m", "n"))
    path = tmp_path / "teacher.csv"
    changes = {"scores": str(path), "extra": [str(tmp_path / "more")], "extra_share": 0.5}
    config = config_from_mapping(small_settings(tmp_path, synthesis=changes))
    assert write_scores(config, path, PictureCache(tmp_path / "cache", 1 << 27)) == 5 * 5 + 2 * (2 + 1)
    training = gather(config).joint["training"]
    assert np.isfinite(training.score).all() and len(training) == 3 * 5 + 2 * (2 + 1)


def test_damaged_photographs_are_judged_too(tmp_path: Path) -> None:
    write_scenes(tmp_path / "pristine")
    write_scenes(tmp_path / "photos", tuple("vwxyz"))
    (tmp_path / "mos.csv").write_text("path,mos\n" + "".join(f"photos/{n}.png,{i}\n" for i, n in enumerate("vwxyz")))
    path = tmp_path / "teacher.csv"
    config = config_from_mapping(
        small_settings(
            tmp_path,
            data=[{"name": "csv", "root": str(tmp_path / "mos.csv"), "damage": 1.0}],
            synthesis={"scores": str(path), "joint": True},
        )
    )
    assert write_scores(config, path, PictureCache(tmp_path / "cache", 1 << 27)) == 5 * 5 + 3 * 4
    with path.open() as file:
        rows = {(row["image"], row["distortion"], int(row["level"])): row["score"] for row in csv.DictReader(file)}
    training = gather(config).joint["training"]
    loader = PictureLoader.of(config.synthesis, PictureCache(tmp_path / "cache", 1 << 27))
    copies = 0
    for picture, score in zip(training.pictures, training.score, strict=True):
        if Path(picture.path).parent.name == "photos" and picture.variant >= 0:
            name = f"mos/photos/{Path(picture.path).name}"
            own = 25.0 * "vwxyz".index(Path(picture.path).stem)
            assert score == own * float(rows[name, picture.distortion, picture.level]) / 100
            judged = teacher_quality(loader.undistorted(picture), loader.load(picture))
            assert float(rows[name, picture.distortion, picture.level]) == pytest.approx(judged, abs=0.006)
            copies += 1
    assert copies == 3 * 4


def test_undistorted_is_the_same_cut(tmp_path: Path) -> None:
    write_scenes(tmp_path, ("a",))
    loader = PictureLoader(PictureCache(tmp_path / "none", 0), side=256, seed=2)
    path = str(tmp_path / "a.png")
    places = set()
    for variant in range(6):
        picture = Picture(path, "mean_shift", 1, variant)  # -8 grey levels
        cut, made = loader.undistorted(picture), loader.load(picture)
        np.testing.assert_array_equal(made, np.clip(cut.astype(int) - 8, 0, 255))
        whole = loader.load(Picture(path))
        places.add(next(x for x in range(17) if np.array_equal(whole[:, x : x + 256], cut)))
    assert len(places) > 1
    assert np.array_equal(loader.undistorted(Picture(path)), loader.load(Picture(path)))
