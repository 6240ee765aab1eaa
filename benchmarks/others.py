"""What one could install today instead: each imported only when asked for, each absent without harm."""

from __future__ import annotations

import functools
import importlib
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cases import Unavailable, answer, inference, torch_model
from meon_ext.weights_io import CROP_SIZE
from timing import Run


def _module(name: str) -> Any:
    """Raises Unavailable: not installed, or installed and broken (such as by a torch it was not built for)."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            raise Unavailable("not installed") from error
        raise Unavailable(f"does not import: {error}") from error
    except Exception as error:
        raise Unavailable(f"does not import: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _proven(run: Run) -> Run:
    """The call, made once. Raises Unavailable where it fails: whatever fails here is not ours."""
    try:
        run()
    except Exception as error:
        raise Unavailable(f"does not run: {_first_line(error)}") from error
    return run


def brisque(image: NDArray[np.uint8]) -> Run:
    """PyPI's brisque: OpenCV, scipy and libsvm."""
    model = _module("brisque").BRISQUE()
    return _proven(lambda: model.score(image))


def piq(image: NDArray[np.uint8]) -> Run:
    """piq.brisque, on torch. It fetches its weights from the network when it is first used."""
    function = _module("piq").brisque
    x = torch.from_numpy(image).permute(2, 0, 1)[None]
    return _proven(inference(lambda: function(x.float(), data_range=255.0)))


# --- the same network in onnxruntime ------------------------------------------------------------------------------


class _Quality(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = torch_model("reference")

    def forward(self, crops: Tensor) -> Tensor:
        return answer(self.model, crops).quality


@functools.cache
def onnx_file() -> bytes:
    """The reference, crops (n, 3, 256, 256) -> quality (n,), for any n."""
    for name in ("onnx", "onnxscript"):
        _module(name)
    crops = torch.zeros(2, 3, CROP_SIZE, CROP_SIZE)
    # torch's exporter says that it does without torchvision, and warns of its own code.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        file = Path(folder) / "meon.onnx"
        shapes = {"crops": {0: torch.export.Dim("n")}}
        torch.onnx.export(
            _Quality().eval(), (crops,), file, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False
        )
        return file.read_bytes()


@functools.cache
def _session(threads: int) -> Any:
    runtime = _module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    return runtime.InferenceSession(onnx_file(), options, providers=["CPUExecutionProvider"])


def onnx_forward(crops: NDArray[np.float32], batch: int, threads: int) -> Run:
    session = _session(threads)
    parts = [crops[start : start + batch] for start in range(0, len(crops), batch)]
    return _proven(lambda: np.concatenate([session.run(None, {"crops": part})[0] for part in parts]))


def onnx_photo(image: NDArray[np.uint8], boxes: NDArray[np.int64], batch: int, threads: int) -> Run:
    session = _session(threads)
    parts = [boxes[start : start + batch].tolist() for start in range(0, len(boxes), batch)]

    def crops(part: list[list[int]]) -> NDArray[np.float32]:
        cut = np.stack([image[y0:y1, x0:x1] for x0, y0, x1, y1 in part])
        return np.ascontiguousarray(cut.transpose(0, 3, 1, 2), dtype=np.float32)

    return _proven(lambda: np.concatenate([session.run(None, {"crops": crops(part)})[0] for part in parts]))
