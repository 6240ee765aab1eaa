"""From what is to be learned from to pixels: decoding, resampling, cutting and distorting, through the cache."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import PIL.Image
from numpy.typing import NDArray

from meon_ext import distortions
from meon_ext.distortions import _codecs
from meon_ext.distortions._registry import LOWEST_LEVEL
from meon_ext.images import load_image
from meon_ext.training.cache import PictureCache
from meon_ext.training.config import SynthesisConfig
from meon_ext.weights_io import CROP_SIZE

PRISTINE = "pristine"
_HARDLY_LARGER = 8
_UNSEEN = (86, 98)  # quality of JPEG
_RECIPE = 1  # raise it when this module makes other pixels of the same arguments


class Picture(NamedTuple):
    """One picture: the file as it is, or one variant of it made here.

    path: the file. distortion, level: what to do to it; "pristine" and 0 for nothing. variant: which cut and scale; -1
    takes the file as it is, whatever else is said.
    """

    path: str
    distortion: str = PRISTINE
    level: int = 0
    variant: int = -1


class PictureLoader:
    """Makes the pixels of pictures; equal arguments give equal pixels in every process.

    side, scale, jitter, coded: as in ``SynthesisConfig``. seed: of cuts, scales, jitter and noise.
    """

    def __init__(
        self,
        cache: PictureCache,
        side: int = 0,
        scale: tuple[float, float] = (1, 1),
        seed: int = 0,
        jitter: float = 0.0,
        coded: float = 0.0,
    ) -> None:
        self._cache = cache
        self._side = side
        self._scale = scale
        self._seed = seed
        self._jitter = jitter
        self._coded = coded
        self._keys: dict[Picture, str] = {}

    @classmethod
    def of(cls, config: SynthesisConfig, cache: PictureCache) -> PictureLoader:
        """The loader of the pictures that this configuration makes."""
        return cls(cache, config.side, config.scale, config.seed, config.jitter, config.coded)

    def key(self, picture: Picture) -> str:
        """What the picture is kept under: a hash of the file's identity and of everything done to it."""
        if (key := self._keys.get(picture)) is None:
            status = os.stat(picture.path)  # noqa: PTH116  a third of Path's time, for every picture at the start
            what: list[object] = [_RECIPE, os.path.realpath(picture.path), status.st_size, status.st_mtime_ns]
            if picture.variant >= 0:
                what += [*picture[1:], self._side, self._scale, self._seed, self._jitter, _maker()]
                if picture.distortion == PRISTINE:
                    what.append(self._coded)
            key = self._keys[picture] = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:40]
        return key

    def load(self, picture: Picture) -> NDArray[np.uint8]:
        """uint8 (H, W, 3), both sides at least 256; not to be written to. Raises ImageError for an unreadable file."""
        key = self.key(picture)
        if (pixels := self._cache.get(key)) is not None:
            return pixels
        if picture.variant < 0:
            pixels = load_image(picture.path).pixels
            self._cache.put(key, pixels)
            return pixels
        whole = self.load(Picture(picture.path))
        pixels = self._make(whole, picture)
        # Many mere cuts of a photograph that is hardly larger, and as soon read, would crowd the cache.
        mere_cut = picture.distortion == PRISTINE and self._scale == (1, 1)
        if not mere_cut or whole.nbytes > _HARDLY_LARGER * pixels.nbytes:
            self._cache.put(key, pixels)
        return pixels

    def undistorted(self, picture: Picture) -> NDArray[np.uint8]:
        """The same cut of the same picture as ``load`` gives, before it was distorted."""
        return self.load(picture) if picture.variant < 0 else self._clean(self.load(Picture(picture.path)), picture)[0]

    def _make(self, whole: NDArray[np.uint8], picture: Picture) -> NDArray[np.uint8]:
        pixels, random = self._clean(whole, picture)
        if picture.distortion == PRISTINE:
            unseen = random.random() < self._coded
            return _codecs.jpeg(pixels, int(random.integers(*_UNSEEN, endpoint=True)), random) if unseen else pixels
        seed = int(random.integers(2**31))
        level: float = picture.level
        if self._jitter:
            level += random.uniform(-self._jitter, self._jitter)
            level = float(np.clip(level, LOWEST_LEVEL, max(distortions.LEVELS)))
        return distortions.distort(pixels, picture.distortion, level, seed=seed)

    def _clean(self, whole: NDArray[np.uint8], picture: Picture) -> tuple[NDArray[np.uint8], np.random.Generator]:
        name = zlib.crc32(Path(picture.path).name.encode("utf-8", "surrogateescape"))
        what = zlib.crc32(picture.distortion.encode())
        random = np.random.default_rng([self._seed, name, what, picture.level, picture.variant])
        return _cut(_resampled(whole, self._scale, random), self._side, random), random


@functools.cache
def _maker() -> str:
    """What the distortions come from: the code that makes them, and Pillow with its codecs."""
    digest = hashlib.sha256(f"Pillow {PIL.__version__}".encode())
    for path in sorted(Path(distortions.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _resampled(pixels: NDArray[np.uint8], scale: tuple[float, float], random: np.random.Generator) -> NDArray[np.uint8]:
    factor = max(random.uniform(*scale), CROP_SIZE / min(pixels.shape[:2]))
    if scale == (1, 1) or factor == 1:
        return pixels
    height, width = (round(length * factor) for length in pixels.shape[:2])
    return np.asarray(PIL.Image.fromarray(pixels).resize((width, height), PIL.Image.Resampling.LANCZOS))


def _cut(pixels: NDArray[np.uint8], side: int, random: np.random.Generator) -> NDArray[np.uint8]:
    height, width = (min(length, side or length) for length in pixels.shape[:2])
    y = random.integers(pixels.shape[0] - height, endpoint=True)
    x = random.integers(pixels.shape[1] - width, endpoint=True)
    return np.ascontiguousarray(pixels[y : y + height, x : x + width])
