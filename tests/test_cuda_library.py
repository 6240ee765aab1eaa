"""libmeon_torch_cuda.so as far as a machine without a GPU can show: that it loads, registers and says what is wrong."""

from __future__ import annotations

import re

import pytest
import torch

from meon_ext import MEON, _native, ops
from meon_ext.errors import NativeError

X, VECTOR, SQUARE = torch.randn(2, 3, 12, 12), torch.ones(8), torch.rand(8, 8)
STAGE = (torch.randn(8, 3, 5, 5), VECTOR, VECTOR, SQUARE)
SIZES = ([2, 2], [2, 2], 2)
IMAGE, BOXES = torch.zeros(20, 20, 3, dtype=torch.uint8), torch.tensor([[0, 0, 12, 12]])
CROPS = (IMAGE, BOXES, *STAGE, [12, 12], *SIZES)

PLAN = ops.crop_plan([0], [0])
NETWORK = list(MEON(3).effective_tensors().values())

# Each op with arguments that are right but for the device.
OPS: dict[str, tuple[object, ...]] = {
    "gdn": (X, torch.ones(3), torch.rand(3, 3)),
    "gdn_backward": (X, X, torch.ones(3), torch.rand(3, 3)),
    "conv_gdn_pool": (X, *STAGE, *SIZES),
    "conv_gdn_pool_train": (X, *STAGE, *SIZES),
    "conv_gdn_pool_backward": (torch.randn(2, 8, 3, 3), X, *STAGE, *SIZES, True),
    "crop_conv_gdn_pool": CROPS,
    "crop_conv_gdn_pool_train": CROPS,
    "crop_conv_gdn_pool_backward": (torch.randn(1, 8, 3, 3), *CROPS),
    "extract_crops": (IMAGE, 12, 4, False),
    "extract_crops_backward": (torch.randn(9, 3, 12, 12), 20, 20, 4),
    "score_crops": (torch.zeros(1, 256, 256, 3, dtype=torch.uint8), PLAN.rows, PLAN.columns, NETWORK),
}

built = pytest.mark.skipif(
    not _native.CUDA_LIBRARY.is_file(), reason=f"{_native.CUDA_LIBRARY.name} was not built (no nvcc, or MEON_CUDA=off)"
)
cuda_torch = pytest.mark.skipif(torch.version.cuda is None, reason=f"torch {torch.__version__} is a build without CUDA")
cpu_torch = pytest.mark.skipif(torch.version.cuda is not None, reason=f"torch {torch.__version__} is a build with CUDA")


@built
@cuda_torch
def test_loads_beside_a_cuda_build_of_torch() -> None:
    assert _native.load_ops() == ops.CUDA_STATUS == "loaded"
    for op in OPS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"meon_ext::{op}", "CUDA"), op


@built
@cuda_torch
@pytest.mark.parametrize("op", OPS)
def test_cuda_kernels_refuse_memory_of_the_cpu(op: str) -> None:
    """Past the dispatcher, which would never do this: the kernel itself must look before it hands out a pointer."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    with pytest.raises(RuntimeError, match=re.escape('is not on a CUDA device; move it with .to("cuda")')):
        getattr(torch.ops.meon_ext, op).default.redispatch(keys, *OPS[op])


@built
@cuda_torch
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_torch_says_so_and_the_cpu_works() -> None:
    x = torch.randn(2, 3)
    with pytest.raises(RuntimeError, match=r"NVIDIA|CUDA"):
        x.cuda()
    assert ops.gdn(x, torch.ones(3), torch.rand(3, 3)).shape == x.shape


@built
@cpu_torch
def test_is_not_tried_beside_a_cpu_build_of_torch() -> None:
    assert "build without CUDA" in _native.load_ops()
    for op in OPS:
        assert not torch._C._dispatch_has_kernel_for_dispatch_key(f"meon_ext::{op}", "CUDA"), op
    with pytest.raises(NativeError, match=r"libmeon_torch_cuda\.so does not load beside torch .* \(CUDA none\)"):
        _native._load(_native.CUDA_LIBRARY, torch.__version__)


@built
def test_says_what_it_was_built_for() -> None:
    architectures = _native._cuda_architectures()
    assert architectures and all(re.fullmatch(r"\d+[af]?(-real|-virtual)?", name) for name in architectures)


@pytest.mark.skipif(_native.CUDA_LIBRARY.is_file(), reason=f"{_native.CUDA_LIBRARY.name} was built")
def test_its_absence_is_explained() -> None:
    assert ops.CUDA_STATUS != "loaded"
    wanted = "build without CUDA" if torch.version.cuda is None else "meon_ext was built without CUDA"
    assert wanted in ops.CUDA_STATUS
    for op in OPS:
        assert not torch._C._dispatch_has_kernel_for_dispatch_key(f"meon_ext::{op}", "CUDA"), op
