"""Batches of crops: which, in what order, cut where. All of it follows from the seed and the number of the update, so
that a resumed run, or one with other workers or processes, goes on with the same crops."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from meon_ext.training.pictures import PictureLoader
from meon_ext.training.samples import Samples
from meon_ext.weights_io import CROP_SIZE


class Batch(NamedTuple):
    """crops: uint8 (N, 256, 256, 3). places: int64 (N,), where in the Samples each is from."""

    crops: Tensor
    places: Tensor


class Batches(Dataset[Batch]):
    """One step's batches by the number of the update: a process's share of each.

    samples: with ``crops`` crops of each an epoch (times its ``repeat``), in an order drawn anew for each epoch.
    batch_size: over all processes. What is left over at the end of an epoch is dropped; fewer pictures than a batch has
        are gone through more than once.
    seed, stream: stream tells steps of one seed apart.
    flip: mirror half of the crops. turn: turn half of them upside down, and exchange rows and columns of half of them.
    pairs: every second crop is of the picture of the crop before it at another level, if there is one.
    rank, world: this process, and how many there are. Each has the same number of crops, in the order of the batch.
    """

    def __init__(
        self,
        samples: Samples,
        loader: PictureLoader,
        batch_size: int,
        *,
        crops: int = 1,
        seed: int = 0,
        stream: int = 0,
        flip: bool = True,
        turn: bool = False,
        pairs: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        unit = world * (2 if pairs else 1)
        if batch_size % unit:
            raise ValueError(f"batch_size must be a multiple of {unit}, got {batch_size}")
        self._loader = loader
        self._pictures = samples.pictures
        self._entries = np.repeat(np.arange(len(samples)), samples.repeat * crops)
        self._batch_size = batch_size
        self._seed = (seed, stream)
        self._flip = flip
        self._turn = turn
        self._partners = _Partners(samples.pair) if pairs else None
        self._share = slice(rank * batch_size // world, (rank + 1) * batch_size // world)
        self._drawn = batch_size // 2 if pairs else batch_size
        self.per_epoch = max(1, len(self._entries) // self._drawn)
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def __getitem__(self, update: int) -> Batch:
        random = np.random.default_rng([*self._seed, 1, update])
        places = self._places(update, random)[self._share]
        draws = random.random((self._batch_size, 3))[self._share]
        turns = random.random((self._batch_size, 2))[self._share] if self._turn else np.ones((len(places), 2))
        # Written straight into shared memory where a worker makes it, as torch's own collate does.
        crops = _empty(len(places))
        array = crops.numpy()
        for i, (place, (across, down, side)) in enumerate(zip(places, draws, strict=True)):
            pixels = self._loader.load(self._pictures[place])
            y = int(down * (pixels.shape[0] - CROP_SIZE + 1))
            x = int(across * (pixels.shape[1] - CROP_SIZE + 1))
            array[i] = pixels[y : y + CROP_SIZE, x : x + CROP_SIZE]
            if self._flip and side < 0.5:
                crops[i] = crops[i].flip(1)  # 30 times as fast as NumPy's
            if turns[i, 0] < 0.5:
                crops[i] = crops[i].flip(0)
            if turns[i, 1] < 0.5:
                crops[i] = crops[i].transpose(0, 1).contiguous()
        return Batch(crops, torch.from_numpy(places))

    def _places(self, update: int, random: np.random.Generator) -> NDArray[np.int64]:
        epoch, batch = divmod(update, self.per_epoch)
        if self._order is None or self._order[0] != epoch:
            shuffle = np.random.default_rng([*self._seed, 0, epoch])
            rounds = -(-self._drawn // len(self._entries))
            order = np.concatenate([shuffle.permutation(self._entries) for _ in range(rounds)])
            self._order = epoch, order
        drawn = self._order[1][batch * self._drawn : (batch + 1) * self._drawn]
        if self._partners is None:
            return drawn
        return np.stack([drawn, self._partners.draw(drawn, random)], axis=1).reshape(-1)

    def load(self, start: int, stop: int, workers: int, pin: bool) -> Iterator[Batch]:
        """The batches of updates start to stop, made in this process or by that many workers, in order."""
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=range(start, stop),
            num_workers=workers,
            pin_memory=pin,
            # Forking a process that runs threads, as torch does, may hang the child.
            multiprocessing_context=multiprocessing.get_context("forkserver") if workers else None,
            prefetch_factor=4 if workers else None,
        )
        return iter(loader)


class _Partners:
    """For each sample, another of the same pair group."""

    def __init__(self, pair: NDArray[np.int64]) -> None:
        self._by_group = np.argsort(pair, kind="stable")
        _, self._group, self._count = np.unique(pair, return_inverse=True, return_counts=True)
        self._start = np.cumsum(self._count) - self._count
        self._rank = np.empty(len(pair), np.int64)
        self._rank[self._by_group] = np.arange(len(pair)) - self._start[self._group[self._by_group]]

    def draw(self, places: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
        """Another sample of each one's group at random, or the sample itself where it is alone."""
        group = self._group[places]
        count = self._count[group]
        ahead = 1 + np.floor(random.random(len(places)) * (count - 1)).astype(np.int64)
        partner: NDArray[np.int64] = self._by_group[self._start[group] + (self._rank[places] + ahead) % count]
        return partner


def _empty(count: int) -> Tensor:
    size = count * CROP_SIZE * CROP_SIZE * 3
    shape = (count, CROP_SIZE, CROP_SIZE, 3)
    if torch.utils.data.get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    shared = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(shared).resize_(shape)
