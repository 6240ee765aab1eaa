"""What a run learns from: pristine pictures to distort, data sets, several of them, teachers; and what is missing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_runs import small_settings, write_scenes

from meon_ext.errors import ConfigError, DatasetError, MeonError
from meon_ext.training import config_from_mapping
from meon_ext.training.pictures import Picture
from meon_ext.training.samples import SPOILED, Kind, Samples, gather
from meon_ext.training.steps import _order

PARTS = ("training", "validation", "test")


def _gather(tmp_path: Path, **changes: Any) -> Any:
    return gather(config_from_mapping(small_settings(tmp_path, **changes)))


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """A CSV of DMOS: five scenes (as references), each with jpeg at two levels and one of unknown type."""
    write_scenes(tmp_path / "pristine")
    rows = ["# score_name: DMOS", "# scale: 0 80", "path,dmos,distortion,level,reference"]
    for i, name in enumerate("abcde"):
        for kind in ("x", "y", "z"):
            write_scenes(tmp_path / "set", (f"{name}{kind}",))
        rows += [
            f"set/{name}x.png,{20 + i},jpeg,1,pristine/{name}.png",
            f"set/{name}y.png,{60 + i},jpeg,5,pristine/{name}.png",
            f"set/{name}z.png,{40 + i},,,pristine/{name}.png",
        ]
    path = tmp_path / "set.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_pristine_pictures_become_types_and_levels(tmp_path: Path) -> None:
    write_scenes(tmp_path / "pristine")
    gathered = _gather(tmp_path, synthesis={"variants": 2})
    assert gathered.kinds == (
        *(Kind("white_noise", 1), Kind("white_noise", 5), Kind("gaussian_blur", 1), Kind("gaussian_blur", 5)),
        Kind("pristine", 0),
    )
    assert gathered.classes == ("white_noise", "gaussian_blur", "pristine")
    assert (gathered.score_name, gathered.scale, gathered.higher_is_better) == ("quality", (0.0, 100.0), True)
    scenes = {}
    for part, count in zip(PARTS, (3, 1, 1), strict=True):
        samples = gathered.pretraining[part]
        assert len(samples) == count * 5 * 2
        scenes[part] = {Path(p.path).name for p in samples.pictures}
        np.testing.assert_array_equal(samples.score, 100 - 16 * samples.level)
        assert {p.variant for p in samples.pictures} == {0, 1}
        for i, picture in enumerate(samples.pictures):
            assert (picture.distortion, picture.level) == (samples.distortion[i], samples.level[i])
    assert not scenes["training"] & scenes["validation"] and not scenes["training"] & scenes["test"]
    assert set.union(*scenes.values()) == {f"{n}.png" for n in "abcde"}
    assert set(_gather(tmp_path, by_level=False).kinds) == {Kind(n) for n in gathered.classes}


def test_pristine_pictures_can_be_as_frequent_as_a_type(tmp_path: Path) -> None:
    write_scenes(tmp_path / "pristine")
    samples = _gather(tmp_path, synthesis={"variants": 3, "pristine_repeat": 2}).pretraining["training"]
    for name in ("white_noise", "gaussian_blur", "pristine"):
        assert (samples.distortion == name).sum() == 3 * 2 * 3
    made = {(p.path, p.variant) for p in samples.pictures if p.distortion == "pristine"}
    assert len(made) == 3 * 2 * 3


def test_extra_photographs_are_learned_from_alone(tmp_path: Path) -> None:
    write_scenes(tmp_path / "pristine")
    more = tuple(f"more-{i:02}" for i in range(40))
    write_scenes(tmp_path / "more", more)
    types = ["white_noise", "gaussian_blur", "jpeg", "mean_shift"]
    plain = {"types": types, "pristine_repeat": 6}
    without = _gather(tmp_path, synthesis=plain)
    gathered = _gather(tmp_path, synthesis={**plain, "extra": [str(tmp_path / "more")], "extra_share": 0.5})
    for step in ("pretraining", "joint"):
        for part in PARTS:
            before, after = getattr(without, step)[part], getattr(gathered, step)[part]
            assert after.pictures[: len(before)] == before.pictures
            added = after.take(np.arange(len(before), len(after)))
            assert len(added) == (40 * (2 * 2 + 3) if part == "training" else 0)
    training = gathered.joint["training"]
    assert set(training.source) == {0} and gathered.names == ("synthesis",)
    made: dict[str, set[str]] = {name: set() for name in more}
    for picture, name, level, pair in zip(
        training.pictures, training.distortion, training.level, training.pair, strict=True
    ):
        if (scene := Path(picture.path).stem) in made and level:
            made[scene].add(str(name))
            assert (training.pair == pair).sum() == 2  # both levels of it
    assert {len(names) for names in made.values()} == {2}  # half of four, not the same for each photograph
    assert len({tuple(sorted(names)) for names in made.values()}) == 6
    again = _gather(tmp_path, synthesis={**plain, "extra": [str(tmp_path / "more")], "extra_share": 0.5})
    assert again.joint["training"].pictures == training.pictures
    whole = _gather(tmp_path, synthesis={**plain, "extra": [str(tmp_path / "more")]})
    assert len(whole.joint["training"]) == (3 + 40) * (4 * 2 + 6)
    with pytest.raises(DatasetError, match=r"another pristine folder has a a\.png too"):
        _gather(tmp_path, synthesis={"extra": [str(tmp_path / "pristine")]})


def test_photographs_of_a_data_set_are_damaged_too(tmp_path: Path) -> None:
    write_scenes(tmp_path / "pristine")
    names = tuple(f"photo-{i:02}" for i in range(20))
    write_scenes(tmp_path / "photos", names)
    table = tmp_path / "mos.csv"
    table.write_text("# scale: 0 10\npath,mos\n" + "".join(f"photos/{n}.png,{i / 2}\n" for i, n in enumerate(names)))
    data = {"name": "csv", "root": str(table), "repeat": 3}
    synthesis = {"types": ["white_noise", "jpeg", "gaussian_blur", "darken"], "joint": True, "variants": 2}
    plain = _gather(tmp_path, data=[data], synthesis=synthesis)
    gathered = _gather(tmp_path, data=[{**data, "damage": 0.5}], synthesis=synthesis)
    for part in ("validation", "test"):
        assert gathered.joint[part].pictures == plain.joint[part].pictures
    assert gathered.pretraining["training"].pictures == plain.pretraining["training"].pictures
    before, after = plain.joint["training"], gathered.joint["training"]
    copy = np.array([picture.variant >= 0 and picture.path in _photos(before) for picture in after.pictures])
    assert after.take(np.flatnonzero(~copy)).pictures == before.pictures
    own = dict(zip((p.path for p in before.pictures), before.score, strict=True))
    assert copy.sum() == len(_photos(before)) * 2 * 2 * 2 == 12 * 8  # half of four types, two levels, two variants
    types: dict[str, set[str]] = {}
    for i in np.flatnonzero(copy):
        picture = after.pictures[i]
        types.setdefault(picture.path, set()).add(picture.distortion)
        assert after.score[i] == pytest.approx(own[picture.path] * (100 - 16 * picture.level) / 100)
        assert (after.distortion[i], after.level[i]) == (picture.distortion, picture.level)
        assert after.source[i] == 0 and after.repeat[i] == 1
        # The photograph itself and all its copies are of one pair.
        paired = [after.pictures[j] for j in np.flatnonzero(after.pair == after.pair[i])]
        assert {p.path for p in paired} == {picture.path} and sorted(p.variant for p in paired) == [
            -1,
            *[0] * 4,
            *[1] * 4,
        ]
    assert {len(made) for made in types.values()} == {2} and len({tuple(sorted(made)) for made in types.values()}) > 2
    rare = _gather(
        tmp_path, data=[{**data, "damage": 1.0}], synthesis={**synthesis, "rare": ["darken"], "rare_share": 0.0}
    )
    assert "darken" not in rare.joint["training"].distortion
    assert (rare.joint["training"].distortion == "jpeg").sum() == (3 + 12) * 2 * 2


@pytest.mark.parametrize("higher", [True, False])
def test_the_best_photographs_count_as_pristine_and_the_worst_as_anything_else(tmp_path: Path, higher: bool) -> None:
    write_scenes(tmp_path / "pristine")
    names = tuple(f"photo-{i:02}" for i in range(20))
    write_scenes(tmp_path / "photos", names)
    column = "mos" if higher else "dmos"
    rows = [f"photos/{n}.png,{i // 2 if higher else 9 - i // 2},\n" for i, n in enumerate(names)]
    rows[0] = rows[0].replace(",\n", ",jpeg\n")
    table = tmp_path / "scores.csv"
    table.write_text(f"# scale: 0 10\npath,{column},distortion\n" + "".join(rows))
    data = {"name": "csv", "root": str(table)}
    synthesis = {"joint": True}
    gathered = _gather(tmp_path, data=[{**data, "clean": 0.5, "spoiled": 0.25}], synthesis=synthesis)
    plain, taught = _gather(tmp_path, data=[data], synthesis=synthesis).joint, gathered.joint
    assert gathered.classes == ("white_noise", "gaussian_blur", "jpeg", "pristine")
    for part in ("validation", "test"):
        assert (taught[part].distortion == plain[part].distortion).all()
    before, after = plain["training"], taught["training"]
    assert before.pictures == after.pictures and (before.score == after.score).all()
    unknown = before.distortion == ""
    clean = unknown & (after.distortion == "pristine")
    spoiled = after.labels([Kind("pristine")]) == SPOILED
    rest = ~clean & ~spoiled
    assert (after.distortion[rest] == before.distortion[rest]).all() and unknown[spoiled].all()
    assert before.score[clean].min() > before.score[unknown & rest].max()
    assert before.score[spoiled].max() < before.score[unknown & rest].min()
    assert spoiled.sum() - round(unknown.sum() / 4) in (0, 1)
    # Pictures level with the last are clean too, so one may be more.
    assert clean.sum() - round(unknown.sum() / 2) in (0, 1)
    assert (after.labels([Kind("pristine")])[clean] == 0).all()


def _photos(samples: Samples) -> set[str]:
    return {picture.path for picture in samples.pictures if picture.variant < 0}


def test_pictures_of_a_known_type_are_not_damaged_further(tmp_path: Path, scored: Path) -> None:
    data = {"name": "csv", "root": str(scored)}
    plain, damaged = (
        _gather(tmp_path, data=[{**data, "damage": damage}], synthesis={"joint": True}).joint["training"]
        for damage in (0.0, 1.0)
    )
    unknown = {p.path for p, name in zip(plain.pictures, plain.distortion, strict=True) if not name}
    added = Counter(p.path for p in damaged.pictures) - Counter(p.path for p in plain.pictures)
    assert unknown and added == {path: 2 * 2 for path in unknown}


def test_rare_types_are_left_out_of_most_scenes_to_learn_from(tmp_path: Path) -> None:
    write_scenes(tmp_path / "pristine", tuple(f"s{i:02}" for i in range(40)))
    plain = {"types": ["white_noise", "jpeg", "mean_shift", "darken"], "pristine_repeat": 3}
    rare = {**plain, "rare": ["mean_shift", "darken"], "rare_share": 0.25}
    whole, gathered = _gather(tmp_path, synthesis=plain), _gather(tmp_path, synthesis=rare)
    for part in ("validation", "test"):
        assert gathered.joint[part].pictures == whole.joint[part].pictures
    for step in (gathered.pretraining, gathered.joint):
        kept = step["training"]
        count = {name: int((kept.distortion == name).sum()) for name in np.unique(kept.distortion)}
        assert count["white_noise"] == count["jpeg"] == 24 * 2 and count["pristine"] == 24 * 3
        for name in ("mean_shift", "darken"):
            assert 2 * 2 <= count[name] <= 12 * 2 and count[name] % 2 == 0  # 6 of 24 scenes on average, both levels
    assert gathered.classes == whole.classes and gathered.kinds == whole.kinds
    none = _gather(tmp_path, synthesis={**rare, "rare_share": 0.0})
    assert set(none.joint["training"].distortion) == {"white_noise", "jpeg", "pristine"}


def test_a_data_set_keeps_its_own_unit(tmp_path: Path, scored: Path) -> None:
    gathered = _gather(tmp_path, data=[{"name": "csv", "root": str(scored), "repeat": 2}])
    assert (gathered.score_name, gathered.scale, gathered.higher_is_better) == ("DMOS", (0.0, 80.0), False)
    assert gathered.classes == ("white_noise", "gaussian_blur", "jpeg", "pristine")
    training = gathered.joint["training"]
    assert len(training) == 3 * 4 and (training.repeat == 2).all()
    assert {p.variant for p in training.pictures} == {-1}
    by_type = {name: training.score[training.distortion == name] for name in ("jpeg", "", "pristine")}
    assert (by_type["pristine"] == 0).all()  # a difference score of a picture to itself
    assert len(by_type["jpeg"]) == 6 and len(by_type[""]) == 3
    assert len(gathered.pretraining["training"]) == 3 * 5
    pairs = [training.pair[training.distortion == "jpeg"][i : i + 2] for i in (0, 2, 4)]
    assert all(a == b for a, b in pairs) and len({int(a) for a, _ in pairs}) == 3


def test_several_sets_share_one_scale(tmp_path: Path, scored: Path) -> None:
    gathered = _gather(
        tmp_path,
        data=[{"name": "csv", "root": str(scored)}],
        synthesis={"joint": True, "repeat": 4},
        classes=["jpeg", "pristine"],
    )
    assert (gathered.score_name, gathered.scale, gathered.higher_is_better) == ("quality", (0.0, 100.0), True)
    training = gathered.joint["training"]
    own = training.source == 0
    assert own.sum() == 12 and (~own).sum() == 15 and (training.repeat[~own] == 4).all()
    jpeg = training.score[own & (training.distortion == "jpeg")]
    assert set(np.round(jpeg)) <= set(np.round(100 * (80 - np.array([*range(20, 25), *range(60, 65)])) / 80))
    assert (training.score[own & (training.distortion == "pristine")] == 100).all()
    assert gathered.classes == ("jpeg", "pristine")
    assert (training.labels([Kind(n) for n in gathered.classes])[~own & (training.level > 0)] == -1).all()


@pytest.mark.parametrize(("line", "best"), [("# scale: -5 80", 0), ("# scale: 10 80", None), ("", None)])
def test_a_reference_has_no_difference_where_the_scale_knows_none(
    tmp_path: Path, scored: Path, line: str, best: float | None
) -> None:
    """Without a scale it is that of the scores there, whose best picture is not as good as a reference."""
    scored.write_text(scored.read_text().replace("# scale: 0 80", line).replace("\n\n", "\n"))
    training = _gather(tmp_path, data=[{"name": "csv", "root": str(scored)}]).joint["training"]
    found = training.score[training.distortion == "pristine"]
    assert len(found) == 3 and (np.isnan(found) if best is None else found == best).all()


def test_pairs_are_ordered_by_scores_or_by_levels_and_never_by_both() -> None:
    score = np.array([60.0, np.nan, 30.0, np.nan, np.nan])
    samples = Samples(
        (Picture("a"),) * 5,
        np.array(["jpeg"] * 5),
        np.array([5, 1, 3, 2, 4]),
        score,
        np.zeros(5, np.int64),
        np.ones(5, np.int64),
        np.array([7, 7, 7, 8, 8]),
    )
    np.testing.assert_array_equal(_order(samples, higher_is_better=True), [60, np.nan, 30, -2, -4])
    np.testing.assert_array_equal(_order(samples, higher_is_better=False), [60, np.nan, 30, 2, 4])


@pytest.mark.parametrize("ends", [(0, 40), (30, 62)])
def test_another_scale_than_a_sets_own(tmp_path: Path, scored: Path, ends: tuple[int, int]) -> None:
    low, high = ends
    own = _gather(tmp_path, data=[{"name": "csv", "root": str(scored)}])
    gathered = _gather(tmp_path, data=[{"name": "csv", "root": str(scored), "scale": list(ends)}])
    assert gathered.scale == (low, high) and not gathered.higher_is_better
    before, after = (x.joint["training"].score for x in (own, gathered))
    np.testing.assert_array_equal(after, np.clip(before, low, high))
    assert (before != after).any()
    shared = _gather(
        tmp_path,
        data=[{"name": "csv", "root": str(scored), "scale": list(ends)}],
        synthesis={"joint": True},
    ).joint["training"]
    np.testing.assert_allclose(shared.score[shared.source == 0], 100 * (high - after) / (high - low), rtol=1e-12)


def test_a_scale_is_within_the_sets_own(tmp_path: Path, scored: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.scale: 0 to 90 is not within set's 0 to 80; name two of its"):
        _gather(tmp_path, data=[{"name": "csv", "root": str(scored), "scale": [0, 90]}])


def test_a_teacher_scores_what_is_made(tmp_path: Path) -> None:
    write_scenes(tmp_path / "pristine")
    teacher = tmp_path / "teacher.csv"
    kinds = [("pristine", 0), *((t, level) for t in ("white_noise", "gaussian_blur") for level in (1, 5))]
    rows = [f"{n}.png,{t},{level},{50 + 7 * i + level}" for i, n in enumerate("abcde") for t, level in kinds]
    teacher.write_text("image,distortion,level,score\n" + "\n".join(rows) + "\n")
    samples = _gather(tmp_path, synthesis={"scores": str(teacher)}).joint["training"]
    expected = [50 + 7 * "abcde".index(Path(p.path).stem) + p.level for p in samples.pictures]
    np.testing.assert_array_equal(samples.score, expected)
    teacher.write_text("image,distortion,level,score\n" + "\n".join(rows[1:-1]) + "\n")
    with pytest.raises(
        DatasetError, match=r"2 pictures have no score:\n  a.png, pristine, level 0\n  e.png, gaussian_bl"
    ):
        _gather(tmp_path, synthesis={"scores": str(teacher)})
    with pytest.raises(DatasetError, match=r"no column score"):
        teacher.write_text("image,distortion,level\na.png,white_noise,1\n")
        _gather(tmp_path, synthesis={"scores": str(teacher)})
    for wrong in ("a.png,white_noise,x,50", "a.png,white_noise,6,50", "a.png,white_noise,1,101", "a.png,jpeg,1,"):
        teacher.write_text(f"image,distortion,level,score\n{wrong}\n")
        with pytest.raises(DatasetError, match=r"teacher\.csv, line 2: "):
            _gather(tmp_path, synthesis={"scores": str(teacher)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"synthesis": {"types": ["jpg"]}}, "no type is called 'jpg'; there are"),
        ({"synthesis": {"types": ["all"], "rare": ["jpg"]}}, "no type is called 'jpg'; there are"),
        ({"data": [{"name": "lives", "root": "x"}]}, "no data set is called 'lives'; there are"),
        ({"data": [{"name": "csv", "root": "gone.csv"}]}, "gone.csv"),
        ({"classes": ["white_noise", "smoke"]}, "no picture of the data is 'smoke'"),
        ({"split": {"training": 0.98, "validation": 0.01, "test": 0.01}, "synthesis": {"pristine": ["one"]}}, "one"),
    ],
)
def test_data_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_scenes(tmp_path / "pristine")
    with pytest.raises(MeonError, match=message):
        _gather(tmp_path, **changes)


def test_without_types_there_is_only_the_single_task(tmp_path: Path) -> None:
    write_scenes(tmp_path / "photos")
    path = tmp_path / "mos.csv"
    path.write_text("path,mos\n" + "".join(f"photos/{n}.png,{i}\n" for i, n in enumerate("abcde")))
    changes = {"data": [{"name": "csv", "root": str(path)}], "synthesis": {"pristine": []}}
    with pytest.raises(ConfigError, match=r"set network\.task to 'single'"):
        _gather(tmp_path, **changes)
    gathered = _gather(tmp_path, **changes, network={"task": "single"})
    assert gathered.classes == () and gathered.scale == (0.0, 4.0)


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("p", "q"):
        write_scenes(tmp_path / folder)
    with pytest.raises(DatasetError, match=r"another pristine folder has a a\.png too"):
        _gather(tmp_path, synthesis={"pristine": [str(tmp_path / "p"), str(tmp_path / "q")]})
