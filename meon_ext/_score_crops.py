"""The whole network over a grid of crops as one op, with what the crops share computed once: ``meon_ext.ops`` has it.

csrc/core/crop_plan.h says what is shared and why the answers are, to the bit, those of each crop alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from meon_ext import _native
from meon_ext._tangents import has_tangent
from meon_ext.errors import NativeError
from meon_ext.weights_io import CROP_SIZE, Architecture

if TYPE_CHECKING:
    from numpy.typing import NDArray

CUDA_STATUS = _native.load_ops()
CUDA_CLASSES = 256  # kMaxClasses of csrc/cuda/heads.h
# Of every parameter, in the order of the op; a head's last layer has as many outputs as there are types.
_SHAPES = Architecture(2).expected_tensors()


class CropPlan(NamedTuple):
    """Where the crops of an image lie and what they share, as :func:`crop_plan` makes it: int32 tensors on one device.

    rows, columns: for each axis the crops' first pixels (K,), what the three shared stages read, (4 places + 3,) each,
        and the crops' places in the last of these, (K, 4).
    """

    rows: list[Tensor]
    columns: list[Tensor]

    @property
    def crops(self) -> int:
        """How many crops of one image there are."""
        return self.rows[0].shape[0] * self.columns[0].shape[0]


def crop_plan(
    rows: Sequence[int] | NDArray[np.int64],
    columns: Sequence[int] | NDArray[np.int64],
    device: torch.device | str = "cpu",
) -> CropPlan:
    """The plan for crops of 256 x 256 at each of ``rows`` with each of ``columns``; one upload.

    It depends on these alone: keep it for the next image of that size.

    Args:
        rows: The crops' first rows, pixels, ascending.
        columns: Their first columns, pixels, ascending.
        device: Where the plan is to be, that of the images.

    Raises:
        ValueError: numbers that do not ascend, or below 0.
    """
    tables = []
    for name, values in (("rows", rows), ("columns", columns)):
        offsets = np.asarray(values)
        if offsets.ndim != 1 or (offsets.size and not np.issubdtype(offsets.dtype, np.integer)):
            raise ValueError(f"{name} must be a sequence of whole numbers, got {values!r}")
        offsets = offsets.astype(np.int64)
        try:
            tables.append([offsets.astype(np.int32), *_native.core().crop_tables(offsets)])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    together = torch.from_numpy(np.concatenate([table.ravel() for axis in tables for table in axis])).to(device)
    parts = iter(torch.split(together, [table.size for axis in tables for table in axis]))
    return CropPlan(*([next(parts).view(table.shape) for table in axis] for axis in tables))


def score_crops(image_u8: Tensor, plan: CropPlan, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """MEON (GDN, fusion) over the crops of one image or of several of one size.

    What overlapping crops share is computed once, and no crop is ever materialised; a crop's answer is, to the bit, the
    same whatever the others are. On CUDA that is five launches on the current stream, without waiting for the device:
    it can be captured in a CUDA graph. There is no gradient.

    Args:
        image_u8: (H, W, 3) or (3, H, W), or (N, H, W, 3) or (N, 3, H, W), uint8, RGB, 0..255, height and width at least
            256; any strides.
        plan: Where the crops are, on the image's device. What it points to on CUDA is not looked at beforehand: crops
            outside of the image give NaN.
        parameters: The network's, float32, on the image's device, named as in a weights file:
            ``MEON.effective_tensors()``. On CUDA of up to 256 distortion types.

    Returns:
        quality (K,) or (N, K), on the network's own scale, and probabilities (K, C) or (N, K, C); crops row by row.

    Raises:
        TypeError, ValueError: dtypes, shapes or devices that do not fit together, a crop outside of the image (CPU), or
            parameters that require a gradient where autograd records.
        NativeError: the image is on CUDA and the CUDA kernels are not loaded.
    """
    images = _images(image_u8)
    device = images.device
    values = ordered_parameters(parameters, device)
    if any(t.device != device or t.dtype != torch.int32 for axis in plan for t in axis):
        raise ValueError(f"plan must be int32 on {device}, where image_u8 is; use crop_plan(rows, columns, {device})")
    if (torch.is_grad_enabled() and any(t.requires_grad for t in values)) or has_tangent(*values):
        raise ValueError("score_crops has no gradient; call it under torch.no_grad(), or MEON.forward_crops for one")
    if device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"score_crops does not run on {device.type}; move the tensors to the CPU")
    if device.type == "cpu" and not torch.compiler.is_compiling():  # which cannot look; the op does, in its own words
        for name, axis, side in (("row", plan.rows, images.shape[1]), ("column", plan.columns, images.shape[2])):
            if axis[0].numel() and int(axis[0].max()) + CROP_SIZE > side:
                first = int(axis[0].max())
                raise ValueError(f"plan has a crop at {name} {first}, which does not fit in the image's {side} {name}s")
    answers = torch.ops.meon_ext.score_crops(images, plan.rows, plan.columns, values)
    answers = answers.squeeze(0) if image_u8.dim() == 3 else answers
    return answers.select(-1, 0), answers.narrow(-1, 1, answers.shape[-1] - 1)


def _images(image: Tensor) -> Tensor:
    """As (N, H, W, 3), a view."""
    if not isinstance(image, Tensor):
        raise TypeError(f"image_u8 must be a torch.Tensor, got {type(image).__name__}; use torch.from_numpy()")
    if image.dtype != torch.uint8:
        raise TypeError(f"image_u8 has dtype {image.dtype}; it must be uint8")
    images = image.unsqueeze(0) if image.dim() == 3 else image
    if images.dim() == 4 and images.shape[3] != 3 and images.shape[1] == 3:
        images = images.permute(0, 2, 3, 1)
    if images.dim() != 4 or images.shape[3] != 3 or min(images.shape[1:3]) < CROP_SIZE:
        raise ValueError(
            f"image_u8 has shape {tuple(image.shape)}; it must be (H, W, 3), (3, H, W), (N, H, W, 3) or (N, 3, H, W) "
            f"with height and width at least {CROP_SIZE}"
        )
    return images


def ordered_parameters(parameters: Mapping[str, Tensor], device: torch.device) -> list[Tensor]:
    """Checked, and in the order in which the op takes them. Raises as :func:`score_crops`."""
    last = parameters.get("quality_head.1.bias")
    classes = last.shape[0] if isinstance(last, Tensor) and last.dim() == 1 else 0
    if parameters.keys() != _SHAPES.keys():
        wrong = sorted(_SHAPES.keys() ^ parameters.keys())
        raise ValueError(f"parameters are not those of MEON with GDN and fusion: missing or unexpected {wrong}")
    if device.type == "cuda" and CUDA_STATUS != "loaded":
        raise NativeError(f"score_crops has no CUDA kernel here: {CUDA_STATUS}. Or use a MEON of backend reference")
    if device.type == "cuda" and classes > CUDA_CLASSES:
        raise ValueError(f"parameters are of {classes} distortion types; on CUDA there may be {CUDA_CLASSES}")
    for name, shape in _SHAPES.items():
        value = parameters[name]
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            raise TypeError(f"{name} must be a float32 tensor; convert it with .float()")
        wanted = (classes, *shape[1:]) if "_head.1." in name else shape
        if value.shape != wanted:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}; for {classes} distortion types it must be {wanted}"
            )
        if value.device != device:
            raise ValueError(f"{name} is on {value.device} but image_u8 is on {device}; move one with .to()")
    return [parameters[name] for name in _SHAPES]


@torch.library.register_fake("meon_ext::score_crops")
def _(images: Tensor, rows: list[Tensor], columns: list[Tensor], parameters: list[Tensor]) -> Tensor:
    devices = {t.device for t in (images, *rows, *columns, *parameters)}
    if len(devices) > 1:
        names = " and ".join(sorted(map(str, devices)))
        raise RuntimeError(f"the tensors are on different devices, {names}; move them to one with .to(device)")
    crops = rows[0].shape[0] * columns[0].shape[0]
    return parameters[0].new_empty((images.shape[0], crops, 1 + parameters[-1].shape[0]))
