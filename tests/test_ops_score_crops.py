"""score_crops: the whole network over grids of crops as one op. On the CPU it is the core's network, which test_core.py
and test_overlap.py compare with oracles; here that it is that, whatever the images' layout, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from meon_ext import MEON, _core, _score_crops, ops
from meon_ext.errors import NativeError

OP = torch.ops.meon_ext.score_crops
CLASSES = 4
ROWS, COLUMNS = [0, 60], [0, 7, 33]  # on one lattice, and off it
HEIGHT, WIDTH = 316, 300

torch.manual_seed(0)
PARAMETERS = {name: t.detach() for name, t in MEON(CLASSES).effective_tensors().items()}
VALUES = list(PARAMETERS.values())
PLAN = ops.crop_plan(ROWS, COLUMNS)


def images(count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, HEIGHT, WIDTH, 3), dtype=torch.uint8)


def of_core(image: Tensor) -> tuple[Tensor, Tensor]:
    network = _core.Network({name: t.numpy() for name, t in PARAMETERS.items()})
    boxes = np.array([(x, y, x + 256, y + 256) for y in ROWS for x in COLUMNS])
    raw, probabilities = network.forward_crops(np.ascontiguousarray(image.numpy()), boxes)
    return torch.from_numpy(raw), torch.from_numpy(probabilities)


def test_every_layout_gives_the_bits_of_the_core() -> None:
    batch = images()
    want = [torch.stack(parts) for parts in zip(*map(of_core, batch), strict=True)]
    planar = batch.permute(0, 3, 1, 2).contiguous()
    wider = torch.zeros(2, HEIGHT, WIDTH + 9, 3, dtype=torch.uint8)
    wider[:, :, 4:-5] = batch
    for layout in (batch, planar, wider[:, :, 4:-5], planar.contiguous(memory_format=torch.channels_last)):
        for got, expected in zip(ops.score_crops(layout, PLAN, PARAMETERS), want, strict=True):
            assert torch.equal(got, expected)
        for got, expected in zip(ops.score_crops(layout[1], PLAN, PARAMETERS), want, strict=True):
            assert torch.equal(got, expected[1])


def test_shapes_and_empty_batches() -> None:
    quality, probabilities = ops.score_crops(images(0), PLAN, PARAMETERS)
    assert (quality.shape, probabilities.shape) == ((0, 6), (0, 6, CLASSES))
    none = ops.crop_plan([], COLUMNS)
    quality, probabilities = ops.score_crops(images(), none, PARAMETERS)
    assert none.crops == 0 and (quality.shape, probabilities.shape) == ((2, 0), (2, 0, CLASSES))
    quality, probabilities = ops.score_crops(images(1)[0].permute(2, 0, 1), PLAN, PARAMETERS)
    assert PLAN.crops == 6 and (quality.shape, probabilities.shape) == ((6,), (6, CLASSES))


def test_agrees_with_the_model() -> None:
    """Another way through the stages; the parts of either are compared with oracles elsewhere."""
    model = MEON(CLASSES).eval()
    model.load_effective_(PARAMETERS)
    image = images(1)[0]
    boxes = torch.tensor([(x, y, x + 256, y + 256) for y in ROWS for x in COLUMNS])
    with torch.no_grad():
        want = model.forward_crops(image, boxes)
    quality, probabilities = ops.score_crops(image, PLAN, PARAMETERS)
    torch.testing.assert_close(quality, want.quality, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(probabilities, want.probabilities, rtol=1e-4, atol=1e-5)


def test_opcheck() -> None:
    for count in (0, 2):
        torch.library.opcheck(OP.default, (images(count), PLAN.rows, PLAN.columns, VALUES))


def test_torch_compile() -> None:
    compiled = torch.compile(ops.score_crops, fullgraph=True, backend="eager")
    batch = images()
    for got, want in zip(compiled(batch, PLAN, PARAMETERS), ops.score_crops(batch, PLAN, PARAMETERS), strict=True):
        assert torch.equal(got, want)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # of forward mode itself
def test_no_gradient_is_said_to_be_one() -> None:
    wanting = {name: t.clone().requires_grad_() for name, t in PARAMETERS.items()}
    with forward_ad.dual_level(), torch.no_grad(), pytest.raises(ValueError, match="no gradient"):
        duals = {name: forward_ad.make_dual(t, torch.ones_like(t)) for name, t in PARAMETERS.items()}
        ops.score_crops(images(), PLAN, duals)
    with pytest.raises(ValueError, match=r"no gradient.*no_grad"):
        ops.score_crops(images(), PLAN, wanting)
    with torch.no_grad():
        assert not ops.score_crops(images(), PLAN, wanting)[0].requires_grad


def score(image: Any = None, plan: ops.CropPlan = PLAN, **other: Tensor) -> object:
    """With parameters replaced or added; two underscores stand for a dot."""
    parameters = PARAMETERS | {name.replace("__", "."): value for name, value in other.items()}
    return ops.score_crops(images() if image is None else image, plan, parameters)


WRONG: list[tuple[str, type[Exception], Callable[[], object]]] = [
    ("image_u8 has dtype", TypeError, lambda: score(images().float())),
    ("image_u8 must be a torch.Tensor", TypeError, lambda: score(np.zeros(3))),
    ("image_u8 has shape", ValueError, lambda: score(images()[..., :2])),
    ("image_u8 has shape", ValueError, lambda: score(images()[:, :255])),
    ("image_u8 has shape", ValueError, lambda: score(images()[None])),
    ("crop at row 60", ValueError, lambda: score(images()[:, :315])),
    ("crop at column 33", ValueError, lambda: score(images()[:, :, :288])),
    ("plan must be int32 on cpu", ValueError, lambda: score(plan=ops.crop_plan(ROWS, COLUMNS, "meta"))),
    ("missing or unexpected", ValueError, lambda: ops.score_crops(images(), PLAN, {})),
    ("missing or unexpected", ValueError, lambda: score(more=torch.ones(1))),
    ("stages.1.bias has shape", ValueError, lambda: score(stages__1__bias=torch.ones(15))),
    ("type_head.1.weight has shape", ValueError, lambda: score(type_head__1__weight=torch.ones(5, 128))),
    ("stages.0.beta must be a float32", TypeError, lambda: score(stages__0__beta=torch.ones(8).double())),
    ("stages.0.beta is on meta", ValueError, lambda: score(stages__0__beta=torch.ones(8, device="meta"))),
    ("rows: offsets", ValueError, lambda: ops.crop_plan([0, 0], [0])),
    ("columns: offsets", ValueError, lambda: ops.crop_plan([0], [-1])),
    ("columns: offsets", ValueError, lambda: ops.crop_plan([0], [2**31 - 256])),
    ("rows must be a sequence of whole numbers", ValueError, lambda: ops.crop_plan([0.5], [0])),  # type: ignore[list-item]
    ("rows must be a sequence of whole numbers", ValueError, lambda: ops.crop_plan(np.array([[0]]), [0])),
]


@pytest.mark.parametrize(("message", "error", "call"), WRONG, ids=[f"{i}: {case[0]}" for i, case in enumerate(WRONG)])
def test_wrong_arguments_are_named(message: str, error: type[Exception], call: Callable[[], object]) -> None:
    with pytest.raises(error, match=message):
        call()


def test_without_the_cuda_kernels_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_score_crops, "CUDA_STATUS", "built without CUDA")
    with pytest.raises(NativeError, match=r"no CUDA kernel here: built without CUDA\."):
        _score_crops.ordered_parameters(PARAMETERS, torch.device("cuda"))


def replaced(values: list[Tensor], position: int, value: Tensor) -> list[Tensor]:
    return [value if i == position else t for i, t in enumerate(values)]


IMAGES = torch.zeros(1, HEIGHT, WIDTH, 3, dtype=torch.uint8)
R, C = PLAN
R_BEYOND = R[0] + torch.tensor([0, 1], dtype=torch.int32)
# Past the checks above: what torch.ops.meon_ext itself refuses.
WALL: list[tuple[str, Callable[[], object]]] = [
    ("images must be uint8", lambda: OP(IMAGES.float(), R, C, VALUES)),
    ("images has shape", lambda: OP(IMAGES[0], R, C, VALUES)),
    ("images has shape", lambda: OP(IMAGES[..., :2], R, C, VALUES)),
    ("images has shape", lambda: OP(IMAGES[:, :200], R, C, VALUES)),
    ("rows holds 4 tensors", lambda: OP(IMAGES, R[:4], C, VALUES)),
    ("columns holds 0 tensors", lambda: OP(IMAGES, R, [], VALUES)),
    ("rows must hold int32", lambda: OP(IMAGES, replaced(R, 2, R[2].long()), C, VALUES)),
    ("rows has shape", lambda: OP(IMAGES, replaced(R, 0, R[4]), C, VALUES)),
    ("columns has shape", lambda: OP(IMAGES, R, replaced(C, 1, C[1][1:]), VALUES)),
    ("columns has shape", lambda: OP(IMAGES, R, replaced(C, 4, C[4][1:]), VALUES)),
    ("rows has a crop from pixel 61", lambda: OP(IMAGES, replaced(R, 0, R_BEYOND), C, VALUES)),
    ("columns has a crop from pixel -1", lambda: OP(IMAGES, R, replaced(C, 0, C[0] - 1), VALUES)),
    ("parameters holds 27 tensors", lambda: OP(IMAGES, R, C, VALUES[:-1])),
    ("parameters ends with", lambda: OP(IMAGES, R, C, replaced(VALUES, 27, torch.ones(())))),
    ("parameters ends with", lambda: OP(IMAGES, R, C, replaced(VALUES, 27, torch.ones(0)))),
    ("stages.2.gamma has shape", lambda: OP(IMAGES, R, C, replaced(VALUES, 11, torch.ones(32, 31)))),
    ("stages.0.weight must be float32", lambda: OP(IMAGES, R, C, replaced(VALUES, 0, VALUES[0].double()))),
    ("does not fit a network of 5 classes", lambda: OP(IMAGES, R, C, replaced(VALUES, 27, torch.ones(5)))),
]


@pytest.mark.parametrize(("message", "call"), WALL, ids=[f"{i}: {case[0]}" for i, case in enumerate(WALL)])
def test_the_op_itself_refuses(message: str, call: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match=message):
        call()


def test_core_crop_tables_refuses() -> None:
    for bad in (np.zeros((1, 1), np.int64), np.array([3, 2]), np.array([-1])):
        with pytest.raises(ValueError, match="offsets"):
            _core.crop_tables(bad)
    with pytest.raises(TypeError, match="int64"):
        _core.crop_tables(np.zeros(1, np.int32))  # type: ignore[arg-type]
