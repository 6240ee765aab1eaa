"""The functions of ``meon_ext.ops`` and MEON's forward pass in plain PyTorch: what the fast code is compared with.

Slow, short and differentiable; float32 and float64, on any device. float64 is the oracle. On a CUDA device PyTorch
computes float32 convolutions in TF32 unless ``torch.backends.cudnn.allow_tf32`` is False, with about 1e-3 relative
error: set it when float32 results are compared.

Sources: J. Ballé, V. Laparra, E. P. Simoncelli, "Density Modeling of Images Using a Generalized Normalization
Transformation", ICLR 2016 (GDN); K. Ma, W. Liu, K. Zhang, Z. Duanmu, Z. Wang, W. Zuo, "End-to-End Blind Image Quality
Assessment Using Deep Neural Networks", IEEE TIP 2018 (MEON).
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["conv_gdn_pool", "crop_conv_gdn_pool", "extract_crops", "gather_crops", "gdn", "meon_forward"]


def gdn(x: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
    """Generalized divisive normalization: ``y_i = x_i / sqrt(beta_i + sum_j gamma[i, j] x_j^2)``.

    x: (N, C, H, W) or (N, C), normalised over its channels C at each position; N, H and W may be 0.
    beta: (C,), positive. gamma: (C, C), non-negative; row = output channel, column = input channel.
    All of one floating dtype. A denominator of 0 gives what the division gives: NaN where x is 0, else infinity.

    Returns a tensor shaped as x. Raises ValueError for other shapes. Source: Ballé et al., ICLR 2016.
    """
    if x.dim() not in (2, 4):
        raise ValueError(f"x must be (N, C, H, W) or (N, C), got shape {tuple(x.shape)}")
    channels = x.shape[1]
    if beta.shape != (channels,):
        raise ValueError(f"beta must be ({channels},) for {channels} channels, got shape {tuple(beta.shape)}")
    if gamma.shape != (channels, channels):
        raise ValueError(f"gamma must be ({channels}, {channels}), got shape {tuple(gamma.shape)}")
    if x.dim() == 4 and 0 not in x.shape[2:]:  # conv2d refuses an empty plane
        norm = F.conv2d(x * x, gamma[:, :, None, None], beta)
    else:
        norm = F.linear((x * x).movedim(1, -1), gamma, beta).movedim(-1, 1)
    return x / torch.sqrt(norm)


def conv_gdn_pool(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    beta: Tensor,
    gamma: Tensor,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    pool: int = 2,
) -> Tensor:
    """One stage of MEON: cross-correlation plus bias, then GDN, then max-pooling.

    x: (N, Cin, H, W). weight: (Cout, Cin, Kh, Kw). bias, beta: (Cout,). gamma: (Cout, Cout). All of one floating dtype.
    stride, padding: of the convolution, in pixels, one number or (vertical, horizontal); the padding is of zeros.
    pool: side and stride of the square pooling windows; rows and columns that fill no window are dropped; 1 is none.

    Returns (N, Cout, Hc // pool, Wc // pool) where ``Hc = (H + 2 padding - Kh) // stride + 1`` and Wc likewise.
    Raises ValueError when pool or a shape is wrong, RuntimeError (PyTorch's) when x is smaller than the kernel.
    Source: Ma et al., TIP 2018.
    """
    if pool < 1:
        raise ValueError(f"pool must be at least 1, got {pool}")
    y = gdn(F.conv2d(x, weight, bias, stride, padding), beta, gamma)
    return F.max_pool2d(y, pool) if pool > 1 else y


def extract_crops(image: Tensor, size: int = 256, stride: int = 128, *, dtype: torch.dtype | None = None) -> Tensor:
    """Cut an image into overlapping square crops that cover it.

    image: (H, W, C), uint8 or floating; both sides at least ``size``.
    size, stride: in pixels. Along a side of length L there are ``ceil((L - size) / stride) + 1`` positions,
        ``min(i * stride, L - size)``: the last is flush with the border. A stride over ``size`` leaves gaps.
    dtype: what uint8 becomes, float32 (the default) or float64. Floating images keep their own and are differentiable.

    Returns (K, C, size, size), contiguous, values as they were (0..255 for uint8); crops run from top to bottom, then
    from left to right. Raises ValueError when the image is too small or an argument has another shape, type or sign.
    """
    if image.dim() != 3:
        raise ValueError(f"image must be (H, W, C), got shape {tuple(image.shape)}")
    if size < 1 or stride < 1:
        raise ValueError(f"size and stride must be at least 1, got {size} and {stride}")
    height, width = image.shape[:2]
    if height < size or width < size:
        raise ValueError(f"image of {width} x {height} is smaller than a crop of {size} x {size}")
    corners = [(top, left) for top in _positions(height, size, stride) for left in _positions(width, size, stride)]
    return _cut(image, corners, (size, size), _crop_dtype(image, dtype))


def gather_crops(
    image: Tensor, boxes: Tensor, *, crop: int | tuple[int, int] | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Cut the given boxes out of an image.

    image: (H, W, C), uint8 or floating.
    boxes: int64 (K, 4), rows (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; inside the image and all of one size.
    crop: that size, one number or (height, width); read from the boxes where it is not given, so K = 0 needs it.
    dtype: as in ``extract_crops``.

    Returns (K, C, y1 - y0, x1 - x0), contiguous, in the order of the boxes. Raises ValueError for other boxes.
    """
    if image.dim() != 3:
        raise ValueError(f"image must be (H, W, C), got shape {tuple(image.shape)}")
    if boxes.dim() != 2 or boxes.shape[1] != 4 or boxes.dtype != torch.int64:
        raise ValueError(f"boxes must be int64 (K, 4), got {boxes.dtype} of shape {tuple(boxes.shape)}")
    rows: list[list[int]] = boxes.tolist()
    if crop is None:
        if not rows:
            raise ValueError("boxes is empty, so the size of a crop is not known; pass crop=(height, width)")
        x0, y0, x1, y1 = rows[0]
        crop = (y1 - y0, x1 - x0)
    size = (crop, crop) if isinstance(crop, int) else (crop[0], crop[1])
    height, width = image.shape[:2]
    for x0, y0, x1, y1 in rows:
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ValueError(f"box ({x0}, {y0}, {x1}, {y1}) is empty or not inside the image of {width} x {height}")
        if (y1 - y0, x1 - x0) != size:
            raise ValueError(f"boxes must all be {size[1]} x {size[0]}, got one of {x1 - x0} x {y1 - y0}")
    return _cut(image, [(y0, x0) for x0, y0, _, _ in rows], size, _crop_dtype(image, dtype))


def crop_conv_gdn_pool(
    image_u8: Tensor,
    boxes: Tensor,
    weight: Tensor,
    bias: Tensor,
    beta: Tensor,
    gamma: Tensor,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    pool: int = 2,
    *,
    crop: int | tuple[int, int] | None = None,
) -> Tensor:
    """``conv_gdn_pool`` of crops of one image, read from the image itself.

    image_u8: uint8 (H, W, C). boxes (int64, (K, 4)) and crop: as in ``gather_crops``. The rest as in ``conv_gdn_pool``;
    zero padding is the crop's own, never pixels of the image beside it: each crop comes out as if it stood alone.

    Returns (K, Cout, ...) in the dtype of weight, differentiable in everything but the image and the boxes. Raises
    ValueError for a wrong image or box.
    """
    if image_u8.dtype != torch.uint8:
        raise ValueError(f"image_u8 must be uint8, got {image_u8.dtype}")
    crops = gather_crops(image_u8, boxes, crop=crop, dtype=weight.dtype)
    return conv_gdn_pool(crops, weight, bias, beta, gamma, stride, padding, pool)


def meon_forward(tensors: Mapping[str, Tensor], crops: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The paper's whole network (GDN, fusion) from effective parameters. Source: Ma et al., TIP 2018, figure 3.

    tensors: ``stages.{0..3}.{weight,bias,beta,gamma}``, ``{type,quality}_head.0.{weight,bias,beta,gamma}`` and
        ``{type,quality}_head.1.{weight,bias}``, all of one dtype; what weights files hold. C classes.
    crops: (N, 3, 256, 256) in the same dtype, RGB, raw values 0..255.

    Returns quality (N,) on the network's own scale, logits (N, C) of the distortion types, their probabilities (N, C)
    and class_scores (N, C), whose mean under the probabilities is quality. Raises KeyError for a missing tensor.
    """
    x = crops
    # (stride, padding) of each stage, written out here: the oracle shares no table with what it checks.
    for i, (stride, padding) in enumerate(((2, 2), (2, 2), (2, 2), (1, 0))):
        weight, bias, beta, gamma = (tensors[f"stages.{i}.{name}"] for name in ("weight", "bias", "beta", "gamma"))
        x = conv_gdn_pool(x, weight, bias, beta, gamma, stride, padding, pool=2)
    features = x.flatten(1)
    logits, class_scores = (_head(tensors, name, features) for name in ("type_head", "quality_head"))
    probabilities = torch.softmax(logits, dim=1)
    return (probabilities * class_scores).sum(dim=1), logits, probabilities, class_scores


def _head(tensors: Mapping[str, Tensor], name: str, features: Tensor) -> Tensor:
    hidden = F.linear(features, tensors[f"{name}.0.weight"], tensors[f"{name}.0.bias"])
    hidden = gdn(hidden, tensors[f"{name}.0.beta"], tensors[f"{name}.0.gamma"])
    return F.linear(hidden, tensors[f"{name}.1.weight"], tensors[f"{name}.1.bias"])


def _positions(length: int, size: int, stride: int) -> list[int]:
    count = -((size - length) // stride) + 1
    return [min(i * stride, length - size) for i in range(count)]


def _crop_dtype(image: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    if image.dtype == torch.uint8:
        return torch.float32 if dtype is None else dtype
    if not image.is_floating_point():
        raise ValueError(f"image must be uint8 or floating, got {image.dtype}")
    if dtype not in (None, image.dtype):
        raise ValueError(f"a {image.dtype} image keeps its dtype, got dtype={dtype}")
    return image.dtype


def _cut(image: Tensor, corners: list[tuple[int, int]], size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    height, width = size
    planes = image.permute(2, 0, 1)
    if not corners:
        return planes.new_empty((0, planes.shape[0], height, width), dtype=dtype)
    crops = torch.stack([planes[:, y : y + height, x : x + width] for y, x in corners])
    return crops.to(dtype).contiguous()
