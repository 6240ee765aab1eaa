"""From an image to a Score: crops, network, pooling and the mapping to quality. Imports no torch on its own account."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np

from meon_ext import images
from meon_ext._backends import Backend, make_backend
from meon_ext._native import core
from meon_ext._pooling import POOLS, Pool, cover_mean, pool_raw, vote
from meon_ext._prefetch import decode_ahead
from meon_ext.errors import ImageError, MeonError
from meon_ext.images import ImageLike, LoadedImage
from meon_ext.weights_io import CROP_SIZE, WeightsFile, check_weights, read_weights, resolve_weights

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["Score", "Scorer", "score"]

_STRIDE_LIMIT = 1 << 31  # that of the grid of crops
_THREADS_LIMIT = 1 << 31  # they are counted in C++

ModelLike: TypeAlias = "str | os.PathLike[str] | WeightsFile | None"


@dataclass(frozen=True, eq=False)
class Score:
    """What the network says of one picture, of which it saw K crops; C is the number of distortion types.

    quality: 0 (worst) to 100 (best), the pooled raw value through the model's quality mapping.
    raw: the pooled value on the network's own scale, which ``meta["score_name"]`` names.
    distortion: the type most crops were given; None for a model without a type head.
    probabilities: mean over the crops for each type; empty for a model without a type head.
    quality_std: population standard deviation of ``crop_quality``; 0 for one crop.
    crop_boxes: int64 (K, 4), rows (x0, y0, x1, y1) in pixels of the padded upright picture, x1 and y1 exclusive.
    crop_quality: float64 (K,), 0 to 100.
    crop_probabilities: float32 (K, C).
    meta: name, width, height (upright, before padding), padded, crops (K), stride, pool, model, model_sha256,
        score_name, lower_is_better (of raw), backend, device, word.
    """

    quality: float
    raw: float
    distortion: str | None
    probabilities: dict[str, float]
    quality_std: float
    crop_boxes: NDArray[np.int64] = field(repr=False)
    crop_quality: NDArray[np.float64] = field(repr=False)
    crop_probabilities: NDArray[np.float32] = field(repr=False)
    meta: dict[str, Any] = field(repr=False)

    @property
    def word(self) -> str | None:
        """The model's word for the quality, of those of ITU-R BT.500 (excellent, good, fair, poor, bad) in the weights
        that ship; None where its weights have no words."""
        found: str | None = self.meta["word"]
        return found

    def quality_map(self, cell: int = 1) -> NDArray[np.float32]:
        """Where the picture is good and where not: mean quality of the crops that cover each pixel.

        cell: side in pixels of the square cells the map has; each takes the value at its centre. With 1, the map is as
            large as the picture (4 bytes a pixel: mind that for a hundred megapixels).

        Returns float32 (ceil(H / cell), ceil(W / cell)), 0 to 100; NaN where no crop lies, which only a stride
        larger than a crop leaves. Raises ValueError unless cell is at least 1.
        """
        if cell < 1:
            raise ValueError(f"cell must be at least 1 pixel, got {cell}")
        rows, columns = (
            np.minimum(np.arange(0, side, cell) + cell // 2, side - 1)
            for side in (self.meta["height"], self.meta["width"])
        )
        return cover_mean(self.crop_boxes, self.crop_quality, rows, columns)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values that ``json.dumps`` takes."""
        return {
            "quality": self.quality,
            "raw": self.raw,
            "distortion": self.distortion,
            "probabilities": dict(self.probabilities),
            "quality_std": self.quality_std,
            "crop_boxes": self.crop_boxes.tolist(),
            "crop_quality": self.crop_quality.tolist(),
            "crop_probabilities": self.crop_probabilities.tolist(),
            "meta": dict(self.meta),
        }


class Scorer:
    """Holds a model and scores images with it.

    model: weights file, name of weights that ship with the package, WeightsFile, or None for the default weights.
    stride: step between crops in pixels, at least 1.
    device: "cpu", "cuda" or "cuda:N". "auto" is the CPU, save that a torch backend asked for by name takes CUDA where
        torch has it: asking for nothing gives the same answer on every machine.
    backend: "core" (C++, CPU, the paper's network only, no torch), "fused" (torch with this package's ops),
        "reference" (plain PyTorch). "auto" is core wherever it can run, otherwise fused.
    pool: "mean" over the crops; "min", the worst crop; "p5", the value that 5 % of the crops are worse than.
    threads: for the network; 0 means all the processors this process may use, but one in a worker of torch's
        DataLoader. The score does not depend on it.
    batch_size: crops that go through the network at once; None leaves it to the backend. On the core, and with "fused"
        for the paper's network, the score does not depend on it; otherwise it does within rounding, since torch's
        matrix products do.
    max_pixels: limit on the pixels of an image; None means MEON_MAX_PIXELS or 512 megapixels.

    A Scorer may be used from several threads at once, and pickled for another process, which sets its own up alike.
    Raises WeightsError for a model that cannot be read or whose parts do not fit together, NativeError where the
    backend's library is missing, MeonError where the device is, ValueError for a setting out of range.
    """

    def __init__(
        self,
        model: ModelLike = None,
        *,
        stride: int = 128,
        device: str = "auto",
        backend: str = "auto",
        pool: Pool = "mean",
        threads: int = 0,
        batch_size: int | None = None,
        max_pixels: int | None = None,
    ) -> None:
        if not 1 <= stride < _STRIDE_LIMIT:
            raise ValueError(f"stride must be at least 1 pixel and below 2^31, got {stride}")
        if pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {pool!r}")
        if not 0 <= threads < _THREADS_LIMIT:
            raise ValueError(f"threads must be 0 (all) or more, and below 2^31, got {threads}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if isinstance(model, WeightsFile):
            check_weights(model, model.path or model.name or "model")  # nobody has, as reading a file does
        self.weights = model if isinstance(model, WeightsFile) else read_weights(resolve_weights(model))
        self.stride = stride
        self.pool: Pool = pool
        self.max_pixels = images.pixel_limit(max_pixels)
        self._asked_for = {"backend": backend, "device": device, "threads": threads, "batch_size": batch_size}
        self._backend: Backend = make_backend(self.weights, backend, device, threads, batch_size)

    def __getstate__(self) -> dict[str, Any]:
        settings = {"stride": self.stride, "pool": self.pool, "max_pixels": self.max_pixels, **self._asked_for}
        return {"model": self.weights, **settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Scorer.__init__(self, **state)  # the network itself lies in C++ or in torch

    @property
    def backend(self) -> str:
        """The backend in use: "core", "fused" or "reference"."""
        return self._backend.name

    @property
    def device(self) -> str:
        """The device in use: "cpu", "cuda" or "cuda:N"."""
        return self._backend.device

    @overload
    def score(self, image: ImageLike, *, data_range: float | None = None, name: str | None = None) -> Score: ...
    @overload
    def score(
        self, image: torch.Tensor, *, data_range: float | None = None, name: str | None = None
    ) -> Score | list[Score]: ...
    def score(
        self, image: ImageLike | torch.Tensor, *, data_range: float | None = None, name: str | None = None
    ) -> Score | list[Score]:
        """Score one image, or each of a torch tensor (N, C, H, W), which gives a list.

        image, data_range, name: as ``meon_ext.images.load_image`` takes them.

        Raises ImageError when it cannot be read, is too small or too large.
        """
        if images.is_batch(image):
            label = name or "<tensor>"
            return [self._score_one(one, data_range, f"{label}[{i}]") for i, one in enumerate(image)]
        return self._score_one(image, data_range, name)

    def _score_one(self, image: ImageLike | torch.Tensor, data_range: float | None, name: str | None) -> Score:
        return self._score_loaded(
            images.load_image(image, data_range=data_range, name=name, max_pixels=self.max_pixels)
        )

    @overload
    def score_many(
        self,
        images: Iterable[ImageLike | torch.Tensor],
        *,
        data_range: float | None = None,
        on_error: Literal["raise"] = "raise",
        ahead: int = 2,
    ) -> Iterator[Score]: ...
    @overload
    def score_many(
        self,
        images: Iterable[ImageLike | torch.Tensor],
        *,
        data_range: float | None = None,
        on_error: Literal["return"],
        ahead: int = 2,
    ) -> Iterator[Score | MeonError]: ...
    def score_many(
        self,
        images: Iterable[ImageLike | torch.Tensor],
        *,
        data_range: float | None = None,
        on_error: Literal["raise", "return"] = "raise",
        ahead: int = 2,
    ) -> Iterator[Score | MeonError]:
        """Score images one after the other, in order.

        on_error: "raise" ends at the first image that cannot be scored; "return" yields its ImageError in its place.
        ahead: up to so many images are taken from ``images`` and decoded in threads while earlier ones are scored,
            within about half a gigabyte; 0 takes the next image only when the last one's score was taken.
        """
        if on_error not in ("raise", "return"):
            raise ValueError(f"on_error must be raise or return, got {on_error!r}")
        return self._score_many(images, data_range, on_error == "raise", ahead)

    def _score_many(
        self, pictures: Iterable[ImageLike | torch.Tensor], data_range: float | None, raises: bool, ahead: int
    ) -> Iterator[Score | MeonError]:
        def open_image(image: ImageLike | torch.Tensor) -> images.PendingImage:
            return images.open_image(image, data_range=data_range, max_pixels=self.max_pixels)

        for outcome in decode_ahead(pictures, open_image, ahead):
            result = outcome if isinstance(outcome, MeonError) else self._outcome(outcome)
            if raises and isinstance(result, MeonError):
                raise result
            yield result

    def _outcome(self, image: LoadedImage) -> Score | MeonError:
        try:
            return self._score_loaded(image)
        except MeonError as error:
            return error

    def _score_loaded(self, image: LoadedImage) -> Score:
        height, width = image.pixels.shape[:2]
        boxes = core().crop_grid(height, width, CROP_SIZE, self.stride)
        try:
            raw, probabilities = self._backend.forward_crops(image.pixels, boxes)
        except MemoryError as error:
            raise ImageError(f"{image.name}: not enough memory to score it; scale the picture down first") from error
        return self._summarise(image, boxes, raw, probabilities)

    def _summarise(
        self,
        image: LoadedImage,
        boxes: NDArray[np.int64],
        raw: NDArray[np.float32],
        probabilities: NDArray[np.float32],
    ) -> Score:
        weights = self.weights
        pooled = pool_raw(raw, self.pool, weights.lower_is_better)
        if not (math.isfinite(pooled) and np.isfinite(probabilities).all()):
            raise MeonError(f"{image.name}: the network gave a value that is not finite; its weights are no good")
        crop_quality = weights.mapping(raw.astype(np.float64))
        means = probabilities.astype(np.float64).mean(axis=0)
        quality = weights.mapping(pooled)
        return Score(
            quality=quality,
            raw=pooled,
            distortion=weights.classes[vote(probabilities)] if weights.classes else None,
            probabilities={name: float(p) for name, p in zip(weights.classes, means, strict=True)},
            quality_std=float(crop_quality.std()),
            crop_boxes=boxes,
            crop_quality=crop_quality,
            crop_probabilities=probabilities,
            meta={
                "name": image.name,
                "width": image.width,
                "height": image.height,
                "padded": image.padded,
                "crops": len(boxes),
                "stride": self.stride,
                "pool": self.pool,
                "model": weights.name,
                "model_sha256": weights.sha256,
                "score_name": weights.score_name,
                "lower_is_better": weights.lower_is_better,
                "backend": self.backend,
                "device": self.device,
                "word": weights.word(quality),
            },
        )


_last_lock = threading.Lock()
_last: tuple[tuple[Any, ...], Scorer] | None = None


@overload
def score(
    image: ImageLike,
    *,
    model: ModelLike = None,
    stride: int = 128,
    device: str = "auto",
    backend: str = "auto",
    data_range: float | None = None,
    name: str | None = None,
    **settings: Any,
) -> Score: ...
@overload
def score(
    image: torch.Tensor,
    *,
    model: ModelLike = None,
    stride: int = 128,
    device: str = "auto",
    backend: str = "auto",
    data_range: float | None = None,
    name: str | None = None,
    **settings: Any,
) -> Score | list[Score]: ...
def score(
    image: ImageLike | torch.Tensor,
    *,
    model: ModelLike = None,
    stride: int = 128,
    device: str = "auto",
    backend: str = "auto",
    data_range: float | None = None,
    name: str | None = None,
    **settings: Any,
) -> Score | list[Score]:
    """Score one image; see ``Scorer`` for the settings and ``Scorer.score`` for the image.

    The last Scorer is kept, so that calling this again with the same settings does not read the weights again.
    """
    scorer = _cached_scorer(model, stride=stride, device=device, backend=backend, **settings)
    return scorer.score(image, data_range=data_range, name=name)


def _cached_scorer(model: ModelLike, **settings: Any) -> Scorer:
    global _last
    identity: tuple[Any, ...]
    if isinstance(model, WeightsFile):
        identity = ("object", id(model))  # not reused for another: the Scorer keeps the object alive
    else:
        path = resolve_weights(model)
        status = path.stat()
        identity = ("file", str(path.resolve()), status.st_mtime_ns, status.st_size)
    key = (identity, tuple(sorted(settings.items())), os.environ.get(images.MAX_PIXELS_VARIABLE))
    with _last_lock:
        if _last is None or _last[0] != key:
            _last = (key, Scorer(model, **settings))
        return _last[1]
