"""Which ops tensors on CUDA go to, without a GPU: fake tensors have shapes, types and a device, and no data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from meon_ext import _score_crops, ops
from meon_ext.model import MEON

OPS = torch.ops.meon_ext


class Calls(TorchDispatchMode):
    """The names of the ops that do the work; views, copies and allocations are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name.startswith(("conv", "crop_conv", "extract", "gdn", "max_pool", "score")):
            self.names.append(name)
            self.dtypes.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def on_fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (ops, _score_crops):
        monkeypatch.setattr(module, "CUDA_STATUS", "loaded")
    with FakeTensorMode(), torch.no_grad():  # without a device autograd cannot record what is on it
        yield


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda")


def parameters(stage: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    channels = (8, 16, 32, 64)[stage]
    weight = {0: (8, 3, 5, 5), 1: (16, 8, 5, 5), 2: (32, 16, 5, 5), 3: (64, 32, 3, 3)}[stage]
    return [empty(*s, dtype=dtype) for s in (weight, (channels,), (channels,), (channels, channels))]


SIZES = [(2, 2), (2, 2), (2, 2), (1, 0)]  # stride and padding
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stage", range(4))
def test_the_stages_of_meon_are_one_op(stage: int, dtype: torch.dtype) -> None:
    weight, *rest = parameters(stage, dtype)
    with Calls() as calls:
        y = ops.conv_gdn_pool(empty(3, weight.shape[1], 24, 20, dtype=dtype), weight, *rest, *SIZES[stage])
    assert calls.names == ["conv_gdn_pool"]
    assert (y.shape[:2], y.dtype, y.device.type) == ((3, weight.shape[0]), dtype, "cuda")


@pytest.mark.parametrize(
    "options",
    [{"stride": 1}, {"stride": (2, 1)}, {"padding": 1}, {"padding": (2, 0)}, {"pool": 3}, {"pool": 1}, {"width": 9}],
    ids=str,
)
def test_other_stages_are_torchs_convolution_around_gdn(options: dict[str, Any]) -> None:
    width = options.pop("width", 8)
    rest = [empty(width, 3, 5, 5), empty(width), empty(width), empty(width, width)]
    with Calls() as calls:
        ops.conv_gdn_pool(empty(2, 3, 24, 20), *rest, **({"stride": 2, "padding": 2} | options))
    pooled = ["max_pool2d_with_indices"] if options.get("pool") != 1 else []
    assert calls.names == ["convolution", "gdn", *pooled]


def test_float64_is_torchs_convolution_around_gdn() -> None:
    with Calls() as calls:
        ops.conv_gdn_pool(empty(2, 3, 24, 20, dtype=torch.float64), *parameters(0, torch.float64), 2, 2)
    assert calls.names[:2] == ["convolution", "gdn"]


@pytest.mark.parametrize("boxes_on", ["cuda", "cpu"])
def test_crops_are_read_where_they_lie(boxes_on: str) -> None:
    boxes = torch.empty(7, 4, dtype=torch.int64, device=boxes_on)
    arguments = (empty(40, 50, 3, dtype=torch.uint8), boxes, *parameters(0), 2, 2)
    if boxes_on == "cpu":  # these are looked at, and fake ones hold no numbers
        with pytest.raises(torch._subclasses.fake_tensor.DataDependentOutputException):
            ops.crop_conv_gdn_pool(*arguments, crop=16)
        return
    with Calls() as calls:
        y = ops.crop_conv_gdn_pool(*arguments, crop=16)
    assert calls.names == ["crop_conv_gdn_pool"] and y.shape == (7, 8, 4, 4)
    with pytest.raises(ValueError, match="do not fit"):
        ops.crop_conv_gdn_pool(*arguments, crop=41)


def test_crops_for_other_stages_are_cut_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(image: Tensor, boxes: Tensor, sides: list[int], dtype: torch.dtype) -> Tensor:
        return empty(boxes.shape[0], image.shape[2], *sides, dtype=dtype)  # indexing needs the device itself

    monkeypatch.setattr(ops, "_gather_crops", gather)
    boxes = torch.empty(7, 4, dtype=torch.int64, device="cuda")
    with Calls() as calls:
        ops.crop_conv_gdn_pool(empty(40, 50, 8, dtype=torch.uint8), boxes, *parameters(1), 2, 2, crop=16)
        ops.crop_conv_gdn_pool(empty(40, 50, 3, dtype=torch.uint8), boxes, *parameters(0), 1, 2, crop=16)
    assert calls.names == ["conv_gdn_pool", "convolution", "gdn", "max_pool2d_with_indices"]


def test_extract_crops_is_an_op() -> None:
    with Calls() as calls:
        assert ops.extract_crops(empty(40, 50, 3), 16, 8).shape == (4 * 6, 3, 16, 16)
    assert calls.names == ["extract_crops"]


def test_nothing_is_kept_for_the_backward() -> None:
    x, p, sizes = empty(2, 3, 24, 20), parameters(0), ([2, 2], [2, 2], 2)
    y, kept = OPS.conv_gdn_pool_train(x, *p, *sizes)
    assert kept.shape == (0,) and kept.device == x.device
    grads = OPS.conv_gdn_pool_backward(y, x, *p, *sizes, True, kept)
    assert [g.shape for g in grads] == [t.shape for t in (x, *p)]
    image, boxes = empty(40, 50, 3, dtype=torch.uint8), torch.empty(7, 4, dtype=torch.int64, device="cuda")
    y, kept = OPS.crop_conv_gdn_pool_train(image, boxes, *p, [16, 16], *sizes)
    assert kept.shape == (0,) and y.shape == (7, 8, 4, 4)


@pytest.mark.parametrize("stride", [2, 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_autocast_runs_stages_in_float32_and_float64_as_it_is(dtype: torch.dtype, stride: int) -> None:
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    fused = stride == 2 and kept == torch.float32
    torch.set_autocast_enabled("cuda", True)  # torch.autocast is off where there is no device
    try:
        with Calls() as calls:
            y = ops.conv_gdn_pool(empty(2, 3, 24, 20, dtype=dtype), *parameters(0, kept), stride, 2)
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()
    assert calls.names[0] == ("conv_gdn_pool" if fused else "convolution")
    assert y.dtype == kept and set(calls.dtypes) == {kept}


def test_meon_is_four_stages_and_two_gdn() -> None:
    model = MEON()
    on_cuda = {name: empty(*parameter.shape) for name, parameter in model.named_parameters()}
    with Calls() as calls:
        answer = torch.func.functional_call(model, on_cuda, (empty(6, 3, 256, 256),))
    assert calls.names == 4 * ["conv_gdn_pool"] + 2 * ["gdn"]
    assert answer.quality.shape == (6,)


def test_a_grid_of_crops_through_the_whole_network_is_one_op() -> None:
    parameters = {name: empty(*t.shape) for name, t in MEON(5).effective_tensors().items()}
    on_cpu = ops.crop_plan([0, 44], [0, 100, 128])
    plan = ops.CropPlan(*([empty(*t.shape, dtype=torch.int32) for t in axis] for axis in on_cpu))
    for shape in ((2, 300, 384, 3), (2, 3, 300, 384)):
        with Calls() as calls:
            quality, probabilities = ops.score_crops(empty(*shape, dtype=torch.uint8), plan, parameters)
        assert calls.names == ["score_crops"]
        assert (quality.shape, probabilities.shape, quality.device.type) == ((2, 6), (2, 6, 5), "cuda")
    with pytest.raises(ValueError, match="257 distortion types"):
        many = {name: empty(*t.shape) for name, t in MEON(257).effective_tensors().items()}
        ops.score_crops(empty(300, 384, 3, dtype=torch.uint8), plan, many)
