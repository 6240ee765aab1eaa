"""The plain PyTorch functions, and with them the fused ones, against loops over NumPy arrays."""

from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from meon_ext import reference
from meon_ext.modules import backend_functions


@pytest.fixture(params=["reference", "fused"])
def functions(request: pytest.FixtureRequest) -> ModuleType:
    return backend_functions(request.param)


def gdn_by_loops(x: NDArray[np.float64], beta: NDArray[np.float64], gamma: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, C, ...) in float64, one element at a time."""
    y = np.empty_like(x)
    for index in np.ndindex(x.shape):
        n, i, *position = index
        norm = beta[i]
        for j in range(x.shape[1]):
            norm += gamma[i, j] * x[(n, j, *position)] ** 2
        y[index] = x[index] / np.sqrt(norm)
    return y


def conv_by_loops(
    x: NDArray[np.float64],
    weight: NDArray[np.float64],
    bias: NDArray[np.float64],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> NDArray[np.float64]:
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    kernel = weight.shape[2:]
    height, width = ((x.shape[2 + d] - kernel[d]) // stride[d] + 1 for d in (0, 1))
    y = np.empty((x.shape[0], weight.shape[0], height, width))
    for n, o, i, j in np.ndindex(y.shape):
        top, left = i * stride[0], j * stride[1]
        y[n, o, i, j] = (x[n, :, top : top + kernel[0], left : left + kernel[1]] * weight[o]).sum() + bias[o]
    return y


def pool_by_loops(x: NDArray[np.float64], pool: int) -> NDArray[np.float64]:
    y = np.empty((*x.shape[:2], x.shape[2] // pool, x.shape[3] // pool))
    for n, c, i, j in np.ndindex(y.shape):
        y[n, c, i, j] = x[n, c, i * pool : (i + 1) * pool, j * pool : (j + 1) * pool].max()
    return y


def gdn_rounding(channels: int, dtype: torch.dtype) -> float:
    """The relative error of a GDN: all terms of the sum are positive, so that its relative error is at most one unit
    for each product and addition (2 a channel); the root halves it; root, division and the result's own add 3 more."""
    return (channels + 3) * torch.finfo(dtype).eps


def gdn_parameters(generator: np.random.Generator, channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """beta, and a gamma far from symmetric."""
    gamma = generator.uniform(0, 1, (channels, channels)) * np.triu(np.full((channels, channels), 10.0), 1) + 0.01
    return generator.uniform(0.5, 2, channels), gamma


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "shape", [(2, 5, 3, 4), (3, 5), (1, 1, 2, 2), (2, 16, 1, 3), (0, 5, 3, 4), (0, 5), (2, 3, 0, 4)]
)
def test_gdn_matches_loops(functions: ModuleType, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = np.random.default_rng(1)
    beta, gamma = (torch.tensor(v, dtype=dtype) for v in gdn_parameters(generator, shape[1]))
    x = torch.tensor(generator.normal(0, 3, shape), dtype=dtype)
    expected = gdn_by_loops(x.double().numpy(), beta.double().numpy(), gamma.double().numpy())
    y = functions.gdn(x, beta, gamma)
    assert y.shape == x.shape
    assert y.dtype == dtype
    np.testing.assert_allclose(y.double().numpy(), expected, rtol=gdn_rounding(shape[1], dtype), atol=0)


def test_rows_of_gamma_are_output_channels(functions: ModuleType) -> None:
    gamma = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    y = functions.gdn(torch.tensor([[3.0, 4.0]], dtype=torch.float64), torch.ones(2, dtype=torch.float64), gamma)
    # Channel 0 is divided by sqrt(1 + 4^2), channel 1 by sqrt(1); the transposed gamma would give 3 and 4 / sqrt(10).
    torch.testing.assert_close(
        y, torch.tensor([[3 / 17**0.5, 4.0]], dtype=torch.float64), rtol=gdn_rounding(2, torch.float64), atol=0
    )


def test_gdn_does_not_depend_on_memory_layout(functions: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 5, 7, generator=generator, dtype=torch.float64)
    beta, gamma = (torch.tensor(v) for v in gdn_parameters(np.random.default_rng(0), 6))
    expected = functions.gdn(x, beta, gamma)
    close = {"rtol": 2 * gdn_rounding(6, torch.float64), "atol": 0.0}
    torch.testing.assert_close(functions.gdn(x.to(memory_format=torch.channels_last), beta, gamma), expected, **close)
    wide = torch.zeros(2, 6, 5, 14, dtype=torch.float64)
    wide[..., ::2] = x
    torch.testing.assert_close(functions.gdn(wide[..., ::2], beta, gamma), expected, **close)
    torch.testing.assert_close(functions.gdn(x, beta, gamma.T.contiguous().T), expected, **close)


def test_a_zero_denominator_divides_as_floating_point_does(functions: ModuleType) -> None:
    y = functions.gdn(torch.tensor([[0.0, 2.0]]), torch.zeros(2), torch.zeros(2, 2))
    assert torch.isnan(y[0, 0])
    assert y[0, 1] == torch.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "pool"),
    [
        ((3, 3), 1, 0, 2),
        ((5, 5), 2, 2, 2),
        ((2, 3), (1, 2), (0, 1), 1),
        ((1, 4), (2, 1), (1, 0), 3),
    ],
)
def test_conv_gdn_pool_matches_loops(
    functions: ModuleType,
    kernel: tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    pool: int,
    dtype: torch.dtype,
) -> None:
    generator = np.random.default_rng(2)
    # Whole numbers, so that the convolution is exact and only the rounding of GDN is left.
    x = generator.integers(0, 16, (2, 3, 11, 14)).astype(np.float64)
    weight = generator.integers(-3, 4, (4, 3, *kernel)).astype(np.float64)
    bias = generator.integers(-3, 4, 4).astype(np.float64)
    beta, gamma = (torch.tensor(v, dtype=dtype) for v in gdn_parameters(generator, 4))
    strides, paddings = ((v, v) if isinstance(v, int) else v for v in (stride, padding))
    conv = conv_by_loops(x, weight, bias, strides, paddings)
    expected = pool_by_loops(gdn_by_loops(conv, beta.double().numpy(), gamma.double().numpy()), pool)
    tensors = (torch.tensor(v, dtype=dtype) for v in (x, weight, bias))
    y = functions.conv_gdn_pool(*tensors, beta, gamma, stride=stride, padding=padding, pool=pool)
    np.testing.assert_allclose(y.double().numpy(), expected, rtol=gdn_rounding(4, dtype), atol=0)


def small_stage(seed: int = 0, channels_in: int = 2, channels: int = 3, kernel: int = 3) -> tuple[Tensor, ...]:
    """weight, bias, beta and gamma in float64."""
    generator = np.random.default_rng(seed)
    beta, gamma = gdn_parameters(generator, channels)
    weight = generator.normal(size=(channels, channels_in, kernel, kernel))
    return tuple(torch.tensor(v) for v in (weight, generator.normal(size=channels), beta, gamma))


def test_gradients_are_those_of_differences(functions: ModuleType) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 2, 6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    stage = tuple(t.requires_grad_() for t in small_stage())
    assert torch.autograd.gradcheck(lambda *args: functions.conv_gdn_pool(*args, padding=1), (x, *stage))
    assert torch.autograd.gradcheck(functions.gdn, (x, stage[2].detach()[:2].requires_grad_(), stage[3][:2, :2]))


@pytest.mark.parametrize(
    ("length", "size", "stride", "expected"),
    [
        (10, 4, 3, [0, 3, 6]),  # divides evenly
        (11, 4, 3, [0, 3, 6, 7]),  # one more, flush with the border
        (4, 4, 3, [0]),  # exactly one
        (5, 4, 3, [0, 1]),
        (20, 4, 7, [0, 7, 14, 16]),  # a stride over the size leaves gaps
        (8, 4, 100, [0, 4]),
        (6, 1, 1, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_extract_crops_positions(
    functions: ModuleType, length: int, size: int, stride: int, expected: list[int]
) -> None:
    # Each pixel holds its own coordinates, so a crop's first pixel says where it was taken.
    height, width = length, length + 1
    image = np.stack(np.broadcast_arrays(*np.ogrid[:height, :width]), axis=-1).astype(np.uint8)
    crops = functions.extract_crops(torch.from_numpy(image), size, stride).numpy()
    rows = sorted({int(v) for v in crops[:, 0, 0, 0]})
    columns = sorted({int(v) for v in crops[:, 1, 0, 0]})
    assert rows == expected
    assert (len(columns), columns[-1]) == (-((size - width) // stride) + 1, width - size)
    for crop, (top, left) in zip(crops, [(y, x) for y in rows for x in columns], strict=True):
        np.testing.assert_array_equal(crop, image[top : top + size, left : left + size].transpose(2, 0, 1))


def test_extract_crops_types(functions: ModuleType) -> None:
    image = torch.randint(0, 256, (9, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    crops = functions.extract_crops(image, 4, 2)
    assert crops.shape == (4 * 3, 3, 4, 4)
    assert crops.dtype == torch.float32
    assert crops.is_contiguous()
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(functions.extract_crops(image, 4, 2, dtype=dtype), crops.to(dtype))
        floating = functions.extract_crops(image.to(dtype), 4, 2)
        assert floating.dtype == dtype
        assert torch.equal(floating, crops.to(dtype))
    channels_first = image.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert torch.equal(functions.extract_crops(channels_first, 4, 2), crops)


def test_extract_crops_gradient_counts_how_often_a_pixel_is_used(functions: ModuleType) -> None:
    image = torch.zeros(9, 8, 2, dtype=torch.float64, requires_grad=True)
    functions.extract_crops(image, 4, 3).sum().backward()
    along_y = torch.tensor([1, 1, 1, 2, 1, 2, 2, 1, 1], dtype=torch.float64)  # crops at 0, 3, 5
    along_x = torch.tensor([1, 1, 1, 2, 2, 2, 2, 1], dtype=torch.float64)  # crops at 0, 3, 4
    assert image.grad is not None
    assert torch.equal(image.grad, (along_y[:, None] * along_x)[:, :, None].expand(9, 8, 2))


def test_crop_conv_gdn_pool_scores_each_crop_as_if_alone(functions: ModuleType) -> None:
    image = torch.randint(0, 256, (17, 19, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    boxes = torch.tensor([[0, 0, 8, 7], [11, 10, 19, 17], [3, 5, 11, 12], [3, 5, 11, 12]])
    stage = small_stage(1)
    crops = torch.stack([image[y0:y1, x0:x1].permute(2, 0, 1) for x0, y0, x1, y1 in boxes.tolist()])
    y = functions.crop_conv_gdn_pool(image, boxes, *stage, stride=2, padding=2)
    assert y.dtype == torch.float64
    assert torch.equal(y, functions.conv_gdn_pool(crops.double(), *stage, stride=2, padding=2))


def test_crop_conv_gdn_pool_of_no_boxes_needs_the_size(functions: ModuleType) -> None:
    image, boxes = torch.zeros(17, 19, 2, dtype=torch.uint8), torch.zeros(0, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="crop="):
        functions.crop_conv_gdn_pool(image, boxes, *small_stage())
    assert functions.crop_conv_gdn_pool(image, boxes, *small_stage(), crop=(8, 10)).shape == (0, 3, 3, 4)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([0, 0, 9, 8], "8 x 8"),
        ([-1, 0, 7, 8], "inside"),
        ([12, 0, 20, 8], "inside"),
        ([0, 10, 8, 18], "inside"),
        ([8, 8, 0, 0], "box"),
    ],
)
def test_boxes_outside_or_of_another_size_are_refused(functions: ModuleType, box: list[int], message: str) -> None:
    image = torch.zeros(17, 19, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match=message):
        functions.crop_conv_gdn_pool(image, torch.tensor([[0, 0, 8, 8], box]), *small_stage())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reference.gdn(torch.ones(2, 3, 4), torch.ones(3), torch.ones(3, 3)), "x must be"),
        (lambda: reference.gdn(torch.ones(2, 3), torch.ones(2), torch.ones(3, 3)), "beta must be"),
        (lambda: reference.gdn(torch.ones(2, 3), torch.ones(3), torch.ones(3, 2)), "gamma must be"),
        (lambda: reference.conv_gdn_pool(torch.ones(1, 2, 8, 8), *(t.float() for t in small_stage()), pool=0), "pool"),
        (lambda: reference.extract_crops(torch.zeros(8, 9)), "image must be"),
        (lambda: reference.extract_crops(torch.zeros(8, 9, 3, dtype=torch.uint8), 9), "9 x 8 is smaller"),
        (lambda: reference.extract_crops(torch.zeros(8, 9, 3, dtype=torch.uint8), 4, 0), "stride"),
        (lambda: reference.extract_crops(torch.zeros(8, 9, 3, dtype=torch.int32), 4, 1), "uint8 or floating"),
        (lambda: reference.extract_crops(torch.zeros(8, 9, 3), 4, 1, dtype=torch.float64), "keeps its dtype"),
        (lambda: reference.gather_crops(torch.zeros(8, 9, 3), torch.zeros(1, 4)), "int64"),
        (
            lambda: reference.crop_conv_gdn_pool(
                torch.zeros(8, 9, 2), torch.zeros(1, 4, dtype=torch.int64), *small_stage()
            ),
            "uint8",
        ),
    ],
)
def test_wrong_arguments_are_named(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()
