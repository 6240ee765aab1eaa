"""What computes the network over the crops of one image: the C++ core, or PyTorch with or without the fused ops."""

from __future__ import annotations

import contextlib
import functools
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast

import numpy as np

from meon_ext._native import core
from meon_ext.errors import MeonError, NativeError
from meon_ext.weights_io import CROP_SIZE, Architecture, WeightsFile

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from meon_ext._score_crops import CropPlan
    from meon_ext.model import MEON

BackendName = Literal["auto", "core", "fused", "reference"]
Answers: TypeAlias = "tuple[NDArray[np.float32], NDArray[np.float32]]"
BACKENDS: tuple[BackendName, ...] = ("auto", "core", "fused", "reference")

# So many crops' first stage takes 32 MiB; the fused ops gain nothing from more.
_FUSED_BATCH = 256
# What the stages write takes 54 KB for each crop of a large grid at stride 128 on CUDA, 157 KB where none overlap.
_GRID_BATCH = 4096
# Images of so many sizes: a plan for 12 megapixels takes about 50 KB.
_PLANS_KEPT = 64
# Plain PyTorch on a CPU is fastest with batches whose tensors stay in cache; larger ones are faulted in anew.
_REFERENCE_BATCH = 16


class Backend(Protocol):
    """A network held ready to score crops."""

    name: str
    device: str

    def forward_crops(self, pixels: NDArray[np.uint8], boxes: NDArray[np.int64]) -> Answers:
        """uint8 (H, W, 3) and boxes (K, 4) to raw (K,) and probabilities (K, C); C = 0 without a type head."""
        ...


def make_backend(weights: WeightsFile, name: str, device: str, threads: int, batch_size: int | None) -> Backend:
    """Choose as ``Scorer`` documents, and build. Raises ValueError for a choice that contradicts itself."""
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device, re.ASCII):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}")
    on_cuda = device.startswith("cuda")
    runs_on_core = _core_runs(weights.architecture)
    if name == "core" and on_cuda:
        raise ValueError("backend core runs on the CPU; use backend fused or reference with a CUDA device")
    if name == "core" and not runs_on_core:
        raise ValueError(f"backend core runs the paper's network only; use backend fused for {weights.architecture}")
    if name == "auto":
        name = "core" if runs_on_core and not on_cuda else "fused"
    if name == "core":
        return CoreBackend(weights, threads, batch_size)
    return TorchBackend(weights, name, device, threads, batch_size)


def _core_runs(architecture: Architecture) -> bool:
    return architecture.task == "fusion" and architecture == Architecture(architecture.num_classes)


def _one_op_runs(architecture: Architecture, device: str) -> bool:
    from meon_ext._score_crops import CUDA_CLASSES

    return _core_runs(architecture) and (device == "cpu" or architecture.num_classes <= CUDA_CLASSES)


def _op_parameters(model: MEON) -> list[torch.Tensor]:
    from meon_ext._score_crops import ordered_parameters

    tensors = {name: tensor.detach() for name, tensor in model.effective_tensors().items()}
    return ordered_parameters(tensors, tensors["stages.0.weight"].device)


def _batches(boxes: NDArray[np.int64], batch_size: int | None) -> list[NDArray[np.int64]]:
    if batch_size is None or batch_size >= len(boxes):
        return [boxes]
    return [boxes[start : start + batch_size] for start in range(0, len(boxes), batch_size)]


def _as_grid(boxes: NDArray[np.int64]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Rows and columns of boxes that are each row with each column, row by row; None of others, and of none."""
    rows, columns = np.unique(boxes[:, 1]), np.unique(boxes[:, 0])
    if len(boxes) == 0 or len(boxes) != len(rows) * len(columns):
        return None
    corners = np.stack([np.tile(columns, len(rows)), np.repeat(rows, len(columns))], axis=1)
    if not (np.array_equal(boxes[:, :2], corners) and np.array_equal(boxes[:, 2:], corners + CROP_SIZE)):
        return None
    return tuple(rows.tolist()), tuple(columns.tolist())


def _grid_parts(rows: int, columns: int, limit: int) -> Iterator[tuple[slice, slice]]:
    """Rectangles of a grid with at most ``limit`` crops each, whole rows where one fits: neighbours share most."""
    across = min(columns, limit)
    down = max(1, limit // columns)
    for row in range(0, rows, down):
        for column in range(0, columns, across):
            yield slice(row, row + down), slice(column, column + across)


def _in_data_loader_worker() -> bool:
    """Whether this process is one of several that a DataLoader of torch's has started. Imports no torch."""
    data = sys.modules.get("torch.utils.data")
    return data is not None and data.get_worker_info() is not None


class CoreBackend:
    """The torch-free C++ core on the CPU."""

    name = "core"
    device = "cpu"

    def __init__(self, weights: WeightsFile, threads: int, batch_size: int | None) -> None:
        self._network = core().Network(dict(weights.tensors))
        self._threads = threads
        self._batch_size = batch_size

    def forward_crops(self, pixels: NDArray[np.uint8], boxes: NDArray[np.int64]) -> Answers:
        batches = _batches(boxes, self._batch_size)
        # Several workers with a thread for each processor would only get in each other's way.
        threads = self._threads or (1 if _in_data_loader_worker() else 0)
        if len(batches) == 1:
            return cast(Answers, self._network.forward_crops(pixels, boxes, threads))
        raw, probabilities = zip(*(self._network.forward_crops(pixels, b, threads) for b in batches), strict=True)
        return np.concatenate(raw), np.concatenate(probabilities)


class TorchBackend:
    """MEON in PyTorch: "fused" with this package's ops, "reference" in plain PyTorch.

    The paper's network over a grid of crops, fused, is one op, which computes what the crops share once.
    """

    _parameters: list[torch.Tensor] | None = None  # of that op

    def __init__(self, weights: WeightsFile, name: str, device: str, threads: int, batch_size: int | None) -> None:
        torch, model_type = _import_torch()
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device != "cpu" and not torch.cuda.is_available():
            why = "is a build without CUDA" if torch.version.cuda is None else "finds no usable CUDA device"
            raise MeonError(f"device {device} was asked for, but torch {torch.__version__} {why}; use device cpu")
        if ":" in device and int(device.partition(":")[2]) >= (count := torch.cuda.device_count()):
            raise MeonError(f"device {device} was asked for, but there are {count}, the last of them cuda:{count - 1}")
        self.name = name
        self.device = device
        self._torch = torch
        self._model: MEON = model_type.from_weights(weights, backend=name).to(device).eval()
        self._threads = threads
        self._batch_size = batch_size or (_REFERENCE_BATCH if name == "reference" else _FUSED_BATCH)
        self._grid_batch = batch_size or _GRID_BATCH
        if name == "fused" and _one_op_runs(weights.architecture, device):
            self._parameters = _op_parameters(self._model)
        self._plan = functools.lru_cache(_PLANS_KEPT)(self._make_plan)

    def forward_crops(self, pixels: NDArray[np.uint8], boxes: NDArray[np.int64]) -> Answers:
        torch = self._torch
        try:
            # In a caller's autocast plain PyTorch, and so every variant, would score in half precision.
            precise = torch.autocast(self.device.partition(":")[0], enabled=False)
            with torch.inference_mode(), precise, self._thread_count():
                # Torch knows no read-only tensors, and warns.
                writable = pixels if pixels.flags.writeable else pixels.copy()
                image = torch.from_numpy(writable).to(self.device)
                grid = _as_grid(boxes) if self._parameters is not None else None
                return self._forward(image, boxes) if grid is None else self._forward_grid(image, *grid)
        except RuntimeError as error:
            # Of an op of ours it is a plain RuntimeError, in the words of torch's allocator.
            said = ("allocate memory", "out of memory")
            if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in said):
                raise MemoryError(str(error)) from error
            raise

    def _forward(self, image: torch.Tensor, boxes: NDArray[np.int64]) -> Answers:
        torch = self._torch
        answers = [
            self._model.forward_crops(image, torch.from_numpy(batch)) for batch in _batches(boxes, self._batch_size)
        ]
        raw = torch.cat([answer.quality for answer in answers])
        kinds = [answer.probabilities for answer in answers if answer.probabilities is not None]
        probabilities = torch.cat(kinds) if kinds else raw.new_empty((len(boxes), 0))
        return raw.float().cpu().numpy(), probabilities.float().cpu().numpy()

    def _forward_grid(self, image: torch.Tensor, rows: tuple[int, ...], columns: tuple[int, ...]) -> Answers:
        classes = len(self._parameters[-1]) if self._parameters else 0
        answers = np.empty((len(rows), len(columns), 1 + classes), np.float32)
        for down, across in _grid_parts(len(rows), len(columns), self._grid_batch):
            plan = self._plan(rows[down], columns[across])
            # The op itself: what meon_ext.ops checks before it has been checked once, and takes as long as the kernels.
            out = self._torch.ops.meon_ext.score_crops(image.unsqueeze(0), *plan, self._parameters)
            part = answers[down, across]
            part[:] = out.cpu().numpy().reshape(part.shape)
        flat = answers.reshape(-1, 1 + classes)
        return np.ascontiguousarray(flat[:, 0]), np.ascontiguousarray(flat[:, 1:])

    def _make_plan(self, rows: tuple[int, ...], columns: tuple[int, ...]) -> CropPlan:
        from meon_ext._score_crops import crop_plan

        return crop_plan(rows, columns, self.device)

    @contextlib.contextmanager
    def _thread_count(self) -> Iterator[None]:
        """Torch's thread count is the process's: put back what was there."""
        if self._threads <= 0:
            yield
            return
        before = self._torch.get_num_threads()
        self._torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            self._torch.set_num_threads(before)


def _import_torch() -> tuple[Any, Any]:
    try:
        import torch
    except (ImportError, OSError) as error:  # the latter where a library that torch loads is missing
        raise NativeError(f"this backend needs torch, which cannot be imported ({error}); pip install torch") from error
    from meon_ext.model import MEON

    return torch, MEON
