"""Predictions and their file, agreement with a data set, and the Waterloo tests."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from meon_ext import metrics
from meon_ext.datasets import Dataset, Record, load_dataset, split
from meon_ext.errors import ImageError, MeonError
from meon_ext.evaluation import (
    Prediction,
    ScoreFile,
    discriminable_pairs,
    evaluate,
    predict,
    waterloo_identity,
    waterloo_tests,
)
from meon_ext.evaluation._predictions import content_of, key_of
from meon_ext.scoring import Scorer
from meon_ext.weights_io import untrained_weights

CLASSES = ("jpeg", "white_noise", "pristine")
IDENTITY = {"model": "m", "sha256": "5a", "stride": "128", "pool": "mean"}


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(untrained_weights(), threads=1)


def picture(path: Path, seed: int, size: int = 256) -> None:
    """Smooth shapes with some texture."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    waves = sum(np.sin(random.uniform(3, 40) * (x * random.normal() + y * random.normal())) for _ in range(6))
    pixels = 128 + 18 * np.asarray(waves)[..., None] * random.uniform(0.5, 1, 3) + random.normal(0, 2, (size, size, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def made_up(count: int = 60) -> tuple[Dataset, list[Prediction]]:
    """DMOS of pictures of 12 contents and two types, and predictions that follow it with some noise."""
    random = np.random.default_rng(5)
    records, predictions = [], []
    for i in range(count):
        dmos = random.uniform(0, 90)
        kind = "jpeg" if i % 2 else "blocks"  # the model does not know the latter
        records.append(Record(Path(f"{i}.png"), dmos, distortion=kind, group=str(i % 12)))
        p = random.dirichlet([3, 1, 1])
        predictions.append(
            Prediction(
                float(100 / (1 + math.exp((dmos - 50) / 15)) + random.normal(0, 4)),
                distortion=CLASSES[int(p.argmax())],
                probabilities=dict(zip(CLASSES, p.tolist(), strict=True)),
            )
        )
    return Dataset("made", Path(), tuple(records), "DMOS", (0, 100), higher_is_better=False), predictions


# Agreement


def test_agreement_overall_and_by_type() -> None:
    dataset, predictions = made_up()
    found = evaluate(dataset, predictions, classes=CLASSES)
    quality, dmos = np.array([p.quality for p in predictions]), dataset.scores()
    assert found.overall is not None
    assert found.overall.srcc == pytest.approx(-stats.spearmanr(quality, dmos).statistic, abs=1e-12)
    assert found.overall.krcc == pytest.approx(-stats.kendalltau(quality, dmos).statistic, abs=1e-12)
    assert found.overall.srcc > 0.9  # a good prediction of DMOS is positive
    fitted = metrics.fit_logistic(quality, -dmos)(quality)
    assert found.overall.plcc == pytest.approx(np.corrcoef(fitted, -dmos)[0, 1], abs=1e-12)
    assert found.overall.rmse == pytest.approx(np.sqrt(np.mean((fitted + dmos) ** 2)), rel=1e-12)
    assert sorted(found.by_type) == ["blocks", "jpeg"]
    odd = np.arange(1, 60, 2)
    assert found.by_type["jpeg"].srcc == pytest.approx(-stats.spearmanr(quality[odd], dmos[odd]).statistic, abs=1e-12)
    assert found.by_type["jpeg"].pictures == 30
    assert found.splits is None and found.failed == 0


def test_direction_of_mos_and_dmos() -> None:
    dataset, predictions = made_up()
    mos = dataclasses.replace(dataset, higher_is_better=True)
    first, second = (evaluate(each, predictions).overall for each in (dataset, mos))
    assert first is not None and second is not None
    assert second.srcc == -first.srcc
    assert second.plcc == pytest.approx(first.plcc, abs=1e-6)  # the curve may fall


def test_types_count_what_the_model_knows_and_the_references() -> None:
    dataset, predictions = made_up()
    pristine = [Prediction(90.0, distortion="pristine", probabilities={"pristine": 1.0}), ImageError("x.png: gone")]
    found = evaluate(dataset, predictions, classes=CLASSES, pristine=pristine)
    assert found.types is not None
    jpeg = [p for r, p in zip(dataset.records, predictions, strict=True) if r.distortion == "jpeg"]
    right = sum(p.distortion == "jpeg" for p in jpeg)
    assert found.types.pictures == 31
    assert found.types.accuracy == (right + 1) / 31
    assert found.types.classes == ("jpeg", "pristine")
    assert found.types.confusion[0] == tuple(sum(p.distortion == name for p in jpeg) for name in CLASSES)
    assert found.types.confusion[1] == (0, 0, 1)
    assert found.types.class_accuracy == {"jpeg": right / 30, "pristine": 1.0}
    probabilities = [[p.probabilities[name] for name in CLASSES] for p in jpeg] + [[0, 0, 1]]
    expected = metrics.expected_calibration_error(probabilities, [0] * 30 + [2])
    assert found.types.calibration_error == pytest.approx(expected, abs=1e-12)
    assert found.failed == 1
    assert found.overall is not None and found.overall.pictures == 60  # references have no score


def test_splits_are_those_of_the_data_set() -> None:
    dataset, predictions = made_up()
    found = evaluate(dataset, predictions, splits=7, seed=3, test_fraction=0.25, level=0.5)
    by_path = {r.path: p.quality for r, p in zip(dataset.records, predictions, strict=True)}
    values = []
    for seed in range(3, 10):
        test = split(dataset, (0.75, 0.25), seed)[1]
        values.append(metrics.srcc([by_path[r.path] for r in test.records], test.oriented_scores()))
    assert found.splits is not None
    assert found.splits.metrics["srcc"] == metrics.median_with_interval(values, 0.5)
    assert (found.splits.splits, found.splits.seed) == (7, 3)
    assert (found.splits.test_fraction, found.splits.level) == (0.25, 0.5)
    one_content = dataset.where(lambda r: r.group == "1")
    assert evaluate(one_content, predictions[:5], splits=7).splits is None


def test_pictures_that_failed_or_have_no_score_are_left_out() -> None:
    dataset, predictions = made_up()
    records = list(dataset.records)
    records[0] = dataclasses.replace(records[0], score=None)
    mixed: list[Prediction | MeonError] = [*predictions]
    mixed[1] = ImageError("1.png: broken")
    found = evaluate(dataclasses.replace(dataset, records=tuple(records)), mixed)
    rest = evaluate(dataset.subset(range(2, 60)), predictions[2:])
    assert found.overall == rest.overall
    assert found.failed == 1


def test_too_few_pictures_for_a_curve_give_rank_correlations_only() -> None:
    dataset, predictions = made_up()
    seven, eight = (evaluate(dataset.subset(range(n)), predictions[:n]).overall for n in (7, 8))
    assert seven is not None and eight is not None
    assert math.isnan(seven.plcc) and math.isnan(seven.rmse) and not math.isnan(seven.srcc)
    assert not math.isnan(eight.plcc)
    nine = evaluate(dataset.subset(range(9)), predictions[:9], logistic=5).overall
    assert nine is not None and math.isnan(nine.plcc)


def test_without_scores_or_known_types_there_is_nothing() -> None:
    records = tuple(Record(Path(f"{i}"), group=str(i)) for i in range(3))
    found = evaluate(Dataset("x", Path(), records), [Prediction(50.0)] * 3, classes=CLASSES, splits=3)
    assert (found.overall, found.types, found.splits, dict(found.by_type)) == (None, None, None, {})


def test_an_evaluation_is_plain_json() -> None:
    dataset, predictions = made_up()
    found = evaluate(dataset.subset(range(7)), predictions[:7], classes=CLASSES, splits=2)
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["overall"]["plcc"] is None
    assert plain["overall"]["srcc"] == found.overall.srcc  # type: ignore[union-attr]
    assert plain["splits"]["metrics"]["srcc"].keys() == {"median", "low", "high", "coverage"}


def test_what_evaluate_refuses() -> None:
    dataset, predictions = made_up()
    with pytest.raises(ValueError, match="got 59 and 60"):
        evaluate(dataset, predictions[1:])
    for fraction in (0.0, 1.0):
        with pytest.raises(ValueError, match="test_fraction"):
            evaluate(dataset, predictions, test_fraction=fraction)
    with pytest.raises(ValueError, match="splits must be 0 or more"):
        evaluate(dataset, predictions, splits=-1)


# Predictions and their file


@pytest.fixture
def folder(tmp_path: Path) -> Dataset:
    for i in range(3):
        picture(tmp_path / "set" / f"{i}, 1.png", i)
    (tmp_path / "set" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return load_dataset("folder", tmp_path / "set")


class Counting:
    """A Scorer that counts what it is asked to score, and may be interrupted."""

    def __init__(self, scorer: Scorer, stop_after: int | None = None) -> None:
        self._scorer = scorer
        self._stop_after = stop_after
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scorer, name)

    def score_many(self, pictures: Any, **options: Any) -> Iterator[Any]:
        for outcome in self._scorer.score_many(pictures, **options):
            if self.count == self._stop_after:
                raise KeyboardInterrupt
            self.count += 1
            yield outcome


def test_predict_gives_what_the_scorer_says(folder: Dataset, scorer: Scorer) -> None:
    done: list[int] = []
    found = predict(scorer, folder, on_progress=done.append)
    assert done == [0, 1, 2, 3, 4]
    for record, prediction in zip(folder.records, found, strict=True):
        if record.path.name == "broken.png":
            assert isinstance(prediction, ImageError)
        else:
            assert prediction == Prediction.of(scorer.score(record.path))


def test_what_was_computed_is_not_computed_again(folder: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    whole = predict(scorer, folder)
    first = Counting(scorer, stop_after=2)
    with pytest.raises(KeyboardInterrupt), ScoreFile(path, IDENTITY) as file:
        predict(first, folder, file)  # type: ignore[arg-type]
    with path.open("a") as text:
        text.write('"2, 1.png",77')  # killed while writing a row
    second = Counting(scorer)
    with ScoreFile(path, IDENTITY) as file:
        resumed = predict(second, folder, file)  # type: ignore[arg-type]
    assert first.count + second.count == 4
    assert [repr(p) for p in resumed] == [repr(p) for p in whole]  # to the last bit
    third = Counting(scorer)
    with ScoreFile(path, IDENTITY) as file:
        predict(third, folder, file)  # type: ignore[arg-type]
    assert third.count == 1  # the broken one, which may have been mended


def test_a_picture_that_changed_is_scored_again(folder: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    with ScoreFile(tmp_path / "scores.csv", IDENTITY) as file:
        predict(scorer, folder, file)
    picture(folder.records[0].path, 99, 300)
    counting = Counting(scorer)
    with ScoreFile(tmp_path / "scores.csv", IDENTITY) as file:
        predict(counting, folder, file)  # type: ignore[arg-type]
    assert counting.count == 2  # and the broken one
    with ScoreFile(tmp_path / "scores.csv", IDENTITY) as file:  # the later row counts
        assert file.get("0, 1.png", content_of(folder.records[0].path)) == Prediction.of(
            scorer.score(folder.records[0].path)
        )


def test_another_picture_of_the_same_size_is_scored(scorer: Scorer, tmp_path: Path) -> None:
    """Uncompressed files of equal pictures' sizes are equally long; another set may have the same names, too."""
    qualities = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        pixels = np.random.default_rng(seed).integers(0, 256, (256, 256, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / str(seed) / "a.bmp")
        with ScoreFile(tmp_path / "scores.csv", IDENTITY) as file:
            (found,) = predict(scorer, load_dataset("folder", tmp_path / str(seed)), file)
        assert isinstance(found, Prediction)
        assert found.quality == scorer.score(pixels).quality
        qualities.append(found.quality)
    assert qualities[0] != qualities[1]


def test_names_that_a_line_of_csv_would_lose(scorer: Scorer, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for name in ("cr\rlf\n.png", " lead.png", "\t.png", 'a,b".png'):
        picture(tmp_path / "set" / name, 3)
    dataset = load_dataset("folder", tmp_path / "set")
    keys = {key_of(dataset, record) for record in dataset.records}
    assert key_of(dataset, Record(tmp_path / "set" / "  both .png ")) == r"\x20\x20both .png\x20"
    assert len(keys) == len(dataset) and all(key.isprintable() and key == key.strip() for key in keys)
    for count in (len(dataset), 0):
        counting = Counting(scorer)
        with ScoreFile(tmp_path / "scores.csv", IDENTITY) as file:
            predict(counting, dataset, file)  # type: ignore[arg-type]
        assert counting.count == count


@pytest.mark.parametrize(
    "data", [b"\xff\xd8\xff\n\x00\n\x01", b"one\ntwo", b"[1, 2, 3]", b"# sha256: 5a\n", b"path,content\n"]
)
def test_another_program_s_file_is_left_alone(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(MeonError, match="not a file of scores that this program wrote"):
        ScoreFile(tmp_path / "file", IDENTITY)
    assert (tmp_path / "file").read_bytes() == data
    with pytest.raises(MeonError, match="is no regular file"):
        ScoreFile(tmp_path, IDENTITY)


def test_a_head_that_was_cut_short_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    ScoreFile(path, IDENTITY).__exit__(None, None, None)
    head = path.read_bytes()
    for length in (0, 1, len(head) // 2, len(head) - 1, len(head)):
        path.write_bytes(head[:length])
        ScoreFile(path, IDENTITY).__exit__(None, None, None)
        assert path.read_bytes() == head


def test_the_set_may_be_moved_and_names_may_be_no_text(folder: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    odd = folder.root / "b\udce4d.png"
    (folder.root / "0, 1.png").rename(odd)
    before = load_dataset("folder", folder.root)
    with ScoreFile(tmp_path / "scores.csv", IDENTITY) as file:
        predict(scorer, before, file)
    folder.root.rename(tmp_path / "moved")
    counting = Counting(scorer)
    with ScoreFile(tmp_path / "scores.csv", IDENTITY) as file:
        predict(counting, load_dataset("folder", tmp_path / "moved"), file)  # type: ignore[arg-type]
    assert counting.count == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# sha256: 5a", "# sha256: 5b", "was made with sha256 5b, this run has 5a"),
        ("# pool: mean", "# pool: min", "was made with pool min, this run has mean"),
        ("# stride: 128\n", "", "was made with stride None"),
        ("content,quality", "size,quality", "is not a file of scores that this program wrote"),
        (",50.0,", ",fifty,", "line 6 is damaged"),
        (",50.0,", ",nan,", "line 6 is damaged"),
        (",7-0000abcd,", ",-7-0000abcd,", "line 6 is damaged"),
        ('{""jpeg"": 1.0}', "[1]", "line 6 is damaged"),
        ('{""jpeg"": 1.0}', '{""jpeg"": NaN}', "line 6 is damaged"),
        ('{""jpeg"": 1.0}', "{", "line 6 is damaged"),
        ('"{""jpeg', '{""jpeg', "8 values|not CSV|damaged"),
    ],
)
def test_files_of_scores_that_do_not_fit(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    with ScoreFile(path, IDENTITY) as file:
        file.add("a.png", "7-0000abcd", Prediction(50.0, 49.5, "jpeg", {"jpeg": 1.0}))
    with ScoreFile(path, IDENTITY | {"model": "renamed"}) as file:
        assert file.get("a.png", "7-0000abcd") == Prediction(50.0, 49.5, "jpeg", {"jpeg": 1.0})
        assert file.get("a.png", "7-0000abce") is None
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(MeonError, match=message) as caught:
        ScoreFile(path, IDENTITY)
    assert str(path) in str(caught.value) and "name another file" in str(caught.value)
    assert path.read_text() == text.replace(old, new)  # nobody's file is spoilt


def test_a_file_of_scores_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(MeonError, match="cannot be written"):
        ScoreFile(tmp_path / "nowhere" / "scores.csv", IDENTITY)


# Waterloo


@pytest.mark.parametrize("limit", [10_000, 500])
def test_discriminable_pairs(limit: int) -> None:
    random = np.random.default_rng(2)
    base = random.uniform(0, 100, 60)
    qualities = base + random.normal(0, 10, (3, 60))
    pairs = {(int(b), int(w)) for b, w in discriminable_pairs(qualities, 40, limit=limit, seed=1)}
    every = {
        (b, w) for b in range(60) for w in range(60) if all(qualities[m, b] - qualities[m, w] > 40 for m in range(3))
    }
    assert pairs == every if limit >= 60 * 59 // 2 else (pairs < every and len(pairs) > 50)
    assert discriminable_pairs(qualities[:, :1], 40).shape == (0, 2)
    with pytest.raises(ValueError, match="metrics, pictures"):
        discriminable_pairs([1, 2], 40)


def test_pairs_drawn_at_random_are_drawn_evenly() -> None:
    qualities = np.arange(40.0)[None]
    pairs = discriminable_pairs(qualities, 0, limit=700, seed=4)
    assert len(pairs) == 700  # never a picture with itself
    assert (pairs[:, 0] > pairs[:, 1]).all()
    counts = np.bincount(pairs.ravel(), minlength=40)
    # 700 draws of 1/20 each: mean 35, deviation 5.8; 4.5 deviations.
    assert counts.min() > 8 and counts.max() < 62


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("pristine")
    picture(root / "a" / "1.png", 1)
    picture(root / "2.png", 2, 280)
    (root / "broken.png").write_bytes(b"nothing")
    return load_dataset("waterloo", root)


def test_waterloo_tests_and_their_file(pristine: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    types = ("jpeg", "white_noise")
    plain = waterloo_tests(scorer, pristine, types=types, margin=10)
    assert (plain.pristine, plain.distorted, plain.failed) == (2, 20, 11)
    rows: dict[str, Prediction] = {}
    path = tmp_path / "scores.csv"
    steps: list[tuple[int, int]] = []
    with ScoreFile(path, waterloo_identity(scorer, 0)) as file:
        kept = waterloo_tests(
            scorer, pristine, types=types, margin=10, file=file, on_progress=lambda *step: steps.append(step)
        )
        for key in ("2.png", "a/1.png"):
            content = content_of(pristine.root / key)
            for name in (key, *(f"{key}#{kind}-{level}" for kind in types for level in range(1, 6))):
                row = file.get(name, content)
                assert row is not None
                rows[name] = row
    assert kept == plain
    assert steps[0] == (0, 33) and steps[-1][1] == 33

    # The same from the rows alone.
    model = {name: row.quality for name, row in rows.items()}
    distorted = [name for name in rows if "#" in name]
    clean = [model[name] for name in rows if "#" not in name]
    assert plain.d_test == metrics.d_test(clean, [model[name] for name in distorted])
    for kind in types:
        lists = [[model[f"{key}#{kind}-{level}"] for level in range(1, 6)] for key in ("2.png", "a/1.png")]
        assert plain.l_test_by_type[kind] == metrics.l_test(lists)
    right = total = 0
    from meon_ext.full_reference import quality

    scale = {name: [quality(m, v) for m, v in rows[name].full_reference.items()] for name in distorted}
    for better in distorted:
        for worse in distorted:
            if all(b - w > 10 for b, w in zip(scale[better], scale[worse], strict=True)):
                total += 1
                right += model[better] > model[worse]
    assert (plain.pairs, plain.p_test) == (total, right / total)

    class NoScorer(Counting):
        def score(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("computed again")

    with ScoreFile(path, waterloo_identity(scorer, 0)) as file:
        again = waterloo_tests(
            NoScorer(scorer),  # type: ignore[arg-type]
            pristine.where(lambda r: r.path.name != "broken.png"),
            types=types,
            margin=10,
            file=file,
        )
    assert dataclasses.replace(again, failed=11) == plain
    assert json.loads(json.dumps(plain.to_dict(), allow_nan=False))["pairs"] == total


def test_each_picture_has_noise_of_its_own_that_follows_the_seed(
    pristine: Dataset, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    def record(pixels: Any, type: str, level: int, *, seed: int) -> Any:
        seeds.append(seed)
        return pixels

    monkeypatch.setattr("meon_ext.distortions.distort", record)
    monkeypatch.setattr("meon_ext.full_reference.METRICS", {"vif": lambda *pair: 0.5})
    good = pristine.where(lambda r: r.path.name != "broken.png")
    for seed in (0, 0, 1):
        waterloo_tests(scorer, good, types=["white_noise"], seed=seed)
    runs = [set(seeds[i : i + 10]) for i in (0, 10, 20)]
    assert runs[0] == runs[1] and not runs[0] & runs[2]
    assert [len(run) for run in runs] == [2, 2, 2]


def test_weights_that_came_from_no_file_are_told_apart(scorer: Scorer) -> None:
    weights = untrained_weights()
    other = dataclasses.replace(weights, tensors={k: v + 0 for k, v in weights.tensors.items()})
    other.tensors["quality_head.1.bias"][0] += 1
    assert ScoreFile.identity_of(Scorer(weights)) == ScoreFile.identity_of(scorer)
    assert ScoreFile.identity_of(Scorer(other)) != ScoreFile.identity_of(scorer)


def test_what_the_waterloo_tests_refuse(pristine: Dataset, scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no type of distortion is called 'fog'"):
        waterloo_tests(scorer, pristine, types=["fog"])
    monkeypatch.setattr("meon_ext.distortions.available", lambda name: name != "avif")
    with pytest.raises(MeonError, match="this Pillow cannot make avif"):
        waterloo_tests(scorer, pristine, types=["jpeg", "avif"])


def test_tests_without_pictures_or_pairs_are_unknown(pristine: Dataset, scorer: Scorer) -> None:
    found = waterloo_tests(scorer, pristine.where(lambda r: r.path.name == "broken.png"), types=["jpeg"])
    assert math.isnan(found.d_test) and math.isnan(found.l_test) and math.isnan(found.p_test)
    assert found.to_dict()["l_test_by_type"] == {"jpeg": None}
