"""NumPy arrays and torch tensors to uint8 RGB; the rules stand in ``meon_ext.images``. Never imports torch."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from meon_ext._pillow import over_white
from meon_ext.errors import ImageError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


def is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    """Whether this is a torch tensor: there can be none before someone imported torch."""
    loaded = sys.modules.get("torch")
    return loaded is not None and isinstance(value, loaded.Tensor)


def tensor_to_array(tensor: torch.Tensor, name: str) -> NDArray[Any]:
    """A torch tensor (C, H, W) or (H, W) as a NumPy array (H, W, C) or (H, W)."""
    if tensor.ndim not in (2, 3):
        raise ImageError(f"{name}: a tensor of shape {tuple(tensor.shape)}; one image is (C, H, W)")
    if tensor.ndim == 3 and tensor.shape[0] not in (1, 3, 4):
        hint = "; this one looks like (H, W, C), so permute(2, 0, 1) it" if tensor.shape[2] in (1, 3, 4) else ""
        shape = tuple(tensor.shape)
        raise ImageError(f"{name}: a tensor of shape {shape}; one image is (C, H, W), C = 1, 3 or 4{hint}")
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()  # NumPy has no bfloat16
    if tensor.ndim == 3:
        tensor = tensor.permute(1, 2, 0)
    array: NDArray[Any] = tensor.numpy()
    return array


def array_to_rgb(array: NDArray[Any], data_range: float | None, name: str) -> NDArray[np.uint8]:
    """(H, W), (H, W, 1), (H, W, 3) or (H, W, 4) as C-contiguous uint8 (H, W, 3); the same array if it is that."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        looks_chw = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = "; this one looks like (C, H, W), so transpose(1, 2, 0) it" if looks_chw else ""
        shape = array.shape
        raise ImageError(f"{name}: an array of shape {shape}; one image is (H, W) or (H, W, C), C = 1, 3 or 4{hint}")
    if array.size == 0:
        raise ImageError(f"{name}: an array of shape {array.shape} holds no pixels")
    levels = _levels(array, data_range, name)
    if levels.ndim == 2:
        levels = levels[:, :, None]
    if levels.shape[2] == 1:
        levels = np.broadcast_to(levels, (*levels.shape[:2], 3))
    elif levels.shape[2] == 4:
        levels = over_white(levels)
    return np.ascontiguousarray(levels)


def _levels(array: NDArray[Any], data_range: float | None, name: str) -> NDArray[np.uint8]:
    """The samples as 0..255."""
    if array.dtype == np.uint8:
        if data_range not in (None, 255):
            raise ImageError(f"{name}: 8-bit samples run to 255, not data_range={data_range}; leave data_range out")
        return array
    if array.dtype != np.uint16 and array.dtype.kind != "f":
        raise ImageError(f"{name}: samples of type {array.dtype}; convert them to uint8")
    if data_range is None:
        ranges = "65535, or 4095 for 12 bits" if array.dtype == np.uint16 else "1.0 or 255"
        raise ImageError(f"{name}: samples of type {array.dtype} need data_range=, the value of white ({ranges})")
    if not (np.isfinite(data_range) and data_range > 0):
        raise ImageError(f"{name}: data_range={data_range}; it is the value of white, a positive number")
    # float16 would round the product to a sixteenth of a level, which can tip the rounding that follows.
    dtype = np.float64 if array.dtype == np.float64 else np.float32
    rounded = np.rint(np.multiply(array, 255.0 / data_range, dtype=dtype))
    low, high = rounded.min(), rounded.max()
    if not (low >= 0 and high <= 255):  # also true of NaN
        raise ImageError(
            f"{name}: samples run from {array.min():.6g} to {array.max():.6g}, outside 0..{data_range:g}; "
            "give the right data_range, undo any normalisation, or clip them"
        )
    levels: NDArray[np.uint8] = rounded.astype(np.uint8)
    return levels
