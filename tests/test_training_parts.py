"""The parts of training against hand computation and brute force: losses, cache, pictures, batches, calibration."""

from __future__ import annotations

import errno
import io
import itertools
import json
import math
import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from training_runs import scene, write_scenes

from meon_ext import MEON, distortions
from meon_ext.errors import TrainingError
from meon_ext.training import StepConfig, losses
from meon_ext.training.batches import Batches
from meon_ext.training.cache import PictureCache
from meon_ext.training.calibrate import fit_mapping, fit_temperature
from meon_ext.training.checkpoint import read_checkpoint, write_checkpoint
from meon_ext.training.config import NetworkConfig
from meon_ext.training.evaluate import Predictions, crop_places, mean_srcc, predict, type_accuracy
from meon_ext.training.journal import Journal, read_log
from meon_ext.training.network import (
    CropNetwork,
    begin_with_pretrained_,
    decayed_parameters,
    divide_logits_,
    new_model,
    pretraining_model,
    rescale_scores_,
)
from meon_ext.training.optimise import _optimizer, _Run, _signals, learning_rate
from meon_ext.training.pictures import Picture, PictureLoader
from meon_ext.training.progress import Progress, clock
from meon_ext.training.samples import SPOILED, Kind, Samples
from meon_ext.training.soap import Soap

F32 = float(np.finfo(np.float32).eps)


def test_losses_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [2.0, 2.0], [9.0, -9.0]])
    found = losses.type_cross_entropy(logits, torch.tensor([1, 0, -1]))
    # Of what is anything but the last type, what that leaves; without its place it teaches nothing.
    softmax = torch.softmax(logits, dim=1)
    anything_else = losses.type_cross_entropy(logits, torch.tensor([-1, SPOILED, 0]), pristine=logits.shape[1] - 1)
    assert float(anything_else) == pytest.approx(float(-(1 - softmax[1, -1]).log() - softmax[2, 0].log()) / 3, rel=1e-5)
    nothing = losses.type_cross_entropy(logits, torch.tensor([-1, SPOILED, 0]))
    assert float(nothing) == pytest.approx(float(-softmax[2, 0].log()) / 3, rel=1e-5)
    assert float(found) == pytest.approx((math.log(4 / 3) + math.log(2)) / 3, rel=4 * F32)

    quality = torch.tensor([1.0, -2.0, 5.0, 0.5], requires_grad=True)
    loss = losses.quality_l1(quality, torch.tensor([0.5, -3.0, math.nan, 0.75]))
    assert float(loss.detach()) == (0.5 + 1.0 + 0.25) / 4
    loss.backward()
    assert quality.grad is not None and quality.grad.tolist() == [0.25, 0.25, 0.0, -0.25]

    # Pairs: right by more than the margin; right by less; wrong; equal; unknown.
    quality = torch.tensor([3.0, 1.0, 1.2, 1.0, 0.0, 1.0, 0.0, 7.0, 0.0, 7.0], requires_grad=True)
    order = torch.tensor([9.0, 1.0, 9.0, 1.0, 9.0, 1.0, 4.0, 4.0, math.nan, 1.0])
    loss = losses.ranking(quality, order, margin=0.5)
    assert float(loss.detach()) == pytest.approx((0 + 0.3 + 1.5 + 0 + 0) / 5, rel=4 * F32)
    loss.backward()
    assert quality.grad is not None
    np.testing.assert_allclose(quality.grad, [0, 0, -0.2, 0.2, -0.2, 0.2, 0, 0, 0, 0], rtol=2 * F32)


def test_losses_of_shares_average_to_the_loss_of_all() -> None:
    random = torch.Generator().manual_seed(5)
    logits = torch.randn(8, 3, generator=random, dtype=torch.float64)
    quality, score = torch.randn(2, 8, generator=random, dtype=torch.float64)
    labels = torch.tensor([0, -1, 2, 1, -1, -1, -1, 2])
    score[3:6] = math.nan
    for loss in (
        lambda s: losses.type_cross_entropy(logits[s], labels[s]),
        lambda s: losses.quality_l1(quality[s], score[s]),
        lambda s: losses.ranking(quality[s], score[s], 0.3),
    ):
        shares = (loss(slice(0, 4)) + loss(slice(4, 8))) / 2
        assert float(shares) == pytest.approx(float(loss(slice(0, 8))), rel=1e-14)


def test_learning_rates() -> None:
    config = StepConfig(epochs=10, learning_rate=0.1, warmup=2.0)
    rates = [learning_rate(config, update, per_epoch=5) for update in range(51)]
    np.testing.assert_allclose(rates[:11], [0.1 * (i + 1) / 11 for i in range(10)] + [0.1])
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[30] == pytest.approx(0.1 * (0.01 + 0.99 / 2)) and rates[50] == pytest.approx(0.001)
    steps = StepConfig(epochs=100, learning_rate=0.1, schedule="steps")
    assert [learning_rate(steps, u, 1) for u in (0, 59, 60, 84, 85)] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])
    assert learning_rate(StepConfig(schedule="constant"), 9, 1) == 1e-3
    # A step shorter than its warm-up only rises, as if the warm-up were all of it.
    short = StepConfig(epochs=1, learning_rate=0.1, warmup=3.0)
    assert [learning_rate(short, u, 4) for u in range(4)] == pytest.approx([0.02, 0.04, 0.06, 0.08])


def test_the_optimizer_is_the_one_that_is_named() -> None:
    model = new_model(NetworkConfig(), ("jpeg", "pristine"), seed=0)
    for name, kind in (("adam", torch.optim.AdamW), ("soap", Soap)):
        config = StepConfig(optimizer=name, learning_rate=0.3, weight_decay=0.2)  # type: ignore[arg-type]
        optimizer = _optimizer(config, model)
        assert isinstance(optimizer, kind)
        assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.3, 0.2), (0.3, 0.0)]
        # The divisors of GDN have no directions to be turned to.
        assert [g.get("rotated") for g in optimizer.param_groups] == ([True, False] if name == "soap" else [None] * 2)


def test_an_update_has_the_rate_of_its_place_and_a_gradient_within_the_clip() -> None:
    for clip, length in ((0.0, 5.0), (0.25, 0.25), (9.0, 5.0)):
        layer = torch.nn.Linear(2, 1, bias=False)
        before = layer.weight.detach().clone()
        config = StepConfig(epochs=9, warmup=1.0, learning_rate=0.3, clip=clip)
        run: Any = SimpleNamespace(
            _step=SimpleNamespace(config=config, batches=SimpleNamespace(per_epoch=5), loss=lambda out, _: out.sum()),
            _model=layer,
            _config=SimpleNamespace(amp=False),
            _optimizer=torch.optim.SGD(layer.parameters(), lr=7.0),
            _update=2,  # of 5 to warm up
            _losses=[],
            _average=None,
        )
        _Run._learn(run, layer, torch.tensor([[3.0, 4.0]]), torch.tensor([0]))
        change = (before - layer.weight.detach()).norm()
        assert float(change) == pytest.approx(0.3 * 3 / 6 * length, rel=1e-4)
        assert run._losses == [(before @ torch.tensor([3.0, 4.0])).sum()]


def test_the_average_of_weights_soon_forgets_the_first() -> None:
    model: Any = torch.nn.BatchNorm1d(3)
    torch.nn.init.constant_(model.weight, 2.0)
    model.num_batches_tracked += 7
    for update, decay in ((0, 0.1), (10, 11 / 20), (10_000, 0.9)):
        average: Any = torch.nn.BatchNorm1d(3)  # whose weights are 1
        run: Any = SimpleNamespace(_config=SimpleNamespace(ema=0.9), _update=update, _model=model)
        _Run._follow(run, average)
        torch.testing.assert_close(average.weight.detach(), torch.full((3,), decay + 2 * (1 - decay)))
        assert int(average.num_batches_tracked) == 7  # a count has no mean


def test_the_first_signal_is_noted_and_the_second_goes_where_it_went() -> None:
    heard: list[int] = []
    former = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        ours = signal.getsignal(signal.SIGTERM)
        with _signals() as stop:
            assert not stop.came
            signal.raise_signal(signal.SIGTERM)
            assert stop.came and not heard
            signal.raise_signal(signal.SIGTERM)
            assert heard == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is ours
        with _signals():
            pass
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, former)


def test_the_cache_gives_back_what_it_got_and_stays_within_its_limit(tmp_path: Path) -> None:
    pictures = {f"{i:040}": scene(i, 256, 256 + i) for i in range(4)}
    size = [len(_npy(p)) for p in pictures.values()]
    cache = PictureCache(tmp_path / "new" / "cache", sum(size[:3]))
    for key, pixels in pictures.items():
        assert cache.get(key) is None
        cache.put(key, pixels)
    *kept, dropped = pictures
    for reader in (cache, PictureCache(tmp_path / "new" / "cache", sum(size[:3]))):
        for key in kept:
            np.testing.assert_array_equal(reader.get(key), pictures[key])
        assert reader.get(dropped) is None
    assert sum(p.stat().st_size for p in (tmp_path / "new" / "cache").glob("*.npy")) == sum(size[:3])


def test_room_is_made_by_the_oldest_that_are_not_needed(tmp_path: Path) -> None:
    keys = [f"{i:040}" for i in range(5)]
    size = len(_npy(scene(0)))
    cache = PictureCache(tmp_path, 4 * size)
    for age, key in enumerate(keys[:4]):
        cache.put(key, scene(age))
        os.utime(tmp_path / f"{key}.npy", (1000 + age, 1000 + age))
    # Left behind by a process that was killed; and what is not the cache's, older than all and larger than its limit.
    abandoned = tmp_path / f".{keys[4]}.17.tmp"
    others = [tmp_path / name for name in ("thesis.npy", "thesis.tmp", f"{keys[0]}.png")]
    for path in (abandoned, *others):
        path.write_bytes(bytes(5 * size))
        os.utime(path, (900, 900))
    (tmp_path / "folder").mkdir()
    PictureCache(tmp_path, 4 * size).make_room({keys[0], keys[4]}, size)
    kept = {f"{key}.npy" for key in (keys[0], keys[2], keys[3])}
    assert {p.name for p in tmp_path.glob("*")} == {"bytes-in-use", "folder", *kept, *(path.name for path in others)}
    cache.put(keys[4], scene(4))
    np.testing.assert_array_equal(PictureCache(tmp_path, 4 * size).get(keys[4]), scene(4))


def test_a_file_cut_short_is_made_again(tmp_path: Path) -> None:
    cache = PictureCache(tmp_path, 1 << 20)
    path = tmp_path / "k.npy"
    for damaged in (_npy(scene(0))[:-1], b"", b"\x93NUMPY\x01\x00", _npy(np.zeros((2, 2, 3))), _npy(np.array([{}]))):
        path.write_bytes(damaged)
        assert PictureCache(tmp_path, 1 << 20).get("k") is None
        assert not path.exists()
    cache.put("k", scene(1))
    np.testing.assert_array_equal(cache.get("k"), scene(1))


def test_a_cache_of_nothing_writes_nothing(tmp_path: Path) -> None:
    cache = PictureCache(tmp_path / "no", 0)
    cache.put("k", scene(0))
    cache.make_room({"k"}, 1)
    assert cache.get("k") is None and not (tmp_path / "no").exists()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(TrainingError, match="cannot hold the cache"):
        PictureCache(tmp_path / "file", 1)


def test_what_is_kept_already_is_not_counted_again(tmp_path: Path) -> None:
    size = len(_npy(scene(0)))
    cache = PictureCache(tmp_path, 2 * size)
    for _ in range(3):
        cache.put("a" * 40, scene(0))
    cache.put("b" * 40, scene(1))
    np.testing.assert_array_equal(cache.get("b" * 40), scene(1))
    assert (tmp_path / "bytes-in-use").read_text() == str(2 * size)


def test_what_could_not_be_written_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(_npy(scene(0)))
    cache = PictureCache(tmp_path, size)

    def full(path: Path, data: object) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        cache.put("a" * 40, scene(0))
    assert cache.get("a" * 40) is None and {path.name for path in tmp_path.iterdir()} == {"bytes-in-use"}
    cache.put("b" * 40, scene(1))
    np.testing.assert_array_equal(cache.get("b" * 40), scene(1))


def _fill(folder: Path, limit: int, start: int) -> None:
    cache = PictureCache(folder, limit)
    for i in range(start, start + 12):
        cache.put(f"{i % 16:040}", scene(i % 16, 256, 256))


def test_processes_share_a_cache(tmp_path: Path) -> None:
    """Three of them write at once, some of it the same; the limit holds, and every file is whole."""
    limit = 8 * len(_npy(scene(0, 256, 256)))
    context = multiprocessing.get_context("forkserver")
    workers = [context.Process(target=_fill, args=(tmp_path, limit, start)) for start in (0, 3, 7)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    files = sorted(tmp_path.glob("*.npy"))
    # While two write the same, a third may find no room.
    assert 6 <= len(files) <= 8 and not list(tmp_path.glob("*.tmp"))
    assert int((tmp_path / "bytes-in-use").read_text()) == sum(path.stat().st_size for path in files)
    for path in files:
        np.testing.assert_array_equal(PictureCache(tmp_path, limit).get(path.stem), scene(int(path.stem), 256, 256))


def _fill_anew(folder: Path) -> None:
    cache, picture = PictureCache(folder, 1 << 30), scene(0)[:8, :8].copy()
    for i in range(2000):
        key = f"{i % 8:040}"
        cache.put(key, picture)
        (folder / f"{key}.npy").unlink(missing_ok=True)


def test_room_is_made_while_others_write(tmp_path: Path) -> None:
    """Files come and go between the listing of the folder and a look at each."""
    cache = PictureCache(tmp_path, 1 << 30)
    writer = multiprocessing.get_context("forkserver").Process(target=_fill_anew, args=(tmp_path,))
    writer.start()
    try:
        while writer.is_alive():
            cache.make_room({"0" * 40}, 100)
    finally:
        writer.join()
    assert writer.exitcode == 0


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_pictures_are_made_the_same_anywhere_and_anew_when_the_file_changes(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path / "p", ("a", "b"))
    path = str(folder / "a.png")
    loader = PictureLoader(PictureCache(tmp_path / "c", 1 << 24), side=260, seed=3)
    again = PictureLoader(PictureCache(tmp_path / "none", 0), side=260, seed=3)
    noisy = Picture(path, "white_noise", 3, 0)
    for picture in (Picture(path), noisy, noisy._replace(level=5), noisy._replace(variant=1), Picture(path, variant=0)):
        first = np.array(loader.load(picture))
        np.testing.assert_array_equal(loader.load(picture), first)
        np.testing.assert_array_equal(again.load(picture), first)
    assert loader.load(Picture(path)).shape == (256, 272, 3) and loader.load(noisy).shape == (256, 260, 3)
    assert not np.array_equal(loader.load(noisy), loader.load(noisy._replace(variant=1)))
    Image.fromarray(scene(9)).save(path)
    changed = PictureLoader(PictureCache(tmp_path / "c", 1 << 24), side=260, seed=3)
    np.testing.assert_array_equal(changed.load(Picture(path)), scene(9))


def test_a_made_picture_is_a_distorted_cut(tmp_path: Path) -> None:
    """Whatever the cut, the pristine variant lies in the file's pixels; blur is the house's own of such a cut."""
    path = str(write_scenes(tmp_path, ("a",)) / "a.png")
    loader = PictureLoader(PictureCache(tmp_path / "c", 1 << 24), side=256, seed=1)
    places = []
    for variant in range(6):
        cut = loader.load(Picture(path, variant=variant))
        places += [x for x in range(17) if np.array_equal(scene(0)[:, x : x + 256], cut)]
    assert len(places) == 6 and len(set(places)) > 1
    blurred = loader.load(Picture(path, "gaussian_blur", 4, 0))
    assert any(
        np.array_equal(distortions.distort(np.ascontiguousarray(scene(0)[:, x : x + 256]), "gaussian_blur", 4), blurred)
        for x in range(17)
    )


def test_cuts_of_a_small_photograph_are_not_kept(tmp_path: Path) -> None:
    small, large = tmp_path / "small.png", tmp_path / "large.png"
    Image.fromarray(scene(1, 300, 280)).save(small)
    Image.fromarray(scene(2, 800, 900)).save(large)
    alone = PictureLoader(PictureCache(tmp_path / "none", 0), side=256, seed=1)
    for path, scale, kept in ((small, (1.0, 1.0), 0), (large, (1.0, 1.0), 6), (small, (0.9, 1.0), 6)):
        folder = tmp_path / f"{path.stem}{scale[0]}"
        loader = PictureLoader(PictureCache(folder, 1 << 25), side=256, scale=scale, seed=1)
        cuts = [Picture(str(path), variant=variant) for variant in range(6)]
        first = [loader.load(cut) for cut in cuts]
        assert len(list(folder.glob("*.npy"))) == kept + 1  # the photograph itself
        for cut, pixels in zip(cuts, first, strict=True):
            np.testing.assert_array_equal(loader.load(cut), pixels)
            if scale == (1, 1):
                np.testing.assert_array_equal(alone.load(cut), pixels)
        loader.load(Picture(str(path), "jpeg", 3, 0))
        assert len(list(folder.glob("*.npy"))) == kept + 2


def test_some_pristine_cuts_are_coded(tmp_path: Path) -> None:
    path = str(write_scenes(tmp_path, ("a",)) / "a.png")
    cache = PictureCache(tmp_path / "c", 1 << 24)
    plain, coded = (PictureLoader(cache, side=256, seed=1, coded=coded) for coded in (0.0, 0.4))
    again = PictureLoader(PictureCache(tmp_path / "none", 0), side=256, seed=1, coded=0.4)
    changes = []
    for variant in range(60):
        picture = Picture(path, variant=variant)
        cut, made = plain.load(picture), coded.load(picture)
        assert (made == again.load(picture)).all() and (coded.undistorted(picture) == cut).all()
        changes.append(float(np.abs(made.astype(int) - cut).mean()))
    assert 14 <= np.count_nonzero(changes) <= 34  # 24 of 60 on average
    assert max(changes) < 3 and len({f"{change:.3f}" for change in changes}) > 8
    # What is damaged stays as it was.
    damaged = Picture(path, "white_noise", 3, 0)
    assert (plain.load(damaged) == coded.load(damaged)).all()


def test_jitter_makes_every_strength_and_keeps_to_the_levels(tmp_path: Path) -> None:
    path = str(write_scenes(tmp_path, ("a",)) / "a.png")
    cache = PictureCache(tmp_path / "c", 1 << 24)
    exact, off = (PictureLoader(cache, side=256, seed=1, jitter=jitter) for jitter in (0.0, 0.5))
    for level in (1, 5):
        strengths = []
        for variant in range(12):
            picture = Picture(path, "white_noise", level, variant)
            clean = off.undistorted(picture)
            np.testing.assert_array_equal(exact.undistorted(picture), clean)
            grey = (clean > 100).all(2) & (clean < 150).all(2)  # where noise is not cut off
            strengths.append(float((off.load(picture).astype(float) - clean)[grey].std()))
        low, high = (distortions.TYPES["white_noise"].parameter_at(at) for at in (level - 0.5, min(level + 0.5, 5)))
        assert 0.9 * low < min(strengths) < max(strengths) < 1.1 * high
        assert len({round(s, 3) for s in strengths}) > 6 and max(strengths) > 1.2 * min(strengths)


def test_resampling_never_makes_a_picture_too_small(tmp_path: Path) -> None:
    path = str(write_scenes(tmp_path, ("a",)) / "a.png")
    Image.fromarray(scene(0, 400, 600)).save(path)
    loader = PictureLoader(PictureCache(tmp_path / "c", 0), scale=(0.2, 1.0), seed=0)
    shapes = {loader.load(Picture(path, variant=v)).shape for v in range(8)}
    assert min(min(shape[:2]) for shape in shapes) == 256 and len(shapes) > 1
    assert all(abs(shape[1] / shape[0] - 1.5) < 2 / 256 for shape in shapes)


def _samples(
    loader_folder: Path, count: int = 5, pair: list[int] | None = None, repeat: list[int] | None = None
) -> Samples:
    paths = [str(p) for p in sorted(loader_folder.glob("*.png"))][:count]
    return Samples(
        tuple(Picture(p) for p in paths),
        np.array(["jpeg"] * count),
        np.arange(1, count + 1),
        np.arange(count, dtype=np.float64),
        np.zeros(count, np.int64),
        np.array(repeat or [1] * count),
        np.array(pair or list(range(count))),
    )


def test_batches_follow_from_the_number_of_the_update(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path / "p")
    loader = PictureLoader(PictureCache(tmp_path / "c", 1 << 24))
    samples = _samples(folder, repeat=[1, 1, 1, 1, 3])
    whole = Batches(samples, loader, 4, crops=2, seed=7)
    assert whole.per_epoch == 14 // 4
    epoch = np.concatenate([whole[i].places for i in range(3)])
    assert (np.bincount(epoch, minlength=5) <= np.array([2, 2, 2, 2, 6])).all()
    assert not np.array_equal(epoch, np.concatenate([whole[i].places for i in range(3, 6)]))
    for update in (0, 4, 2):  # in any order, by any share, with or without workers
        crops, places = whole[update]
        shares = [Batches(samples, loader, 4, crops=2, seed=7, rank=r, world=2)[update] for r in range(2)]
        assert torch.equal(torch.cat([s.places for s in shares]), places)
        assert torch.equal(torch.cat([s.crops for s in shares]), crops)
        for crop, place in zip(crops.numpy(), places, strict=True):
            source = scene(int(place))
            cuts = [source[:, x : x + 256] for x in range(17)]
            assert any(np.array_equal(crop, cut) or np.array_equal(crop, cut[:, ::-1]) for cut in cuts)
    assert not torch.equal(Batches(samples, loader, 4, seed=8)[0].crops, Batches(samples, loader, 4, seed=7)[0].crops)
    worked = list(whole.load(1, 5, workers=1, pin=False))
    for update, batch in zip(range(1, 5), worked, strict=True):
        assert torch.equal(batch.crops, whole[update].crops) and torch.equal(batch.places, whole[update].places)


def test_both_halves_of_the_coin_are_thrown(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path / "p", ("a",))
    samples = _samples(folder, 1)
    loader = PictureLoader(PictureCache(tmp_path / "c", 1 << 24))
    straight = Batches(samples, loader, 32, flip=False)[0].crops
    mixed = Batches(samples, loader, 32, flip=True)[0].crops
    mirrored = [torch.equal(m, s.flip(1)) for m, s in zip(mixed, straight, strict=True)]
    same = [torch.equal(m, s) for m, s in zip(mixed, straight, strict=True)]
    assert sum(mirrored) + sum(same) == 32 and 4 <= sum(same) <= 28  # fails by chance once in 10^5 seeds; this one not


def test_all_eight_views_are_shown(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path / "p", ("a",))
    samples = _samples(folder, 1)
    loader = PictureLoader(PictureCache(tmp_path / "c", 1 << 24))
    straight = Batches(samples, loader, 96, flip=False)[0].crops.numpy()
    turned = Batches(samples, loader, 96, turn=True)[0].crops.numpy()
    seen = []
    for cut, crop in zip(straight, turned, strict=True):
        views = [np.rot90(side, quarter) for side in (cut, cut[:, ::-1]) for quarter in range(4)]
        seen.append([np.array_equal(view, crop) for view in views].index(True))
    assert np.bincount(seen, minlength=8).min() >= 3  # 12 of each on average; the seed is fixed


def test_pairs_are_of_one_scene_at_other_levels(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path / "p")
    loader = PictureLoader(PictureCache(tmp_path / "c", 1 << 24))
    samples = _samples(folder, pair=[0, 1, 0, 2, 0])
    batches = Batches(samples, loader, 4, seed=1, pairs=True)
    assert batches.per_epoch == 5 // 2
    seen = set()
    for update in range(40):
        places = batches[update].places.tolist()
        seen |= {(places[0], places[1]), (places[2], places[3])}
    assert seen == {(0, 2), (0, 4), (2, 0), (2, 4), (4, 0), (4, 2), (1, 1), (3, 3)}
    with pytest.raises(ValueError, match="multiple of 4"):
        Batches(samples, loader, 6, pairs=True, world=2)


def test_crop_network_is_the_model_on_the_crops() -> None:
    torch.manual_seed(0)
    crops = torch.from_numpy(np.stack([scene(i, 256, 256) for i in range(3)]))
    for activation in ("gdn", "relu"):
        model = new_model(NetworkConfig(activation=activation), ("a", "b"), seed=1)  # type: ignore[arg-type]
        expected = model(crops.permute(0, 3, 1, 2).float())
        found = CropNetwork(model)(crops)
        torch.testing.assert_close(found.quality, expected.quality, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)


def test_step_2_begins_with_what_step_1_learned() -> None:
    kinds = (Kind("jpeg", 1), Kind("jpeg", 5), Kind("blur", 5), Kind("pristine"))
    first = pretraining_model(NetworkConfig(), kinds, seed=1)
    model = new_model(NetworkConfig(), ("blur", "new", "pristine", "jpeg"), seed=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = first.state_dict()
    begin_with_pretrained_(model, state, kinds)
    after = model.state_dict()
    for name, value in after.items():
        if name.startswith("quality_head."):
            assert torch.equal(value, before[name])
        elif name.startswith("type_head.1."):
            rows = state[name]
            expected = [rows[2], before[name][1], rows[3], (rows[0] + rows[1]) / 2]
            torch.testing.assert_close(value, torch.stack(expected), rtol=2 * F32, atol=0)
        else:
            assert torch.equal(value, state[name])
    begin_with_pretrained_(new_model(NetworkConfig("single"), (), seed=2), state, kinds)
    with pytest.raises(TrainingError, match="pre-train the same network"):
        begin_with_pretrained_(new_model(NetworkConfig(activation="relu", width=2), ("a", "b"), 0), state, kinds)


@pytest.mark.parametrize("task", ["fusion", "multitask", "single"])
def test_scores_are_rescaled_exactly(task: str) -> None:
    network = NetworkConfig(task)  # type: ignore[arg-type]
    model = new_model(network, () if task == "single" else ("a", "b", "c"), seed=3).double()
    model.set_backend("reference")
    x = torch.from_numpy(scene(1, 256, 256)).permute(2, 0, 1)[None].double()
    before = model(x).quality
    rescale_scores_(model, 12.5, -40.0)
    torch.testing.assert_close(model(x).quality, 12.5 * before - 40, rtol=1e-12, atol=1e-12)


def test_only_the_head_is_divided_by_the_temperature() -> None:
    model = new_model(NetworkConfig(), ("a", "b", "c"), seed=3)
    x = torch.from_numpy(scene(1, 256, 256)).permute(2, 0, 1)[None].float()
    before = model(x).logits
    divide_logits_(model, 4.0)
    assert torch.equal(model(x).logits, before / 4)  # a power of two: exact


def test_weight_decay_is_for_weights_alone() -> None:
    model = MEON(3, activation="relu", batch_norm=True)
    decayed, others = decayed_parameters(model)
    names = {id(p): name for name, p in model.named_parameters()}
    assert len(decayed) + len(others) == len(names)
    assert {names[id(p)].rpartition(".")[2] for p in decayed} == {"weight"}
    assert len(decayed) == 4 + 4  # stages, and two layers of each head
    assert all("batch_norm" in names[id(p)] or names[id(p)].endswith("bias") for p in others)


def test_temperature_finds_the_scale_that_was_put_in() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (40_000, 3))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (p.cumsum(axis=1) < random.random((len(p), 1))).sum(axis=1)
    found = Predictions(np.zeros(len(p)), 3.0 * logits, np.arange(len(p)))
    # The estimate's standard error, from the curvature of the likelihood at this scale, is under 0.01 x 3.
    assert fit_temperature(found, labels) == pytest.approx(3.0, abs=0.1)
    assert fit_temperature(found, np.where(np.arange(len(p)) < 9, labels, -1)) == 1.0


def test_probabilities_are_the_mean_over_a_picture_s_crops() -> None:
    logits = np.log(np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]))
    found = Predictions(np.zeros(2), logits, np.array([0, 0, 1]))
    np.testing.assert_allclose(found.probabilities(), [[0.7, 0.3], [0.2, 0.8]], rtol=1e-12)


@pytest.mark.parametrize(("higher", "scale"), [(True, (0.0, 9.0)), (False, (0.0, 100.0))])
def test_mapping_is_the_line_through_the_scores(higher: bool, scale: tuple[float, float]) -> None:
    random = np.random.default_rng(1)
    raw = random.uniform(*scale, 50)
    score = 0.8 * raw + 0.1 * scale[1]  # the network exaggerates
    mapping = fit_mapping(np.append(raw, 3.0), np.append(score, np.nan), scale, higher)
    place = (score - scale[0]) / (scale[1] - scale[0])
    inside = (raw > mapping.raw[0]) & (raw < mapping.raw[1])
    np.testing.assert_allclose(mapping(raw)[inside], 100 * (place if higher else 1 - place)[inside], atol=1e-9)
    assert mapping.lower_is_better is not higher
    for few in (raw[:9], -raw):  # too few, or the wrong way round
        plain = fit_mapping(few, score[: len(few)], scale, higher)
        np.testing.assert_allclose(plain.raw, scale, atol=1e-12)


def test_predictions_are_means_over_crops(tmp_path: Path) -> None:
    write_scenes(tmp_path, ("a", "b"))
    Image.fromarray(scene(1, 300, 520)).save(tmp_path / "b.png")
    samples = _samples(tmp_path, 2)
    model = new_model(NetworkConfig(), ("jpeg", "pristine"), seed=0)
    loader = PictureLoader(PictureCache(tmp_path / "c", 0))
    found = predict(model, samples, loader, torch.device("cpu"), 16)
    assert np.bincount(found.picture).tolist() == [2, 8] and model.training
    with torch.no_grad():
        for i, pixels in enumerate((scene(0), scene(1, 300, 520))):
            places = crop_places(*pixels.shape[:2], 16)
            crops = np.stack([pixels[y : y + 256, x : x + 256] for x, y in places])
            assert found.quality[i] == pytest.approx(float(CropNetwork(model)(torch.from_numpy(crops)).quality.mean()))


def test_crop_places_are_those_of_scoring() -> None:
    from meon_ext._core import crop_grid  # the oracle: the C++ that scoring runs

    for height, width in ((256, 256), (257, 511), (512, 768), (900, 300)):
        grid = [(int(b[0]), int(b[1])) for b in crop_grid(height, width, 256, 128)]
        assert crop_places(height, width, 10_000) == grid
        few = crop_places(height, width, 4)
        assert len(few) == min(4, len(grid)) and set(few) <= set(grid) and few[0] == grid[0] and few[-1] == grid[-1]


def test_ranks_are_compared_within_a_source_and_levels_added_up() -> None:
    samples = Samples(
        tuple(Picture(str(i)) for i in range(6)),
        np.array(["jpeg", "jpeg", "pristine", "blur", "", "jpeg"]),
        np.array([1, 5, 0, 1, 0, 1]),
        np.array([1.0, 2, 3, 9, 8, 7]),
        np.array([0, 0, 0, 1, 1, 1]),
        np.ones(6, np.int64),
        np.arange(6),
    )
    assert mean_srcc(np.array([1.0, 2, 3, 1, 2, 3]), samples) == 0.0  # 1 in the first, -1 in the second
    kinds = (Kind("jpeg", 1), Kind("jpeg", 5), Kind("pristine"))
    p = np.array([[0.3, 0.3, 0.4], [0.3, 0.3, 0.4], [0.5, 0.1, 0.4], [1, 0, 0], [1, 0, 0], [0.2, 0.2, 0.6]])
    assert type_accuracy(p, samples, kinds) == 2 / 4
    assert samples.labels(kinds).tolist() == [0, 1, 2, -1, -1, 0]
    assert samples.labels((Kind("jpeg"), Kind("blur"))).tolist() == [0, 0, -1, 1, -1, 0]


def test_checkpoints_hold_tensors_and_state_and_refuse_anything_else(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    tensors = {"a": torch.arange(6).reshape(2, 3).t(), "b": torch.tensor(2.5)}
    write_checkpoint(path, tensors, {"update": 3, "best": -math.inf, "kinds": [["jpeg", 1]]})
    found, state = read_checkpoint(path)
    assert state == {"update": 3, "best": -math.inf, "kinds": [["jpeg", 1]]}
    assert found.keys() == tensors.keys() and all(torch.equal(found[k], v) for k, v in tensors.items())
    data = path.read_bytes()
    for damaged in (data[:-1], b"", b"\x80\x04K\x01."):
        path.write_bytes(damaged)
        with pytest.raises(TrainingError, match="is damaged"):
            read_checkpoint(path)
    new_model(NetworkConfig(), ("a", "b"), 0).save_pretrained(path)
    with pytest.raises(TrainingError, match="is no checkpoint"):
        read_checkpoint(path)
    with pytest.raises(TrainingError, match="cannot be read"):
        read_checkpoint(tmp_path / "gone")
    with pytest.raises(TrainingError, match="cannot be written"):
        write_checkpoint(tmp_path / "gone" / "c", tensors, {})


def test_a_log_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    journal = Journal(tmp_path, None, tensorboard=False)
    for step, update in (("pretraining", 5), ("pretraining", 9), ("joint", 2), ("joint", 4), ("joint", 6)):
        journal.write(step, update, loss=0.5)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": "jo')  # killed while writing
    Journal(tmp_path, ("joint", 4), tensorboard=False)
    kept = [(line["step"], line["update"]) for line in read_log(tmp_path / "log.jsonl")]
    assert kept == [("pretraining", 5), ("pretraining", 9), ("joint", 2), ("joint", 4)]
    Journal(tmp_path, None, enabled=False).write("joint", 9, loss=1.0)
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1]) == {
        "step": "joint",
        "update": 4,
        "loss": 0.5,
    }


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_tells_how_far_how_fast_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    terminal, file = _Terminal(), io.StringIO()
    progress, silent = Progress("step 1", 10, 0, "crops", terminal), Progress("step 1", 10, 0, "crops", file)
    for _ in range(4):
        now += 2
        progress.step("epoch 1", 40)
        silent.step("epoch 1", 40)
    assert progress.line("epoch 1") == "step 1 [########............] 4/10  20 crops/s  12 s left  epoch 1"
    assert terminal.getvalue().startswith("\rstep 1 [##") and terminal.getvalue().count("\r") == 4
    silent.clear()
    assert file.getvalue() == ""
    assert [clock(s) for s in (0.4, 59, 60, 3599, 3600, 90_061)] == [
        "0 s",
        "59 s",
        "1:00",
        "59:59",
        "1:00:00",
        "25:01:01",
    ]
