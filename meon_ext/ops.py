"""Differentiable ops for PyTorch, run by the native kernels.

Each function checks its arguments, then calls a ``torch.ops.meon_ext`` op with fake, autograd and autocast kernels, so
all of them work under ``torch.compile``, ``torch.export`` and autocast. :mod:`meon_ext.reference` has the same
functions in plain PyTorch.

On the CPU: float32 and float64. Under autocast the ops run in float32 (float64 stays float64), as torch's own
normalisations do, because GDN squares and sums its input. On CUDA also bfloat16 and float16, summed in float32. There
``gdn`` is one kernel for every shape, and ``conv_gdn_pool`` and ``crop_conv_gdn_pool`` are one for the stages of MEON;
other shapes, and float64, are torch's own convolution and pooling around ``gdn``.

``score_crops`` is the whole network over a grid of crops, without gradients.

Gradients of gradients are computed through :mod:`meon_ext.reference`: right to any order, not fast. So are derivatives
in forward mode (``torch.func.jvp``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from meon_ext import _native, reference
from meon_ext._score_crops import CropPlan, crop_plan, score_crops
from meon_ext._tangents import has_tangent
from meon_ext.errors import NativeError

__all__ = ["CropPlan", "conv_gdn_pool", "crop_conv_gdn_pool", "crop_plan", "extract_crops", "gdn", "score_crops"]

CUDA_STATUS = _native.load_ops()
"""``"loaded"`` when the CUDA kernels are registered, otherwise why they are not."""

_OPS = torch.ops.meon_ext
_CPU_DTYPES = (torch.float32, torch.float64)
_CUDA_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_NATIVE_DEVICES = ("cpu", "meta")
_SIDE_LIMIT = 1 << 31  # that of csrc/torch/checks.h

# weight's shape, stride and padding of the stages that the fused CUDA kernels are compiled for: csrc/core/layers.h.
_CUDA_STAGES = (
    ((8, 3, 5, 5), 2, 2),
    ((16, 8, 5, 5), 2, 2),
    ((32, 16, 5, 5), 2, 2),
    ((64, 32, 3, 3), 1, 0),
)
_CUDA_LARGEST_SIDE = 1 << 30
_LIBRARY_LARGEST_POOL = 6  # kGdnMaxPool of csrc/cpu/gdn_tiles.h
_LIBRARY_LARGEST = 1024  # kLibraryLargest of csrc/torch/library_stage.h


# --- checks ------------------------------------------------------------------------------------------------------


def _shape(t: Tensor) -> str:
    return f"({', '.join(str(size) for size in t.shape)})"


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}; convert it with torch.as_tensor()")


def _check_parameters(leader: str, first: Tensor, **others: Tensor) -> None:
    """All on the first one's device, of its dtype; autocast will bring floating dtypes together by itself."""
    for name, value in {leader: first, **others}.items():
        _check_tensor(name, value)
        if value.layout is not torch.strided:
            raise TypeError(f"{name} has layout {value.layout}; convert it with .to_dense()")
        if value.device != first.device:
            raise ValueError(
                f"{name} is on {value.device} but {leader} is on {first.device}; move one with .to(device)"
            )
    device = first.device.type
    casting = _is_casting(device)
    allowed = _CUDA_DTYPES if device == "cuda" or casting else _CPU_DTYPES
    for name, value in {leader: first, **others}.items():
        if value.dtype not in allowed:
            raise TypeError(
                f"{name} has dtype {value.dtype}, which this op does not take on {device}; convert it with .float()"
            )
        same = value.dtype == first.dtype
        if casting:  # float64 is left alone by autocast, everything else becomes float32
            same = (value.dtype == torch.float64) == (first.dtype == torch.float64)
        if not same:
            raise TypeError(
                f"{name} has dtype {value.dtype} but {leader} has {first.dtype}; convert one with .to(dtype)"
            )


def _check_vector(name: str, value: Tensor, size: int, what: str) -> None:
    if value.dim() != 1 or value.shape[0] != size:
        raise ValueError(f"{name} has shape {_shape(value)}; it must be ({size},), one entry for each {what}")


def _check_gdn_parameters(beta: Tensor, gamma: Tensor, channels: int, what: str) -> None:
    _check_vector("beta", beta, channels, what)
    if gamma.dim() != 2 or gamma.shape[0] != channels or gamma.shape[1] != channels:
        raise ValueError(
            f"gamma has shape {_shape(gamma)}; it must be ({channels}, {channels}): row i weighs the squares of all "
            f"channels in the norm of {what} i"
        )


def _integer(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def _pair(name: str, value: int | Sequence[int], least: int) -> list[int]:
    if isinstance(value, int):
        value = (value, value)
    if not isinstance(value, Sequence) or len(value) != 2:
        raise TypeError(f"{name} must be an integer or a pair (vertical, horizontal), got {value!r}")
    pair = [_integer(name, item, least) for item in value]
    if max(pair) >= _SIDE_LIMIT:
        raise ValueError(f"{name} must be below 2^31 pixels, got {max(pair)}")
    return pair


def _pooled_size(
    height: int, width: int, weight: Tensor, stride: list[int], padding: list[int], pool: int
) -> tuple[int, int]:
    """Height and width after convolution and pooling. Raises ValueError where nothing would be left."""
    sides = []
    for axis, size, d in (("height", height, 0), ("width", width, 1)):
        kernel = weight.shape[2 + d]
        padded = size + 2 * padding[d]
        if padded < kernel:
            raise ValueError(
                f"the input's {axis} is {size}, {padded} with padding, which is less than the kernel's {kernel}; use a "
                f"larger input or more padding"
            )
        conv = (padded - kernel) // stride[d] + 1
        if conv < pool:
            raise ValueError(
                f"the convolution leaves {conv} pixels along the {axis}, less than one pool window of {pool}; use a "
                f"larger input or a smaller pool"
            )
        sides.append(conv // pool)
    return sides[0], sides[1]


def _check_conv(in_channels: int, weight: Tensor, bias: Tensor, beta: Tensor, gamma: Tensor) -> None:
    if weight.dim() != 4 or weight.shape[1] != in_channels or 0 in weight.shape:
        raise ValueError(
            f"weight has shape {_shape(weight)}; it must be (out_channels, {in_channels}, kernel_h, kernel_w), none of "
            f"them 0: the input has {in_channels} channels"
        )
    _check_vector("bias", bias, weight.shape[0], "output channel")
    _check_gdn_parameters(beta, gamma, weight.shape[0], "output channel")


def _check_device(op: str, device: torch.device) -> None:
    if device.type == "cuda" and CUDA_STATUS != "loaded":
        raise NativeError(f"{op} has no CUDA kernel here: {CUDA_STATUS}. Or use meon_ext.reference.{op}")
    if device.type not in (*_NATIVE_DEVICES, "cuda"):
        raise ValueError(f"{op} does not run on {device.type}; move the tensors to the CPU or use meon_ext.reference")


def _has_native_stage(weight: Tensor, sides: Sequence[int], stride: list[int], padding: list[int], pool: int) -> bool:
    """Whether a native kernel takes a stage over inputs of ``sides`` (height, width). On the CPU it does."""
    if weight.device.type in _NATIVE_DEVICES:
        return True
    if weight.dtype == torch.float64 or pool != 2 or max(sides) > _CUDA_LARGEST_SIDE:
        return False
    return any(tuple(weight.shape) == shape and stride == [s, s] and padding == [p, p] for shape, s, p in _CUDA_STAGES)


def _is_casting(device: str) -> bool:
    return device in ("cpu", "cuda") and torch.is_autocast_enabled(device)


def _without_autocast(device: str) -> AbstractContextManager[object]:
    return torch.autocast(device, enabled=False) if _is_casting(device) else nullcontext()


def _in_float32(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Of torch's own operations what autocast makes of an op of ours: float32, or float64 as it is. The first argument
    is a tensor."""
    device = arguments[0].device.type
    if _is_casting(device) and arguments[0].dtype != torch.float64:
        arguments = tuple(t.float() if isinstance(t, Tensor) else t for t in arguments)
    with _without_autocast(device):
        return function(*arguments)


# --- the ops -----------------------------------------------------------------------------------------------------


def gdn(x: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
    """Generalized divisive normalization (Ballé, Laparra and Simoncelli, ICLR 2016).

    ``y[:, i] = x[:, i] / sqrt(beta[i] + sum_j gamma[i, j] * x[:, j] ** 2)``

    Args:
        x: (N, C, H, W) or (N, C).
        beta: (C,), above 0 (or 0 where the sum never is).
        gamma: (C, C), not negative, not necessarily symmetric.

    Returns:
        x's shape and dtype; channels_last where x is.

    Raises:
        TypeError: a dtype or layout that the op does not take.
        ValueError: shapes or devices that do not fit together.
        NativeError: x is on CUDA and the CUDA kernels are not loaded.
    """
    _check_tensor("x", x)
    _check_parameters("x", x, beta=beta, gamma=gamma)
    if x.dim() not in (2, 4):
        raise ValueError(f"x has shape {_shape(x)}; it must be (N, C, H, W) or (N, C)")
    _check_gdn_parameters(beta, gamma, x.shape[1], "channel")
    _check_device("gdn", x.device)
    if has_tangent(x, beta, gamma):
        return _in_float32(reference.gdn, x, beta, gamma)
    return _OPS.gdn(x, beta, gamma)  # type: ignore[no-any-return]


def conv_gdn_pool(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    beta: Tensor,
    gamma: Tensor,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    pool: int = 2,
) -> Tensor:
    """Convolution + bias, GDN and max-pool as one op: a stage of MEON.

    Args:
        x: (N, Cin, H, W).
        weight: (Cout, Cin, Kh, Kw), any kernel size.
        bias: (Cout,).
        beta: (Cout,), as in :func:`gdn`.
        gamma: (Cout, Cout), as in :func:`gdn`.
        stride: Of the convolution, pixels: one number or (vertical, horizontal).
        padding: Zeros around the input, pixels: one number or (vertical, horizontal).
        pool: Side of the pool windows and their stride; 1 for none. Rows and columns that fill no window are dropped.

    Returns:
        (N, Cout, Hp, Wp), of x's dtype, ``Hp = ((H + 2 padding - Kh) // stride + 1) // pool``. It and the
        gradient of x are contiguous where a kernel of ours convolves: at the stages of MEON, and on the CPU in float64
        and of small maps (64 output channels of at most as many, sides of at most 8 pixels, a kernel of at most 3 x 3,
        no padding). Where torch's own convolution does, they are channels_last if x is, and the gradient of weight is
        if weight is.

    Raises:
        TypeError, ValueError, NativeError: as :func:`gdn`.
    """
    _check_tensor("x", x)
    _check_parameters("x", x, weight=weight, bias=bias, beta=beta, gamma=gamma)
    if x.dim() != 4:
        raise ValueError(f"x has shape {_shape(x)}; it must be (N, in_channels, H, W)")
    _check_conv(x.shape[1], weight, bias, beta, gamma)
    strides, paddings = _pair("stride", stride, 1), _pair("padding", padding, 0)
    pool = _integer("pool", pool, 1)
    _pooled_size(x.shape[2], x.shape[3], weight, strides, paddings, pool)
    _check_device("conv_gdn_pool", x.device)
    arguments = (x, weight, bias, beta, gamma, strides, paddings, pool)
    if has_tangent(x, weight, bias, beta, gamma):
        return _in_float32(reference.conv_gdn_pool, *arguments)
    if not _has_native_stage(weight, x.shape[2:], strides, paddings, pool):
        return _in_float32(_library_stage, *arguments)
    if _will_go_backward(x, weight, bias, beta, gamma):
        y, _ = _OPS.conv_gdn_pool_train(*arguments)
        return y  # type: ignore[no-any-return]
    return _OPS.conv_gdn_pool(*arguments)  # type: ignore[no-any-return]


def _library_stage(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    beta: Tensor,
    gamma: Tensor,
    stride: list[int],
    padding: list[int],
    pool: int,
) -> Tensor:
    """A stage by torch's own convolution and pooling around ``gdn``."""
    y = gdn(F.conv2d(x, weight, bias, stride, padding), beta, gamma)
    return F.max_pool2d(y, pool) if pool > 1 else y


def extract_crops(image: Tensor, size: int = 256, stride: int = 128, *, dtype: torch.dtype | None = None) -> Tensor:
    """All crops of an image on MEON's grid, the last row and column flush with the border.

    Args:
        image: (H, W, C), uint8, float32 or float64; a float image is differentiable.
        size: Side of a crop, pixels.
        stride: Pixels from one crop to the next.
        dtype: Of the crops of a uint8 image: float32 (where it is not given) or float64. A float image keeps its own.

    Returns:
        (K, C, size, size), contiguous, top to bottom then left to right, values as they were (0..255).

    Raises:
        TypeError, ValueError: a dtype or shape the op does not take, or an image smaller than a crop.
    """
    _check_tensor("image", image)
    size, stride = _integer("size", size, 1), _integer("stride", stride, 1)
    if image.dtype not in (torch.uint8, *_CPU_DTYPES):
        raise TypeError(f"image has dtype {image.dtype}; it must be uint8, float32 or float64")
    if dtype not in ((None, *_CPU_DTYPES) if image.dtype == torch.uint8 else (None, image.dtype)):
        raise TypeError(f"dtype is {dtype}; crops of a {image.dtype} image cannot have it: leave dtype out")
    if image.dim() != 3:
        raise ValueError(f"image has shape {_shape(image)}; it must be (H, W, C)")
    if image.shape[0] < size or image.shape[1] < size:
        raise ValueError(
            f"image is {image.shape[1]} x {image.shape[0]} pixels, smaller than one crop of {size} x {size}; pad it or "
            f"ask for a smaller size"
        )
    _check_device("extract_crops", image.device)
    if has_tangent(image):
        return reference.extract_crops(image, size, stride, dtype=dtype)
    # A stride past the image means one that reaches its end; the kernels multiply it by an index.
    stride = min(stride, 1 << 30)
    return _OPS.extract_crops(image, size, stride, dtype == torch.float64)  # type: ignore[no-any-return]


def crop_conv_gdn_pool(
    image_u8: Tensor,
    boxes: Tensor,
    weight: Tensor,
    bias: Tensor,
    beta: Tensor,
    gamma: Tensor,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    pool: int = 2,
    *,
    crop: int | Sequence[int] | None = None,
) -> Tensor:
    """:func:`conv_gdn_pool` over crops of one uint8 image, read where they lie: no crop is ever materialised.

    Args:
        image_u8: (H, W, Cin), uint8.
        boxes: (K, 4), int64, rows (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; all inside the image, all of one
            size. On the CPU where the image is; for an image on CUDA on either. Boxes on CUDA are not looked at
            beforehand, since that would wait for the device: a wrong one gives NaN.
        weight, bias, beta, gamma, stride, padding, pool: As in :func:`conv_gdn_pool`. Padding is that of the crop:
            pixels of the image beyond a crop's border count as zero.
        crop: Size of the boxes, pixels: one number or (height, width). Read from the boxes where it is not given;
            torch.compile, torch.export and CUDA graphs, and an empty ``boxes``, need it.

    Returns:
        (K, Cout, Hp, Wp), of weight's dtype. Differentiable with respect to the parameters.

    Raises:
        TypeError, ValueError, NativeError: as :func:`gdn`; also a box outside the image or of another size.
    """
    _check_tensor("image_u8", image_u8)
    _check_tensor("boxes", boxes)
    _check_tensor("weight", weight)
    _check_parameters("weight", weight, bias=bias, beta=beta, gamma=gamma)
    if image_u8.dtype != torch.uint8:
        raise TypeError(f"image_u8 has dtype {image_u8.dtype}; it must be uint8")
    if boxes.dtype != torch.int64:
        raise TypeError(f"boxes has dtype {boxes.dtype}; it must be int64")
    if image_u8.dim() != 3:
        raise ValueError(f"image_u8 has shape {_shape(image_u8)}; it must be (H, W, C)")
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes has shape {_shape(boxes)}; it must be (K, 4), rows (x0, y0, x1, y1)")
    if image_u8.device != weight.device:
        raise ValueError(
            f"image_u8 is on {image_u8.device} but weight is on {weight.device}; move one with .to(device)"
        )
    if image_u8.device.type in _NATIVE_DEVICES and boxes.device != image_u8.device:
        raise ValueError(f"boxes is on {boxes.device} but image_u8 is on {image_u8.device}; move one with .to(device)")
    _check_conv(image_u8.shape[2], weight, bias, beta, gamma)
    strides, paddings = _pair("stride", stride, 1), _pair("padding", padding, 0)
    pool = _integer("pool", pool, 1)
    if crop is None:
        if boxes.shape[0] == 0:
            raise ValueError("boxes is empty, so the size of a crop is not known; pass crop=(height, width)")
        x0, y0, x1, y1 = boxes[0].tolist()
        sides = [y1 - y0, x1 - x0]
        if min(sides) < 1:
            raise ValueError(f"boxes[0] is {(x0, y0, x1, y1)}; it must be (x0, y0, x1, y1) with x0 < x1 and y0 < y1")
    else:
        sides = _pair("crop", crop, 1)
    _pooled_size(sides[0], sides[1], weight, strides, paddings, pool)
    if boxes.shape[0] and (sides[0] > image_u8.shape[0] or sides[1] > image_u8.shape[1]):
        raise ValueError(
            f"crops of {sides[1]} x {sides[0]} pixels do not fit in the image of {image_u8.shape[1]} x "
            f"{image_u8.shape[0]}"
        )
    if not torch.compiler.is_compiling() and boxes.device.type != "cuda":
        _check_boxes(boxes, image_u8, sides)
    _check_device("crop_conv_gdn_pool", image_u8.device)
    boxes = boxes.to(image_u8.device)
    native = image_u8.shape[2] == 3 or image_u8.device.type in _NATIVE_DEVICES
    native = native and _has_native_stage(weight, sides, strides, paddings, pool)
    if not native or has_tangent(weight, bias, beta, gamma):
        crops = _gather_crops(image_u8, boxes, sides, weight.dtype)
        return conv_gdn_pool(crops, weight, bias, beta, gamma, strides, paddings, pool)
    arguments = (image_u8, boxes, weight, bias, beta, gamma, sides, strides, paddings, pool)
    if _will_go_backward(weight, bias, beta, gamma):
        y, _ = _OPS.crop_conv_gdn_pool_train(*arguments)
        return y  # type: ignore[no-any-return]
    return _OPS.crop_conv_gdn_pool(*arguments)  # type: ignore[no-any-return]


def _will_go_backward(*tensors: Tensor) -> bool:
    """Whether to keep what the backward would otherwise compute again: 0.5 MB for each crop of MEON's first stage. An
    exported program does not train, whatever its parameters say."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors) and not torch.compiler.is_exporting()


def _gather_crops(image: Tensor, boxes: Tensor, sides: list[int], dtype: torch.dtype) -> Tensor:
    """(K, C, *sides), NaN for a box outside of the image. By indexing, which torch.compile can trace: reading the
    boxes' values it cannot, and a CUDA device would be waited for."""
    rows = boxes[:, 1, None] + torch.arange(sides[0], device=image.device)
    columns = boxes[:, 0, None] + torch.arange(sides[1], device=image.device)
    height, width = image.shape[:2]
    inside = (rows[:, 0] >= 0) & (columns[:, 0] >= 0) & (boxes[:, 3] <= height) & (boxes[:, 2] <= width)
    good = inside & (boxes[:, 3] - boxes[:, 1] == sides[0]) & (boxes[:, 2] - boxes[:, 0] == sides[1])
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    crops = image[rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).to(dtype)
    return crops.where(good[:, None, None, None], torch.nan).contiguous()


def _check_boxes(boxes: Tensor, image: Tensor, sides: list[int]) -> None:
    if boxes.device.type == "meta" or boxes.shape[0] == 0:
        return
    height, width = image.shape[0], image.shape[1]
    x0, y0, x1, y1 = boxes.unbind(1)
    good = (x0 >= 0) & (y0 >= 0) & (x1 <= width) & (y1 <= height) & (y1 - y0 == sides[0]) & (x1 - x0 == sides[1])
    if not bool(good.all()):
        k = int((~good).nonzero()[0])
        raise ValueError(
            f"boxes[{k}] is {tuple(boxes[k].tolist())}; every box must be (x0, y0, x1, y1), {sides[1]} x {sides[0]} "
            f"pixels (the size of the first, or crop=), inside the image of {width} x {height}"
        )


# --- fake kernels: shapes, dtypes and strides without data --------------------------------------------------------


def _is_channels_last_only(x: Tensor) -> bool:
    """The rule of csrc/torch/checks.h: channels_last stays as it is, everything else comes out contiguous."""
    if x.dim() != 4 or x.is_contiguous():
        return False
    _, c, h, w = x.shape
    return x.stride() == (h * w * c, 1, w * c, c)


def _empty_laid_out(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Of that shape, laid out as x is by that rule."""
    if _is_channels_last_only(x):
        return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return torch.empty(shape, dtype=x.dtype, device=x.device)


def _empty_like_gdn(x: Tensor) -> Tensor:
    return _empty_laid_out(x, x.shape)


def _check_one_device(*tensors: Tensor) -> None:
    """CPU tensors mixed with meta ones come here, to return as memory that nobody wrote."""
    devices = {t.device for t in tensors}
    if len(devices) > 1:
        names = " and ".join(sorted(map(str, devices)))
        raise RuntimeError(f"the tensors are on different devices, {names}; move them to one with .to(device)")


@torch.library.register_fake("meon_ext::gdn")
def _(x: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
    _check_one_device(x, beta, gamma)
    return _empty_like_gdn(x)


@torch.library.register_fake("meon_ext::gdn_backward")
def _(grad: Tensor, x: Tensor, beta: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    _check_one_device(grad, x, beta, gamma)
    return _empty_like_gdn(x), beta.new_empty(beta.shape), gamma.new_empty(gamma.shape)


@torch.library.register_fake("meon_ext::conv_gdn_pool")
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    beta: Tensor,
    gamma: Tensor,
    stride: list[int],
    padding: list[int],
    pool: int,
) -> Tensor:
    _check_one_device(x, weight, bias, beta, gamma)
    return _empty_output(x, weight, stride, padding, pool)


def _has_simd_stage(weight: Tensor, stride: list[int], padding: list[int], pool: int) -> bool:
    """As csrc/cpu/simd_stage.cpp has it, but for empty batches."""
    options = (stride, padding, pool)
    return weight.shape[0] in (8, 16, 32) and tuple(weight.shape[2:]) == (5, 5) and options == ([2, 2], [2, 2], 2)


def _has_matrix_stage(x: Tensor, weight: Tensor, padding: list[int], pool: int) -> bool:
    """As csrc/cpu/matrix_stage.cpp has it."""
    out_channels, in_channels, *kernel = weight.shape
    if out_channels != 64 or in_channels > 64 or max(kernel) > 3 or padding != [0, 0] or pool > 2:
        return False
    return x.shape[2] <= 8 and x.shape[3] <= 8


def _has_library_stage(x: Tensor, weight: Tensor, stride: list[int], padding: list[int], pool: int) -> bool:
    """As csrc/torch/library_stage.h has it."""
    if x.device.type == "cuda" or x.dtype != torch.float32 or pool > _LIBRARY_LARGEST_POOL:
        return False
    if max(*weight.shape[2:], *stride, *padding) > _LIBRARY_LARGEST or _has_simd_stage(weight, stride, padding, pool):
        return False
    return not _has_matrix_stage(x, weight, padding, pool) and x.numel() > 0


def _empty_output(x: Tensor, weight: Tensor, stride: list[int], padding: list[int], pool: int) -> Tensor:
    size = _pooled_size(x.shape[2], x.shape[3], weight, stride, padding, pool)
    shape = (x.shape[0], weight.shape[0], *size)
    library = _has_library_stage(x, weight, stride, padding, pool)
    return _empty_laid_out(x, shape) if library else x.new_empty(shape)


def _empty_kept(like: Tensor, batch: int, width: int, weight: Tensor, size: tuple[int, int], *options: Any) -> Tensor:
    """What csrc/cpu/simd_stage.cpp keeps for the backward, by its formula: numbers in an order of its own. CUDA keeps
    nothing."""
    if like.device.type == "cuda" or weight.dtype != torch.float32 or not _has_simd_stage(weight, *options):
        return like.new_empty(0)
    pitch = (width + 3) // 4
    group = 16 // pitch if pitch <= 16 else 1
    columns = (pitch * group + 15) // 16 * 16
    return like.new_empty((batch + group - 1) // group * size[0] * 4 * weight.shape[0] * columns)


@torch.library.register_fake("meon_ext::conv_gdn_pool_train")
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    beta: Tensor,
    gamma: Tensor,
    stride: list[int],
    padding: list[int],
    pool: int,
) -> tuple[Tensor, Tensor]:
    _check_one_device(x, weight, bias, beta, gamma)
    y = _empty_output(x, weight, stride, padding, pool)
    options = (stride, padding, pool)
    on_cpu = x.device.type != "cuda" and x.dtype == torch.float32
    if on_cpu and (_has_matrix_stage(x, weight, padding, pool) or _has_library_stage(x, weight, *options)):
        # The convolution's output.
        height, width = _pooled_size(x.shape[2], x.shape[3], weight, stride, padding, 1)
        return y, x.new_empty(x.shape[0] * weight.shape[0] * height * width)
    size = (y.shape[2], y.shape[3])
    return y, _empty_kept(x, x.shape[0], x.shape[3], weight, size, stride, padding, pool)


def _parameter_gradients(weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    c = weight.shape[0]
    return weight.new_empty(weight.shape), weight.new_empty(c), weight.new_empty(c), weight.new_empty(c, c)


@torch.library.register_fake("meon_ext::conv_gdn_pool_backward")
def _(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    beta: Tensor,
    gamma: Tensor,
    stride: list[int],
    padding: list[int],
    pool: int,
    input_grad: bool,
    kept: Tensor | None = None,
) -> tuple[Tensor, ...]:
    _check_one_device(grad, x, weight, bias, beta, gamma, *(() if kept is None else (kept,)))
    grad_weight, *others = _parameter_gradients(weight)
    if not _has_library_stage(x, weight, stride, padding, pool):
        return x.new_empty(x.shape if input_grad else (0,)), grad_weight, *others
    return _empty_like_gdn(x) if input_grad else x.new_empty(0), _empty_like_gdn(weight), *others


@torch.library.register_fake("meon_ext::crop_conv_gdn_pool")
def _(
    image: Tensor,
    boxes: Tensor,
    weight: Tensor,
    bias: Tensor,
    beta: Tensor,
    gamma: Tensor,
    crop: list[int],
    stride: list[int],
    padding: list[int],
    pool: int,
) -> Tensor:
    _check_one_device(image, boxes, weight, bias, beta, gamma)
    size = _pooled_size(crop[0], crop[1], weight, stride, padding, pool)
    return weight.new_empty((boxes.shape[0], weight.shape[0], *size))


@torch.library.register_fake("meon_ext::crop_conv_gdn_pool_train")
def _(
    image: Tensor,
    boxes: Tensor,
    weight: Tensor,
    bias: Tensor,
    beta: Tensor,
    gamma: Tensor,
    crop: list[int],
    stride: list[int],
    padding: list[int],
    pool: int,
) -> tuple[Tensor, Tensor]:
    _check_one_device(image, boxes, weight, bias, beta, gamma)
    size = _pooled_size(crop[0], crop[1], weight, stride, padding, pool)
    y = weight.new_empty((boxes.shape[0], weight.shape[0], *size))
    return y, _empty_kept(weight, boxes.shape[0], crop[1], weight, size, stride, padding, pool)


@torch.library.register_fake("meon_ext::crop_conv_gdn_pool_backward")
def _(
    grad: Tensor,
    image: Tensor,
    boxes: Tensor,
    weight: Tensor,
    bias: Tensor,
    beta: Tensor,
    gamma: Tensor,
    crop: list[int],
    stride: list[int],
    padding: list[int],
    pool: int,
    kept: Tensor | None = None,
) -> tuple[Tensor, ...]:
    _check_one_device(grad, image, boxes, weight, bias, beta, gamma, *(() if kept is None else (kept,)))
    return _parameter_gradients(weight)


@torch.library.register_fake("meon_ext::extract_crops")
def _(image: Tensor, size: int, stride: int, double_out: bool) -> Tensor:
    rows, columns = (-(-(side - size) // stride) + 1 for side in image.shape[:2])
    dtype = image.dtype
    if dtype == torch.uint8:
        dtype = torch.float64 if double_out else torch.float32
    return image.new_empty((rows * columns, image.shape[2], size, size), dtype=dtype)


@torch.library.register_fake("meon_ext::extract_crops_backward")
def _(grad: Tensor, height: int, width: int, stride: int) -> Tensor:
    return grad.new_empty((height, width, grad.shape[1]))


# --- autograd ----------------------------------------------------------------------------------------------------


def _second_order(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor, cotangents: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The derivative of a backward op, by way of the reference.

    ``first = d function(*inputs)[grad] / d inputs``; returns the gradients of ``sum(first * cotangents)`` with respect
    to the inputs and to ``grad``. Stays connected to the graph where autograd records, so a third derivative is right.
    """
    recording = torch.is_grad_enabled()
    # Autocast would have the reference convolve and multiply in half precision, and the sum's dtype would not tell.
    with torch.enable_grad(), _without_autocast(grad.device.type):
        # Aliases, so that a gradient stops here instead of running on into what the inputs were computed from.
        variables = [
            t.view_as(t) if recording and t.requires_grad else t.detach().requires_grad_() for t in (*inputs, grad)
        ]
        output = function(*variables[:-1])
        first = torch.autograd.grad(output, variables[:-1], variables[-1], create_graph=True)
        kept = [(f, c) for f, c in zip(first, cotangents, strict=True) if c is not None]
        return list(
            torch.autograd.grad(
                [f for f, _ in kept], variables, [c for _, c in kept], create_graph=recording, allow_unused=True
            )
        )


def _save_all(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Tensors are saved in the order of the arguments, whatever else there is becomes ``ctx.options``."""
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
    ctx.options = tuple(value for value in inputs if not isinstance(value, Tensor))


def _save_all_and_kept(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """For the training forwards: the same, and what they keep last of all."""
    _, kept = output
    ctx.mark_non_differentiable(kept)
    ctx.set_materialize_grads(False)  # else zeros would be made for kept, megabytes of them
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)), kept)
    ctx.options = tuple(value for value in inputs if not isinstance(value, Tensor))


def _save_all_but_kept(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """For their backwards, whose last argument the others determine."""
    _save_all(ctx, inputs[:-1], output)


def _gdn_backward(ctx: Any, grad: Tensor) -> Any:
    return _OPS.gdn_backward(grad, *ctx.saved_tensors)


def _gdn_double_backward(ctx: Any, *cotangents: Tensor) -> Any:
    grad, *inputs = ctx.saved_tensors
    *grads, grad_grad = _second_order(reference.gdn, inputs, grad, cotangents)
    return grad_grad, *grads


def _conv_backward(ctx: Any, grad: Tensor) -> Any:
    input_grad = ctx.needs_input_grad[0]
    grad_x, *grads = _OPS.conv_gdn_pool_backward(grad, *ctx.saved_tensors, *ctx.options, input_grad)
    return grad_x if input_grad else None, *grads, None, None, None


def _conv_train_backward(ctx: Any, grad: Tensor | None, _: Any) -> Any:
    if grad is None:
        return (None,) * 8
    input_grad = ctx.needs_input_grad[0]
    *saved, kept = ctx.saved_tensors
    grad_x, *grads = _OPS.conv_gdn_pool_backward(grad, *saved, *ctx.options, input_grad, kept)
    return grad_x if input_grad else None, *grads, None, None, None


def _conv_double_backward(ctx: Any, *cotangents: Tensor) -> Any:
    grad, *inputs = ctx.saved_tensors
    *sizes, input_grad = ctx.options
    used = cotangents if input_grad else (None, *cotangents[1:])
    *grads, grad_grad = _second_order(lambda *args: reference.conv_gdn_pool(*args, *sizes), inputs, grad, used)
    return grad_grad, *grads, None, None, None, None, None


def _crop_conv_backward(ctx: Any, grad: Tensor) -> Any:
    grads = _OPS.crop_conv_gdn_pool_backward(grad, *ctx.saved_tensors, *ctx.options)
    return None, None, *grads, None, None, None, None


def _crop_conv_train_backward(ctx: Any, grad: Tensor | None, _: Any) -> Any:
    if grad is None:
        return (None,) * 10
    *saved, kept = ctx.saved_tensors
    grads = _OPS.crop_conv_gdn_pool_backward(grad, *saved, *ctx.options, kept)
    return None, None, *grads, None, None, None, None


def _crop_conv_double_backward(ctx: Any, *cotangents: Tensor) -> Any:
    grad, image, boxes, *parameters = ctx.saved_tensors
    crop, *sizes = ctx.options
    crops = _gather_crops(image, boxes, crop, grad.dtype)
    *grads, grad_grad = _second_order(
        lambda *args: reference.conv_gdn_pool(crops, *args, *sizes), parameters, grad, cotangents
    )
    return grad_grad, None, None, *grads, None, None, None, None, None


def _extract_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    image, _, stride, double_out = inputs
    ctx.height, ctx.width, ctx.stride, ctx.double_out = image.shape[0], image.shape[1], stride, double_out


def _extract_backward(ctx: Any, grad: Tensor) -> Any:
    return _OPS.extract_crops_backward(grad, ctx.height, ctx.width, ctx.stride), None, None, None


def _extract_backward_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, _, _, ctx.stride = inputs
    ctx.size, ctx.double = grad.shape[2], grad.dtype == torch.float64


def _extract_double_backward(ctx: Any, cotangent: Tensor) -> Any:
    return _OPS.extract_crops(cotangent, ctx.size, ctx.stride, ctx.double), None, None, None


for _name, _backward, _setup in (
    ("gdn", _gdn_backward, _save_all),
    ("gdn_backward", _gdn_double_backward, _save_all),
    ("conv_gdn_pool", _conv_backward, _save_all),
    ("conv_gdn_pool_train", _conv_train_backward, _save_all_and_kept),
    ("conv_gdn_pool_backward", _conv_double_backward, _save_all_but_kept),
    ("crop_conv_gdn_pool", _crop_conv_backward, _save_all),
    ("crop_conv_gdn_pool_train", _crop_conv_train_backward, _save_all_and_kept),
    ("crop_conv_gdn_pool_backward", _crop_conv_double_backward, _save_all_but_kept),
    ("extract_crops", _extract_backward, _extract_setup),
    ("extract_crops_backward", _extract_double_backward, _extract_backward_setup),
):
    torch.library.register_autograd(f"meon_ext::{_name}", _backward, setup_context=_setup)


# --- autocast ----------------------------------------------------------------------------------------------------

for _name in (
    "gdn",
    "conv_gdn_pool",
    "conv_gdn_pool_train",
    "crop_conv_gdn_pool",
    "crop_conv_gdn_pool_train",
    "extract_crops",
):
    for _device in ("cpu", "cuda"):
        torch.library.register_autocast(f"meon_ext::{_name}", _device, torch.float32)
