"""Wrong arguments: meon_ext.ops says which one, what is wrong with it and what to do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ops_cases import CROP
from ops_good import BETA, BIAS, BOXES, FLAT, GAMMA, IMAGE, STAGE, WEIGHT, X, box, replaced
from torch.utils._python_dispatch import TorchDispatchMode

from meon_ext import ops

Table = list[tuple[str, Callable[[], Any], type[Exception], list[str]]]


def conv(*arguments: object, **options: object) -> object:
    return ops.conv_gdn_pool(*(arguments or (X, *STAGE)), **options)  # type: ignore[arg-type]


def crops(image: object = IMAGE, boxes: object = BOXES, stage: tuple[Any, ...] = STAGE, **options: object) -> object:
    return ops.crop_conv_gdn_pool(image, boxes, *stage, **options)  # type: ignore[arg-type]


GDN: Table = [
    ("x list", lambda: ops.gdn([1.0], BETA, GAMMA), TypeError, ["x", "list", "torch.as_tensor"]),
    ("x array", lambda: ops.gdn(FLAT.numpy(), BETA, GAMMA), TypeError, ["x", "ndarray", "torch.as_tensor"]),
    ("beta None", lambda: ops.gdn(FLAT, None, GAMMA), TypeError, ["beta", "NoneType"]),
    ("gamma number", lambda: ops.gdn(FLAT, BETA, 1.0), TypeError, ["gamma", "float"]),
    ("x 0-D", lambda: ops.gdn(torch.tensor(1.0), BETA, GAMMA), ValueError, ["x", "()", "(N, C, H, W) or (N, C)"]),
    ("x 1-D", lambda: ops.gdn(torch.ones(3), BETA, GAMMA), ValueError, ["x", "(3)", "(N, C, H, W) or (N, C)"]),
    ("x 3-D", lambda: ops.gdn(X[0], BETA, GAMMA), ValueError, ["x", "(3, 9, 8)", "(N, C, H, W) or (N, C)"]),
    ("x 5-D", lambda: ops.gdn(X[None], BETA, GAMMA), ValueError, ["x", "(1, 2, 3, 9, 8)"]),
    ("beta size", lambda: ops.gdn(FLAT, torch.ones(4), GAMMA), ValueError, ["beta", "(4)", "(3,)", "each channel"]),
    ("beta 0-D", lambda: ops.gdn(FLAT, torch.tensor(1.0), GAMMA), ValueError, ["beta", "()", "(3,)"]),
    ("beta 2-D", lambda: ops.gdn(FLAT, GAMMA, GAMMA), ValueError, ["beta", "(3, 3)", "(3,)"]),
    ("gamma size", lambda: ops.gdn(FLAT, BETA, torch.ones(3, 4)), ValueError, ["gamma", "(3, 4)", "(3, 3)", "row i"]),
    ("gamma 1-D", lambda: ops.gdn(FLAT, BETA, BETA), ValueError, ["gamma", "(3)", "(3, 3)"]),
    ("x int64", lambda: ops.gdn(FLAT.long(), BETA, GAMMA), TypeError, ["x", "int64", "on cpu", ".float()"]),
    ("x bool", lambda: ops.gdn(FLAT.bool(), BETA, GAMMA), TypeError, ["x", "bool", ".float()"]),
    ("x complex", lambda: ops.gdn(FLAT.cfloat(), BETA, GAMMA), TypeError, ["x", "complex64"]),
    ("all float16", lambda: ops.gdn(FLAT.half(), BETA.half(), GAMMA.half()), TypeError, ["float16", ".float()"]),
    ("x bfloat16", lambda: ops.gdn(FLAT.bfloat16(), BETA, GAMMA), TypeError, ["x", "bfloat16", ".float()"]),
    ("beta float64", lambda: ops.gdn(FLAT, BETA.double(), GAMMA), TypeError, ["beta", "float64", "x has", "float32"]),
    ("x float64", lambda: ops.gdn(FLAT.double(), BETA, GAMMA), TypeError, ["beta", "float32", "float64", ".to(dtype)"]),
    ("gamma int", lambda: ops.gdn(FLAT, BETA, GAMMA.int()), TypeError, ["gamma", "int32"]),
    ("x sparse", lambda: ops.gdn(FLAT.to_sparse(), BETA, GAMMA), TypeError, ["x", "sparse_coo", ".to_dense()"]),
    ("gamma sparse", lambda: ops.gdn(FLAT, BETA, GAMMA.to_sparse()), TypeError, ["gamma", "sparse", ".to_dense()"]),
    ("beta meta", lambda: ops.gdn(FLAT, BETA.to("meta"), GAMMA), ValueError, ["beta", "meta", "cpu", ".to(device)"]),
    ("x meta", lambda: ops.gdn(FLAT.to("meta"), BETA, GAMMA), ValueError, ["beta", "cpu", "x is on meta"]),
]

CONV: Table = [
    ("x list", lambda: conv(*replaced(0, [[1]])), TypeError, ["x", "list", "torch.as_tensor"]),
    ("weight None", lambda: conv(*replaced(1, None)), TypeError, ["weight", "NoneType"]),
    ("bias None", lambda: conv(*replaced(2, None)), TypeError, ["bias", "NoneType"]),
    ("x 3-D", lambda: conv(*replaced(0, X[0])), ValueError, ["x", "(3, 9, 8)", "(N, in_channels, H, W)"]),
    ("x channels", lambda: conv(*replaced(0, X[:, :2])), ValueError, ["weight", "(4, 3, 3, 2)", "2 channels"]),
    ("weight 3-D", lambda: conv(*replaced(1, WEIGHT[0])), ValueError, ["weight", "(3, 3, 2)", "kernel_h"]),
    ("weight 0-D", lambda: conv(*replaced(1, torch.tensor(1.0))), ValueError, ["weight", "()"]),
    ("empty kernel", lambda: conv(*replaced(1, WEIGHT[:, :, :0])), ValueError, ["weight", "(4, 3, 0, 2)", "none"]),
    ("no output", lambda: conv(*replaced(1, WEIGHT[:0])), ValueError, ["weight", "(0, 3, 3, 2)"]),
    ("bias size", lambda: conv(*replaced(2, BETA)), ValueError, ["bias", "(3)", "(4,)", "output channel"]),
    ("beta size", lambda: conv(*replaced(3, BETA)), ValueError, ["beta", "(3)", "(4,)"]),
    ("gamma size", lambda: conv(*replaced(4, GAMMA)), ValueError, ["gamma", "(3, 3)", "(4, 4)"]),
    ("x uint8", lambda: conv(*replaced(0, X.byte())), TypeError, ["x", "uint8", ".float()"]),
    ("x float16", lambda: conv(*replaced(0, X.half())), TypeError, ["x", "float16", ".float()"]),
    ("weight float64", lambda: conv(*replaced(1, WEIGHT.double())), TypeError, ["weight", "float64", "float32"]),
    ("bias meta", lambda: conv(*replaced(2, BIAS.to("meta"))), ValueError, ["bias", "meta", "cpu", ".to(device)"]),
    ("x sparse", lambda: conv(*replaced(0, X.to_sparse())), TypeError, ["x", "sparse_coo", ".to_dense()"]),
    ("stride 0", lambda: conv(stride=0), ValueError, ["stride", "at least 1", "0"]),
    ("stride -1", lambda: conv(stride=(1, -1)), ValueError, ["stride", "at least 1", "-1"]),
    ("stride float", lambda: conv(stride=1.0), TypeError, ["stride", "1.0"]),
    ("stride True", lambda: conv(stride=True), TypeError, ["stride", "integer", "True"]),
    ("stride of 3", lambda: conv(stride=(1, 1, 1)), TypeError, ["stride", "pair", "(1, 1, 1)"]),
    ("padding -1", lambda: conv(padding=-1), ValueError, ["padding", "at least 0", "-1"]),
    ("padding same", lambda: conv(padding="same"), TypeError, ["padding", "'same'"]),
    ("padding None", lambda: conv(padding=(None, 1)), TypeError, ["padding", "None"]),
    ("pool 0", lambda: conv(pool=0), ValueError, ["pool", "at least 1", "0"]),
    ("pool pair", lambda: conv(pool=(2, 2)), TypeError, ["pool", "integer", "(2, 2)"]),
    ("kernel too high", lambda: conv(*replaced(0, X[:, :, :2])), ValueError, ["height", "2", "kernel's 3", "padding"]),
    (
        "kernel too wide",
        lambda: conv(X[..., :0], *STAGE, padding=(0, 0)),
        ValueError,
        ["width", "0", "kernel's 2", "larger input"],
    ),
    ("pool too large", lambda: conv(pool=8), ValueError, ["height", "leaves 7", "pool window of 8", "smaller pool"]),
    ("stride 2^31", lambda: conv(stride=2**31, pool=1), ValueError, ["stride", "below 2^31", str(2**31)]),
    ("padding 2^40", lambda: conv(padding=(0, 2**40), pool=1), ValueError, ["padding", "below 2^31", str(2**40)]),
]

EXTRACT: Table = [
    ("image array", lambda: ops.extract_crops(IMAGE.numpy(), 4), TypeError, ["image", "ndarray", "torch.as_tensor"]),
    ("image 2-D", lambda: ops.extract_crops(IMAGE[..., 0], 4), ValueError, ["image", "(20, 30)", "(H, W, C)"]),
    ("image 4-D", lambda: ops.extract_crops(IMAGE[None], 4), ValueError, ["image", "(1, 20, 30, 3)", "(H, W, C)"]),
    ("image int64", lambda: ops.extract_crops(IMAGE.long(), 4), TypeError, ["image", "int64", "uint8"]),
    ("image float16", lambda: ops.extract_crops(IMAGE.half(), 4), TypeError, ["image", "float16"]),
    ("too small", lambda: ops.extract_crops(IMAGE), ValueError, ["30 x 20", "256 x 256", "pad"]),
    ("too small by 1", lambda: ops.extract_crops(IMAGE, 21), ValueError, ["30 x 20", "21 x 21", "smaller size"]),
    ("size 0", lambda: ops.extract_crops(IMAGE, 0), ValueError, ["size", "at least 1", "0"]),
    ("size float", lambda: ops.extract_crops(IMAGE, 4.0), TypeError, ["size", "integer", "4.0"]),
    ("stride 0", lambda: ops.extract_crops(IMAGE, 4, 0), ValueError, ["stride", "at least 1", "0"]),
    ("stride -3", lambda: ops.extract_crops(IMAGE, 4, -3), ValueError, ["stride", "at least 1", "-3"]),
    ("dtype int", lambda: ops.extract_crops(IMAGE, 4, dtype=torch.int32), TypeError, ["dtype", "int32", "uint8"]),
    (
        "dtype of floats",
        lambda: ops.extract_crops(IMAGE.float(), 4, dtype=torch.float64),
        TypeError,
        ["dtype", "float64", "float32", "leave dtype out"],
    ),
]

CROPS: Table = [
    ("image list", lambda: crops([1]), TypeError, ["image_u8", "list", "torch.as_tensor"]),
    ("boxes list", lambda: crops(boxes=[[0, 0, 9, 9]]), TypeError, ["boxes", "list", "torch.as_tensor"]),
    ("weight None", lambda: crops(stage=(None, *STAGE[1:])), TypeError, ["weight", "NoneType"]),
    ("image float", lambda: crops(IMAGE.float()), TypeError, ["image_u8", "float32", "uint8"]),
    ("image 4-D", lambda: crops(IMAGE[None]), ValueError, ["image_u8", "(1, 20, 30, 3)", "(H, W, C)"]),
    ("image channels", lambda: crops(IMAGE[..., :2]), ValueError, ["weight", "(4, 3, 3, 2)", "2 channels"]),
    ("boxes int32", lambda: crops(boxes=BOXES.int()), TypeError, ["boxes", "int32", "int64"]),
    ("boxes 1-D", lambda: crops(boxes=BOXES[0]), ValueError, ["boxes", "(4)", "(K, 4)"]),
    ("boxes of 3", lambda: crops(boxes=BOXES[:, :3]), ValueError, ["boxes", "(2, 3)", "(K, 4)"]),
    ("bias float64", lambda: crops(stage=(WEIGHT, BIAS.double(), *STAGE[2:])), TypeError, ["bias", "float64"]),
    ("all float16", lambda: crops(stage=tuple(t.half() for t in STAGE)), TypeError, ["weight", "float16", ".float()"]),
    ("weight meta", lambda: crops(stage=tuple(t.to("meta") for t in STAGE)), ValueError, ["image_u8", "cpu", "meta"]),
    ("boxes meta", lambda: crops(boxes=BOXES.to("meta"), crop=CROP), ValueError, ["boxes", "meta", ".to(device)"]),
    ("left of image", lambda: crops(boxes=box(-1, 0, CROP - 1, CROP)), ValueError, ["boxes[1]", "-1", "30 x 20"]),
    ("above image", lambda: crops(boxes=box(0, -1, CROP, CROP - 1)), ValueError, ["boxes[1]", "-1", "30 x 20"]),
    ("right of image", lambda: crops(boxes=box(18, 0, 31, CROP)), ValueError, ["boxes[1]", "31", "inside the image"]),
    ("below image", lambda: crops(boxes=box(0, 8, CROP, 21)), ValueError, ["boxes[1]", "21", "inside the image"]),
    ("another size", lambda: crops(boxes=box(0, 0, CROP, CROP + 1)), ValueError, ["boxes[1]", "14", "13 x 13"]),
    ("x1 before x0", lambda: crops(boxes=box(CROP, 0, 0, CROP)), ValueError, ["boxes[1]", "13 x 13"]),
    ("first inverted", lambda: crops(boxes=box(0, 0, 1, 1).flip(1)), ValueError, ["boxes[0]", "x0 < x1"]),
    ("huge box", lambda: crops(boxes=box(2**62, 0, 2**62 + CROP, CROP)), ValueError, ["boxes[1]", str(2**62)]),
    ("no boxes", lambda: crops(boxes=BOXES[:0]), ValueError, ["boxes", "empty", "crop="]),
    ("crop of other size", lambda: crops(crop=(CROP, 9)), ValueError, ["boxes[0]", "9 x 13", "crop="]),
    ("crop 0", lambda: crops(crop=0), ValueError, ["crop", "at least 1", "0"]),
    ("crop too small", lambda: crops(boxes=BOXES[:0], crop=2), ValueError, ["height", "kernel's 3"]),
    ("stride 0", lambda: crops(stride=0), ValueError, ["stride", "at least 1"]),
    ("padding -2", lambda: crops(padding=-2), ValueError, ["padding", "at least 0"]),
    ("pool 0", lambda: crops(pool=0), ValueError, ["pool", "at least 1"]),
]


class NoKernels(TorchDispatchMode):
    """Fails when an op of ours is reached, which would allocate its output."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert func.namespace != "meon_ext", f"{func} was called with wrong arguments"
        return func(*args, **(kwargs or {}))


def table_of(**tables: Table) -> list[Any]:
    return [pytest.param(*row[1:], id=f"{name}: {row[0]}") for name, table in tables.items() for row in table]


@pytest.mark.parametrize(
    ("wrong", "exception", "words"),
    table_of(gdn=GDN, conv_gdn_pool=CONV, extract_crops=EXTRACT, crop_conv_gdn_pool=CROPS),
)
def test_message(wrong: Callable[[], object], exception: type[Exception], words: list[str]) -> None:
    with NoKernels(), pytest.raises(exception) as raised:
        wrong()
    assert raised.type is exception
    message = str(raised.value)
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in: {message}"


def test_what_is_not_an_error() -> None:
    """The arguments that every row above spoils are good ones, and reach the kernels."""
    with NoKernels(), pytest.raises(AssertionError, match=r"meon_ext\.gdn\.default was called"):
        ops.gdn(FLAT, BETA, GAMMA)
    assert ops.gdn(FLAT, BETA, GAMMA).shape == (2, 3)
    assert conv().shape == (2, 4, 3, 3)  # type: ignore[attr-defined]
    assert crops().shape == (2, 4, 5, 6)  # type: ignore[attr-defined]
    assert ops.extract_crops(IMAGE, 4).shape == (4, 3, 4, 4)
