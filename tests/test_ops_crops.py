"""ops.extract_crops and ops.crop_conv_gdn_pool."""

from collections.abc import Iterator
from types import ModuleType

import pytest
import rounding
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_cases import (
    CROP,
    CROP_CASE,
    ConvCase,
    Function,
    assert_within,
    fresh_generator,
    image_and_boxes,
    leaves,
    run,
    same_bits,
    threads,
)
from torch import Tensor

from meon_ext import ops, reference


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def positions(length: int, size: int, stride: int) -> list[int]:
    """Step by step, without a formula: as long as a crop leaves pixels behind it, and once more at the border."""
    found, at = [], 0
    while at + size < length:
        found.append(at)
        at += stride
    return [*found, length - size]


@settings(deadline=None)
@given(st.data(), st.integers(1, 9), st.integers(1, 30))
def test_grid(data: st.DataObject, size: int, stride: int) -> None:
    height, width = (data.draw(st.integers(size, size + 25), label=side) for side in ("height", "width"))
    image = torch.arange(height * width * 2).reshape(height, width, 2).double()
    crops = ops.extract_crops(image, size, stride)
    corners = [(y, x) for y in positions(height, size, stride) for x in positions(width, size, stride)]
    assert crops.shape == (len(corners), 2, size, size) and crops.is_contiguous()
    for crop, (y, x) in zip(crops, corners, strict=True):
        assert torch.equal(crop, image[y : y + size, x : x + size].permute(2, 0, 1))
    same_bits("reference", [crops], [reference.extract_crops(image, size, stride)])


@pytest.mark.parametrize("stride", [4, 5, 7, 30, 2**31, 2**62])
def test_last_row_and_column_are_flush(stride: int) -> None:
    """Every border pixel is in a crop whatever the stride, one larger than the image included."""
    image = torch.arange(17 * 22 * 3, dtype=torch.float32).reshape(17, 22, 3)
    crops = ops.extract_crops(image, 5, stride)
    assert torch.equal(crops[0], image[:5, :5].permute(2, 0, 1))
    assert torch.equal(crops[-1], image[-5:, -5:].permute(2, 0, 1))
    if stride >= 17:
        assert crops.shape[0] == 4


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64])
def test_bytes(dtype: torch.dtype | None) -> None:
    """All 256 values come out as they were."""
    image = torch.arange(256, dtype=torch.uint8).reshape(16, 16, 1)
    crops = ops.extract_crops(image, 16, 1, dtype=dtype)
    assert crops.dtype == (dtype or torch.float32)
    assert crops.flatten().tolist() == list(range(256))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_of_the_image(dtype: torch.dtype) -> None:
    """Each pixel gets the sum over the crops it lies in; sums of small integers are exact in any order."""
    generator = fresh_generator()
    inputs = leaves([torch.randn(19, 23, 3, generator=generator)], dtype)
    grad = torch.randint(-99, 100, reference.extract_crops(inputs[0], 7, 3).shape, generator=generator).to(dtype)
    got = run(lambda image: ops.extract_crops(image, 7, 3), inputs, grad)
    same_bits("gradient", got, run(lambda image: reference.extract_crops(image, 7, 3), inputs, grad))
    (coverage,) = run(lambda image: ops.extract_crops(image, 7, 3), inputs)[1:]
    rows, columns = ([sum(p <= i < p + 7 for p in positions(n, 7, 3)) for i in range(n)] for n in (19, 23))
    assert torch.equal(coverage, (torch.tensor(rows)[:, None, None] * torch.tensor(columns)[:, None]).expand(19, 23, 3))


# --- gathering, as on CUDA for stages that have no kernel ---------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gathered_crops(dtype: torch.dtype) -> None:
    image, boxes = image_and_boxes(fresh_generator(), 5)
    want = reference.gather_crops(image, boxes, dtype=dtype)
    assert torch.equal(ops._gather_crops(image, boxes, [CROP, CROP], dtype), want)
    height, width = image.shape[:2]
    for x0, y0, x1, y1 in [
        (-1, 0, CROP - 1, CROP),
        (0, -1, CROP, CROP - 1),
        (width - CROP + 1, 0, width + 1, CROP),
        (0, height - CROP + 1, CROP, height + 1),
        (0, 0, CROP, CROP - 1),
        (0, 0, CROP + 1, CROP),
        (-(2**60), 0, 2**60, CROP),
    ]:
        bad = boxes.clone()
        bad[2] = torch.tensor([x0, y0, x1, y1])
        got = ops._gather_crops(image, bad, [CROP, CROP], dtype)
        assert got.dtype == dtype and bool(got[2].isnan().all())
        assert torch.equal(got[[0, 1, 3, 4]], want[[0, 1, 3, 4]])


# --- crop_conv_gdn_pool -------------------------------------------------------------------------------------------


def crop_op(image: Tensor, boxes: Tensor, case: ConvCase = CROP_CASE, module: ModuleType = ops) -> Function:
    function: Function = module.crop_conv_gdn_pool
    return lambda *parameters: function(image, boxes, *parameters, *case.options)


OTHER_CASES = [
    ConvCase(0, 3, CROP, CROP, 8, (5, 5), (2, 1), (2, 2)),
    ConvCase(0, 3, CROP, CROP, 17, (1, 1), pool=1),
    ConvCase(0, 3, CROP, CROP, 3, (2, 3), (1, 3), (4, 5), 3),
]


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(CROP_CASE, torch.float32), *((case, torch.float64) for case in (CROP_CASE, *OTHER_CASES))],
    ids=str,
)
def test_equals_extracted_crops(case: ConvCase, dtype: torch.dtype) -> None:
    """To the bit conv_gdn_pool of the crops, on a grid of overlapping crops that touch all borders; gradients too."""
    generator = fresh_generator()
    image, _ = image_and_boxes(generator, 0)
    crops = ops.extract_crops(image, CROP, 7, dtype=dtype)
    corners = [(x, y) for y in positions(29, CROP, 7) for x in positions(31, CROP, 7)]
    boxes = torch.tensor([(x, y, x + CROP, y + CROP) for x, y in corners])
    _, *parameters = case.inputs(generator, dtype)
    grad = torch.randn(case.function(ops)(crops, *parameters).shape, generator=generator)
    got = run(crop_op(image, boxes, case), parameters, grad)
    same_bits("crops", got, run(lambda *rest: case.function(ops)(crops, *rest), parameters, grad))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", [CROP_CASE, *OTHER_CASES], ids=str)
def test_agrees_with_float64(case: ConvCase, dtype: torch.dtype) -> None:
    generator = fresh_generator()
    image, boxes = image_and_boxes(generator, 5)
    _, *parameters = case.inputs(generator, dtype)
    crops = reference.gather_crops(image, boxes, dtype=dtype)
    stage = rounding.Stage(crops, *parameters, *case.options)
    decided = stage.decided()
    grad = decided * torch.randn(decided.shape, generator=generator, dtype=torch.float64).to(dtype)
    got = run(crop_op(image, boxes, case), parameters, grad)
    want = run(crop_op(image, boxes, case, module=reference), leaves(parameters, torch.float64), grad)
    _, *bounds = stage.backward(grad)
    for name, a, b, bound in zip(
        ["y", "weight", "bias", "beta", "gamma"], got, want, [stage.forward(), *bounds], strict=True
    ):
        assert_within(name, a, b, bound.error)


@pytest.mark.parametrize("padding", [(2, 2), (9, 8), (0, 0)])
def test_pixels_outside_a_crop_do_not_count(padding: tuple[int, int]) -> None:
    """The padding is the crop's own. Every pixel inside counts, in turn."""
    generator = fresh_generator()
    image, _ = image_and_boxes(generator, 0)
    boxes = torch.tensor([[8, 7, 8 + CROP, 7 + CROP]])
    case = ConvCase(0, 3, CROP, CROP, 8, (5, 5), (1, 1), padding, 1)
    _, *parameters = case.inputs(generator)
    want = crop_op(image, boxes, case)(*parameters)
    other = 255 - image
    inside = (slice(7, 7 + CROP), slice(8, 8 + CROP))
    other[inside] = image[inside]
    assert int((other != image).sum()) == (29 * 31 - CROP * CROP) * 3
    same_bits("pixels outside", [crop_op(other, boxes, case)(*parameters).detach()], [want.detach()])
    for y, x in ((7, 8), (7, 7 + CROP), (6 + CROP, 8), (6 + CROP, 7 + CROP), (12, 14)):
        changed = image.clone()
        changed[y, x] = 255 - changed[y, x]
        assert not torch.equal(crop_op(changed, boxes, case)(*parameters), want), (y, x)


def test_boxes_in_any_order_and_twice() -> None:
    generator = fresh_generator()
    image, boxes = image_and_boxes(generator, 5)
    _, *parameters = CROP_CASE.inputs(generator)
    order = torch.tensor([3, 0, 0, 4])
    same_bits(
        "chosen boxes",
        [crop_op(image, boxes[order])(*parameters).detach()],
        [crop_op(image, boxes)(*parameters).detach()[order]],
    )


def test_crop_of_other_sides() -> None:
    """Boxes wider than high, and crop= in place of reading them."""
    generator = fresh_generator()
    image, _ = image_and_boxes(generator, 0)
    boxes = torch.tensor([[0, 0, 17, 9], [14, 20, 31, 29]])
    _, *parameters = CROP_CASE.inputs(generator)
    crops = torch.stack([image[y0:y1, x0:x1] for x0, y0, x1, y1 in boxes.tolist()]).permute(0, 3, 1, 2).float()
    want = CROP_CASE.function(ops)(crops, *parameters).detach()
    same_bits("boxes", [crop_op(image, boxes)(*parameters).detach()], [want])
    got = ops.crop_conv_gdn_pool(image, boxes, *parameters, *CROP_CASE.options, crop=(9, 17))
    same_bits("crop", [got.detach()], [want])


def test_whole_image_is_a_crop() -> None:
    generator = fresh_generator()
    image, _ = image_and_boxes(generator, 0)
    _, *parameters = CROP_CASE.inputs(generator)
    want = CROP_CASE.function(ops)(image.permute(2, 0, 1)[None].float(), *parameters)
    got = crop_op(image, torch.tensor([[0, 0, 31, 29]]))(*parameters)
    same_bits("whole image", [got.detach()], [want.detach()])


@pytest.mark.parametrize("layout", ["sliced", "transposed", "flipped"])
def test_image_layouts(layout: str) -> None:
    generator = fresh_generator()
    image, boxes = image_and_boxes(generator, 5)
    view = {
        "sliced": image.repeat_interleave(2, 1)[:, ::2],
        "transposed": image.transpose(0, 2).contiguous().transpose(0, 2),
        "flipped": image.flip(1).flip(1)[:, :, [0, 1, 2]],
    }[layout]
    spread = torch.stack((boxes, -boxes), dim=-1)[..., 0]
    _, *parameters = CROP_CASE.inputs(generator)
    want = run(crop_op(image, boxes), parameters)
    same_bits(layout, run(crop_op(view, spread), parameters), want)
    same_bits(layout, [ops.extract_crops(view, CROP, 4)], [ops.extract_crops(image, CROP, 4)])
