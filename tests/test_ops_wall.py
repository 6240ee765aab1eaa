"""torch.ops.meon_ext called past the checks of meon_ext.ops: wrong arguments raise RuntimeError, and no kernel reads or
writes where it should not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ops_cases import CROP, run
from ops_good import BETA, BIAS, BOXES, FLAT, GAMMA, IMAGE, STAGE, WEIGHT, X, box, replaced

from meon_ext import ops

OPS = torch.ops.meon_ext
ONES = [1, 1]
ZEROS = [0, 0]
BIG = 2**31 - 1
HUGE = 2**63 - 1


def direct(position: int, value: object, *options: object) -> object:
    return OPS.conv_gdn_pool(*replaced(position, value), *(options or (ONES, ZEROS, 2)))


def direct_crops(image: Any = IMAGE, boxes: Any = BOXES, stage: Any = STAGE, crop: Any = None, *options: Any) -> object:
    return OPS.crop_conv_gdn_pool(image, boxes, *stage, crop or [CROP, CROP], *(options or (ONES, ZEROS, 2)))


def backward(grad: torch.Tensor, *options: Any) -> object:
    return OPS.conv_gdn_pool_backward(grad, X, *STAGE, *(options or (ONES, ZEROS, 2)), True)


def backward_of_one_window(channels: int, pool: int) -> object:
    """Over 2 x 2 pixels in the middle of padding."""
    bias, gamma = torch.ones(channels), torch.ones(channels, channels)
    stage = (torch.ones(channels, 1, 1, 1), bias, bias, gamma)
    padding = [pool // 2 - 1] * 2
    return OPS.conv_gdn_pool_backward(bias.view(1, -1, 1, 1), X[:1, :1, :2, :2], *stage, ONES, padding, pool, True)


# The shape of stage that keeps something for its backward, and what it keeps.
KEEPING = (torch.ones(8, 3, 5, 5), torch.ones(8), torch.ones(8), torch.ones(8, 8))
KEEPING_OPTIONS = ([2, 2], [2, 2], 2)
KEPT = OPS.conv_gdn_pool_train(X, *KEEPING, *KEEPING_OPTIONS)[1]


def backward_with(kept: torch.Tensor) -> object:
    return OPS.conv_gdn_pool_backward(torch.ones(2, 8, 2, 2), X, *KEEPING, *KEEPING_OPTIONS, True, kept)


GRAD = torch.ones(2, 4, 3, 3)
NO_CHANNELS = torch.ones(4, 0, 2, 2)

WALL: list[tuple[str, Callable[[], object]]] = [
    ("gdn: x 0-D", lambda: OPS.gdn(torch.tensor(1.0), BETA, GAMMA)),
    ("gdn: x 1-D", lambda: OPS.gdn(BETA, BETA, GAMMA)),
    ("gdn: x 3-D", lambda: OPS.gdn(X[0], BETA, GAMMA)),
    ("gdn: beta 0-D", lambda: OPS.gdn(X, torch.tensor(1.0), GAMMA)),
    ("gdn: beta short", lambda: OPS.gdn(X, BETA[:2], GAMMA)),
    ("gdn: gamma short", lambda: OPS.gdn(X, BETA, GAMMA[:2])),
    ("gdn: gamma 1-D", lambda: OPS.gdn(X, BETA, BETA)),
    ("gdn: x int", lambda: OPS.gdn(X.int(), BETA, GAMMA)),
    ("gdn: float16", lambda: OPS.gdn(X.half(), BETA.half(), GAMMA.half())),
    ("gdn: mixed dtypes", lambda: OPS.gdn(X.double(), BETA, GAMMA)),
    ("gdn: sparse", lambda: OPS.gdn(FLAT.to_sparse(), BETA, GAMMA)),
    ("gdn: sparse gamma", lambda: OPS.gdn(FLAT, BETA, GAMMA.to_sparse())),
    ("gdn: beta meta", lambda: OPS.gdn(X, BETA.to("meta"), GAMMA)),
    ("gdn: x meta", lambda: OPS.gdn(X.to("meta"), BETA, GAMMA)),
    ("gdn: None", lambda: OPS.gdn(None, BETA, GAMMA)),
    ("gdn: array", lambda: OPS.gdn(FLAT.numpy(), BETA, GAMMA)),
    ("gdn_backward: grad shape", lambda: OPS.gdn_backward(X[:1], X, BETA, GAMMA)),
    ("gdn_backward: grad 0-D", lambda: OPS.gdn_backward(torch.tensor(1.0), X, BETA, GAMMA)),
    ("gdn_backward: grad transposed", lambda: OPS.gdn_backward(X.transpose(2, 3), X, BETA, GAMMA)),
    ("gdn_backward: grad float64", lambda: OPS.gdn_backward(X.double(), X, BETA, GAMMA)),
    ("gdn_backward: grad meta", lambda: OPS.gdn_backward(X.to("meta"), X, BETA, GAMMA)),
    ("gdn_backward: beta short", lambda: OPS.gdn_backward(X, X, BETA[:2], GAMMA)),
    ("conv: x 0-D", lambda: direct(0, torch.tensor(1.0))),
    ("conv: x 3-D", lambda: direct(0, X[0])),
    ("conv: x channels", lambda: direct(0, X[:, :2])),
    ("conv: x int", lambda: direct(0, X.int())),
    ("conv: x float64", lambda: direct(0, X.double())),
    ("conv: x meta", lambda: direct(0, X.to("meta"))),
    ("conv: weight 0-D", lambda: direct(1, torch.tensor(1.0))),
    ("conv: weight 2-D", lambda: direct(1, WEIGHT[0, 0])),
    ("conv: empty kernel", lambda: direct(1, WEIGHT[..., :0])),
    ("conv: no output", lambda: direct(1, WEIGHT[:0])),
    ("conv: bias short", lambda: direct(2, BIAS[:3])),
    ("conv: bias 0-D", lambda: direct(2, torch.tensor(1.0))),
    ("conv: beta long", lambda: direct(3, torch.ones(5))),
    ("conv: beta float64", lambda: direct(3, BIAS.double())),
    ("conv: gamma short", lambda: direct(4, GAMMA)),
    ("conv: gamma meta", lambda: direct(4, STAGE[3].to("meta"))),
    ("conv: one stride", lambda: direct(0, X, [1], ZEROS, 2)),
    ("conv: no padding", lambda: direct(0, X, ONES, [], 2)),
    ("conv: stride 0", lambda: direct(0, X, [0, 1], ZEROS, 2)),
    ("conv: stride -1", lambda: direct(0, X, [1, -1], ZEROS, 2)),
    ("conv: stride huge", lambda: direct(0, X, [HUGE, 1], ZEROS, 1)),
    ("conv: padding -1", lambda: direct(0, X, ONES, [-1, 0], 2)),
    ("conv: padding huge", lambda: direct(0, X, ONES, [HUGE, HUGE], 2)),
    ("conv: padding big", lambda: direct(0, X, ONES, [BIG, BIG], 1)),
    ("conv: pool 0", lambda: direct(0, X, ONES, ZEROS, 0)),
    ("conv: pool -1", lambda: direct(0, X, ONES, ZEROS, -1)),
    ("conv: pool huge", lambda: direct(0, X, ONES, ZEROS, HUGE)),
    ("conv: pool too large", lambda: direct(0, X, ONES, ZEROS, 8)),
    ("conv: pool float", lambda: direct(0, X, ONES, ZEROS, 2.5)),
    ("conv: pool over 64 bits", lambda: direct(0, X, ONES, ZEROS, 2**64)),
    ("conv: kernel too large", lambda: direct(0, X[:, :, :2])),
    ("conv_backward: grad short", lambda: backward(GRAD[:1])),
    ("conv_backward: grad 0-D", lambda: backward(torch.tensor(1.0))),
    ("conv_backward: grad of no pool", lambda: backward(torch.ones(2, 4, 7, 7))),
    ("conv_backward: grad float64", lambda: backward(GRAD.double())),
    ("conv_backward: grad meta", lambda: backward(GRAD.to("meta"))),
    ("conv_backward: other stride", lambda: backward(GRAD, [2, 1], ZEROS, 2)),
    ("conv_backward: padding big", lambda: backward(GRAD, ONES, [BIG, BIG], 1)),
    ("conv_backward: pool huge", lambda: backward(GRAD, ONES, ZEROS, HUGE)),
    # Windows of (2^32)^2 pixels are 0 modulo 2^64.
    ("conv_backward: pool big", lambda: backward_of_one_window(1, 2**32)),
    ("conv_backward: pool big, many channels", lambda: backward_of_one_window(16, 2**30)),
    ("conv_backward: kept short", lambda: backward_with(KEPT[1:])),
    ("conv_backward: kept 2-D", lambda: backward_with(KEPT[None])),
    ("conv_backward: kept empty", lambda: backward_with(KEPT[:0])),
    ("conv_backward: kept float64", lambda: backward_with(KEPT.double())),
    ("conv_backward: kept meta", lambda: backward_with(KEPT.to("meta"))),
    (
        "conv_backward: kept by a stage that keeps nothing",
        lambda: OPS.conv_gdn_pool_backward(GRAD, X, *STAGE, ONES, ZEROS, 2, True, KEPT),
    ),
    ("conv_train: x channels", lambda: OPS.conv_gdn_pool_train(X[:, :2], *KEEPING, *KEEPING_OPTIONS)),
    ("conv_train: x 3-D", lambda: OPS.conv_gdn_pool_train(X[0], *KEEPING, *KEEPING_OPTIONS)),
    (
        "conv_train: gamma meta",
        lambda: OPS.conv_gdn_pool_train(X, *KEEPING[:3], KEEPING[3].to("meta"), *KEEPING_OPTIONS),
    ),
    ("conv_train: too small", lambda: OPS.conv_gdn_pool_train(X[:, :, :1, :1], *KEEPING, *KEEPING_OPTIONS)),
    (
        "crops_train: box outside",
        lambda: OPS.crop_conv_gdn_pool_train(IMAGE, BOXES + 1, *KEEPING, [CROP, CROP], *KEEPING_OPTIONS),
    ),
    ("crops: image float", lambda: direct_crops(IMAGE.float())),
    ("crops: image 2-D", lambda: direct_crops(IMAGE[..., 0])),
    ("crops: image 0-D", lambda: direct_crops(IMAGE[0, 0, 0])),
    ("crops: image channels", lambda: direct_crops(IMAGE[..., :2])),
    ("crops: image meta", lambda: direct_crops(IMAGE.to("meta"))),
    ("crops: boxes int32", lambda: direct_crops(boxes=BOXES.int())),
    ("crops: boxes float", lambda: direct_crops(boxes=BOXES.double())),
    ("crops: boxes 1-D", lambda: direct_crops(boxes=BOXES[0])),
    ("crops: boxes of 3", lambda: direct_crops(boxes=BOXES[:, :3])),
    ("crops: boxes meta", lambda: direct_crops(boxes=BOXES.to("meta"))),
    ("crops: box left of image", lambda: direct_crops(boxes=box(-1, 0, CROP - 1, CROP))),
    ("crops: box above image", lambda: direct_crops(boxes=box(0, -1, CROP, CROP - 1))),
    ("crops: box right of image", lambda: direct_crops(boxes=box(18, 0, 31, CROP))),
    ("crops: box below image", lambda: direct_crops(boxes=box(0, 8, CROP, 21))),
    ("crops: box larger", lambda: direct_crops(boxes=box(0, 0, CROP + 1, CROP))),
    ("crops: box inverted", lambda: direct_crops(boxes=box(CROP, 0, 0, CROP))),
    ("crops: box huge", lambda: direct_crops(boxes=box(-HUGE, 0, HUGE, CROP))),
    ("crops: box least", lambda: direct_crops(boxes=box(-HUGE - 1, 0, -HUGE - 1 + CROP, CROP))),
    ("crops: crop 0", lambda: direct_crops(crop=[0, CROP])),
    ("crops: crop of one", lambda: direct_crops(crop=[CROP])),
    ("crops: crop of other size", lambda: direct_crops(crop=[CROP, 9])),
    ("crops: crop huge", lambda: direct_crops(IMAGE, BOXES[:0], STAGE, [HUGE, HUGE], ONES, [BIG, BIG], 1)),
    ("crops: weight int", lambda: direct_crops(stage=(WEIGHT.int(), *STAGE[1:]))),
    ("crops: stride 0", lambda: direct_crops(IMAGE, BOXES, STAGE, [CROP, CROP], [0, 0], ZEROS, 2)),
    (
        "crops_backward: grad short",
        lambda: OPS.crop_conv_gdn_pool_backward(GRAD, IMAGE, BOXES, *STAGE, [CROP, CROP], ONES, ZEROS, 2),
    ),
    (
        "crops_backward: box outside",
        lambda: OPS.crop_conv_gdn_pool_backward(
            torch.ones(2, 4, 5, 6), IMAGE, BOXES + 1, *STAGE, [CROP, CROP], ONES, ZEROS, 2
        ),
    ),
    ("extract: image 2-D", lambda: OPS.extract_crops(IMAGE[..., 0], 4, 2, False)),
    ("extract: image 0-D", lambda: OPS.extract_crops(IMAGE[0, 0, 0], 4, 2, False)),
    ("extract: image int", lambda: OPS.extract_crops(IMAGE.int(), 4, 2, False)),
    ("extract: image float16", lambda: OPS.extract_crops(IMAGE.half(), 4, 2, False)),
    ("extract: size 0", lambda: OPS.extract_crops(IMAGE, 0, 2, False)),
    ("extract: size -1", lambda: OPS.extract_crops(IMAGE, -1, 2, False)),
    ("extract: size huge", lambda: OPS.extract_crops(IMAGE, HUGE, 2, False)),
    ("extract: size too large", lambda: OPS.extract_crops(IMAGE, 21, 2, False)),
    ("extract: stride 0", lambda: OPS.extract_crops(IMAGE, 4, 0, False)),
    ("extract: stride -1", lambda: OPS.extract_crops(IMAGE, 4, -1, False)),
    ("extract: stride huge", lambda: OPS.extract_crops(IMAGE, 4, HUGE, False)),
    ("extract_backward: grad 3-D", lambda: OPS.extract_crops_backward(NO_CHANNELS[0], 4, 4, 2)),
    ("extract_backward: grad int", lambda: OPS.extract_crops_backward(torch.ones(4, 1, 2, 2).int(), 4, 4, 2)),
    ("extract_backward: not square", lambda: OPS.extract_crops_backward(torch.ones(4, 1, 2, 3), 4, 4, 2)),
    ("extract_backward: crops", lambda: OPS.extract_crops_backward(torch.ones(3, 1, 2, 2), 4, 4, 2)),
    ("extract_backward: height 0", lambda: OPS.extract_crops_backward(torch.ones(4, 1, 2, 2), 0, 4, 2)),
    ("extract_backward: stride 0", lambda: OPS.extract_crops_backward(torch.ones(4, 1, 2, 2), 4, 4, 0)),
    # (2^63 - 2)^2 crops are 4 modulo 2^64: this one would have gone on to fill in 2^63 rows of nothing.
    ("extract_backward: huge", lambda: OPS.extract_crops_backward(NO_CHANNELS, HUGE, HUGE, 1)),
]


@pytest.mark.parametrize("wrong", [pytest.param(call, id=name) for name, call in WALL])
def test_wall(wrong: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError):
        wrong()


def test_errors_name_the_source_not_the_machine_that_built_it() -> None:
    with pytest.raises(RuntimeError, match=r", csrc/torch/checks\.h:\d+, beta has shape \(2\)"):
        OPS.gdn(X, BETA[:2], GAMMA)


def test_wall_has_a_door() -> None:
    """What every row above spoils is right by itself."""
    assert OPS.gdn(X, BETA, GAMMA).shape == X.shape
    assert direct(0, X).shape == GRAD.shape  # type: ignore[attr-defined]
    assert backward(GRAD)[0].shape == X.shape  # type: ignore[index]
    assert backward_with(KEPT)[0].shape == X.shape  # type: ignore[index]
    assert backward_of_one_window(4, 8)[0].shape == (1, 1, 2, 2)  # type: ignore[index]
    assert KEPT.numel() > 0
    assert direct_crops().shape == (2, 4, 5, 6)  # type: ignore[attr-defined]
    assert OPS.extract_crops_backward(torch.ones(4, 1, 2, 2), 4, 4, 2).shape == (4, 4, 1)


def test_big_stride_and_padding() -> None:
    """The largest that are allowed do not overflow. A window of nothing but padding gives the bias through GDN."""
    y = OPS.conv_gdn_pool(X, *STAGE, [BIG, BIG], ZEROS, 1)
    assert torch.equal(y, ops.conv_gdn_pool(X[:, :, :3, :2], *STAGE, pool=1))
    y = OPS.conv_gdn_pool(X, *STAGE, [BIG, BIG], [BIG, BIG], 1)
    assert y.shape == (2, 4, 3, 3)
    assert bool((y[:, :, 0] == 1 / 5**0.5).all())
    _, *grads = run(lambda w: ops.conv_gdn_pool(X, w, *STAGE[1:], BIG, BIG, 1), [WEIGHT.clone().requires_grad_()])
    assert bool(grads[0].isfinite().all())
    assert OPS.extract_crops(IMAGE, 4, BIG, False).shape == (4, 3, 4, 4)


@pytest.mark.parametrize("name", ["crop_conv_gdn_pool", "crop_conv_gdn_pool_train"])
def test_no_crops_of_a_big_size(name: str) -> None:
    """Working memory is for what there is to do, which is nothing."""
    out = getattr(OPS, name)(IMAGE, BOXES[:0], *KEEPING, [BIG, BIG], *KEEPING_OPTIONS)
    y = out if isinstance(out, torch.Tensor) else out[0]
    assert y.shape == (0, 8, 2**29, 2**29)
    grads = OPS.crop_conv_gdn_pool_backward(y, IMAGE, BOXES[:0], *KEEPING, [BIG, BIG], *KEEPING_OPTIONS)
    assert not any(bool(g.any()) for g in grads)


def test_meta() -> None:
    """Tensors without data give shapes without data, for every op."""
    x, beta, gamma = (t.to("meta") for t in (X, BETA, GAMMA))
    stage = [t.to("meta") for t in STAGE]
    image, boxes = IMAGE.to("meta"), BOXES.to("meta")
    for y, shape in (
        (ops.gdn(x, beta, gamma), (2, 3, 9, 8)),
        (ops.conv_gdn_pool(x, *stage, stride=(2, 1), padding=1, pool=3), (2, 4, 1, 3)),
        (ops.extract_crops(image, 4, 3), (7 * 10, 3, 4, 4)),
        (ops.crop_conv_gdn_pool(image, boxes, *stage, crop=CROP), (2, 4, 5, 6)),
    ):
        assert y.is_meta and y.shape == shape and y.dtype == torch.float32
