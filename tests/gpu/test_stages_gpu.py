"""conv_gdn_pool, crop_conv_gdn_pool and extract_crops on a CUDA device. Run with ``pytest -m gpu tests/gpu``.

Judged by the reference in float64 on the CPU, within the bounds of rounding.py: those of the formulas in float32, which
the fused kernels sum in, plus half a unit of the type they store.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import pytest
import rounding
import torch
from gpu_marks import GPU_MARKS
from ops_cases import ConvCase, image_and_boxes, leaves, opcheck, run
from torch import Tensor

from meon_ext import MEON, ops, reference
from meon_ext.modules import project_gdn_

DEVICE = "cuda"

pytestmark = GPU_MARKS

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
NAMES = ["y", "grad of x", "grad of weight", "grad of bias", "grad of beta", "grad of gamma"]


def stage(index: int, n: int, h: int, w: int, scale: float = 1, beta_floor: float = 0.1) -> ConvCase:
    """A stage of MEON for inputs of another size."""
    cin, cout, kernel, stride, padding = [(3, 8, 5, 2, 2), (8, 16, 5, 2, 2), (16, 32, 5, 2, 2), (32, 64, 3, 1, 0)][
        index
    ]
    return ConvCase(
        n, cin, h, w, cout, (kernel,) * 2, (stride,) * 2, (padding,) * 2, scale=scale, beta_floor=beta_floor
    )


# One tile and several, none of them full, rows and columns that fill no window; and the sizes of a crop.
STAGES = [
    stage(0, 2, 13, 15),
    stage(0, 1, 5, 70),
    stage(0, 3, 256, 256),
    stage(1, 2, 11, 9),
    stage(1, 9, 64, 64),
    stage(2, 2, 7, 6),
    stage(2, 20, 16, 16),
    stage(3, 11, 4, 4),
    stage(3, 3, 5, 7),
]
# Stages that torch's own convolution computes here.
OTHERS = [ConvCase(2, 3, 14, 12, 8, (5, 5), (2, 1), (2, 2)), ConvCase(2, 4, 9, 8, 5, (3, 2), pool=1)]


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def make(case: ConvCase, dtype: torch.dtype, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """x, weight, bias, beta, gamma on the CPU, and a gradient of y, 0 where rounding decides the maximum."""
    generator = torch.Generator().manual_seed(seed)
    inputs = [t.detach() for t in case.inputs(generator, dtype)]
    decided = bounds(case, inputs).decided()
    return inputs, (decided * torch.randn(decided.shape, generator=generator)).to(dtype)


def bounds(case: ConvCase, inputs: Sequence[Tensor]) -> rounding.Stage:
    """In float32 what the kernels get, which float32 holds exactly."""
    return rounding.Stage(*(t.detach().float() for t in inputs), *case.options)


def on_device(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.detach().to(DEVICE).requires_grad_() for t in tensors]


def check(name: str, got: Tensor, want: Tensor, bound: rounding.Rounded) -> None:
    info = torch.finfo(got.dtype)
    error = bound.error.reshape(want.shape) * (1 + 1e-6)
    allowed = error + info.eps / 2 * (want.abs() + error) + info.tiny * info.eps
    value = got.cpu()
    overflow = value.isinf() & (want.abs() + allowed >= info.max) & (value.sign() == want.sign())
    wrong = ~((value.double() - want).abs() <= allowed) & ~overflow
    assert not bool(wrong.any()), (
        f"{name}: {int(wrong.sum())} of {wrong.numel()} elements are off by more than rounding"
    )


def same(a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
    for name, one, other in zip(NAMES, a, b, strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", STAGES, ids=str)
def test_agrees_with_float64(case: ConvCase, dtype: torch.dtype) -> None:
    inputs, grad = make(case, dtype)
    got = run(case.function(ops), on_device(inputs), grad.to(DEVICE))
    want = run(case.function(reference), leaves(inputs, torch.float64), grad.double())
    judge = bounds(case, inputs)
    for name, a, b, bound in zip(NAMES, got, want, [judge.forward(), *judge.backward(grad.float())], strict=True):
        assert a.dtype == dtype and a.device.type == DEVICE and a.is_contiguous()
        check(name, a, b, bound)


@pytest.mark.parametrize("scale, beta", [(1e15, 0.1), (1e17, 1e-6), (1e-30, 1e-6), (0, 0.1)])
@pytest.mark.parametrize("index", range(4))
def test_extreme_activations(index: int, scale: float, beta: float) -> None:
    test_agrees_with_float64(stage(index, 2, 6, 5, scale, beta), torch.float32)


@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_other_stages_agree_with_plain_torch(case: ConvCase) -> None:
    inputs = on_device([t.detach() for t in case.inputs(torch.Generator().manual_seed(0), torch.float64)])
    for a, b in zip(run(case.function(ops), inputs), run(case.function(reference), inputs), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("layout", ["channels_last", "transposed"])
def test_other_layouts_give_the_same_bits(layout: str) -> None:
    case = STAGES[0]
    inputs, grad = make(case, torch.float32)
    want = run(case.function(ops), on_device(inputs), grad.to(DEVICE))
    if layout == "channels_last":
        inputs = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in inputs]
    else:
        inputs = [t.transpose(0, -1).contiguous().transpose(0, -1) if t.dim() > 1 else t for t in inputs]
    same(run(case.function(ops), on_device(inputs), grad.to(DEVICE)), want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_batch(dtype: torch.dtype) -> None:
    for index in range(4):
        inputs = on_device(stage(index, 0, 9, 8).inputs(torch.Generator(), dtype))
        y, grad_x, *grads = run(stage(index, 0, 9, 8).function(ops), inputs)
        assert y.numel() == grad_x.numel() == 0
        assert all(torch.equal(g, torch.zeros_like(g)) for g in grads)


def test_the_first_of_equal_elements_and_nan_win() -> None:
    case = stage(3, 1, 4, 4)
    x, weight, bias, beta, gamma = on_device(make(case, torch.float32)[0])
    with torch.no_grad():
        x.fill_(1)
    grad_x = run(case.function(ops), [x, weight, bias, beta, gamma])[1]
    assert bool((grad_x[..., 3, :] == 0).all() & (grad_x[..., :, 3] == 0).all() & (grad_x[..., :3, :3] != 0).any())
    with torch.no_grad():
        x[0, 5, 0, 0] = torch.nan
    assert bool(case.function(ops)(x, weight, bias, beta, gamma).isnan().all())


@pytest.mark.parametrize("case", [stage(0, 40, 256, 256), stage(3, 500, 4, 4)], ids=str)
def test_every_run_gives_the_same_bits(case: ConvCase) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = on_device(case.inputs(generator))
    grad = torch.randn(case.function(ops)(*inputs).shape, generator=generator).to(DEVICE)
    first = run(case.function(ops), inputs, grad)
    for repeat in range(5):
        spare = torch.randn(1 << (20 + repeat), device=DEVICE).sort()  # other work and other addresses in between
        same(run(case.function(ops), inputs, grad), first)
        del spare


@pytest.mark.parametrize("index", range(4))
def test_a_sample_gives_the_same_bits_alone_as_in_a_batch(index: int) -> None:
    case = stage(index, 11, 9, 10)
    (x, *rest), grad = make(case, torch.float32)
    y, grad_x, *_ = run(case.function(ops), on_device([x, *rest]), grad.to(DEVICE))
    for n in range(11):
        one, grad_one, *_ = run(case.function(ops), on_device([x[n : n + 1], *rest]), grad[n : n + 1].to(DEVICE))
        assert torch.equal(one, y[n : n + 1]) and torch.equal(grad_one, grad_x[n : n + 1])


# --- crops --------------------------------------------------------------------------------------------------------


def crop_function(image: Tensor, boxes: Tensor) -> Callable[..., Tensor]:
    return lambda *parameters: ops.crop_conv_gdn_pool(image, boxes, *parameters, 2, 2, crop=13)


@pytest.mark.parametrize("boxes_on", ["cpu", DEVICE])
@pytest.mark.parametrize("dtype", DTYPES)
def test_crops_equal_tensors(dtype: torch.dtype, boxes_on: str) -> None:
    """To the bit. A byte is exact in every type."""
    image, boxes = image_and_boxes(torch.Generator().manual_seed(0), 7)
    _, *parameters = on_device(make(stage(0, 0, 13, 13), dtype)[0])
    crops = reference.gather_crops(image, boxes).to(DEVICE, dtype)
    want = run(lambda *rest: ops.conv_gdn_pool(crops, *rest, 2, 2), parameters)
    same_parameters = run(crop_function(image.to(DEVICE), boxes.to(boxes_on)), parameters)
    for a, b in zip(same_parameters, want, strict=True):
        assert torch.equal(a, b)


def test_a_bad_box_is_nan_on_the_device_and_an_error_on_the_cpu() -> None:
    image, boxes = image_and_boxes(torch.Generator().manual_seed(0), 5)
    _, *parameters = on_device(make(stage(0, 0, 13, 13), torch.float32)[0])
    want = crop_function(image.to(DEVICE), boxes)(*parameters)
    for bad in [(-1, 0, 12, 13), (image.shape[1] - 12, 0, image.shape[1] + 1, 13), (0, 0, 12, 13)]:
        boxes[2] = torch.tensor(bad)
        got = crop_function(image.to(DEVICE), boxes.to(DEVICE))(*parameters)
        assert bool(got[2].isnan().all()) and torch.equal(got[[0, 1, 3, 4]], want[[0, 1, 3, 4]])
        with pytest.raises(ValueError, match=r"boxes\[2\]"):
            crop_function(image.to(DEVICE), boxes)(*parameters)


@pytest.mark.parametrize("size, stride", [(5, 5), (13, 4), (8, 9), (20, 1)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_extract_crops(dtype: torch.dtype, size: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (29, 31, 3), generator=generator).to(dtype)
    got = ops.extract_crops(image.to(DEVICE), size, stride)
    assert torch.equal(got.cpu(), ops.extract_crops(image, size, stride))
    if dtype != torch.uint8:
        grad = torch.randn(got.shape, generator=generator, dtype=dtype)
        (on_cpu,) = run(lambda t: ops.extract_crops(t, size, stride), leaves([image]), grad)[1:]
        (on_gpu,) = run(lambda t: ops.extract_crops(t, size, stride), on_device([image]), grad.to(DEVICE))[1:]
        assert torch.equal(on_gpu.cpu(), on_cpu)  # both add up in crop order


# --- torch --------------------------------------------------------------------------------------------------------


def test_runs_on_the_current_stream() -> None:
    """The input is written late on a side stream: a kernel on any other stream would read NaN."""
    case = STAGES[0]
    inputs, grad = make(case, torch.float32)
    source, *rest = on_device(inputs)
    want = run(case.function(ops), [source, *rest], grad.to(DEVICE))
    x = torch.full_like(source, torch.nan, requires_grad=True)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(100_000_000)  # clock ticks
        with torch.no_grad():
            x.copy_(source)
        got = run(case.function(ops), [x, *rest], grad.to(DEVICE))
    side.synchronize()
    same(got, want)


def test_a_training_step_in_a_cuda_graph() -> None:
    """Nothing in a call waits for the device or allocates outside of torch, or capturing would fail."""
    torch.manual_seed(0)
    models = [MEON(), MEON()]
    models[1].load_state_dict(models[0].state_dict())
    captured, plain = (model.to(DEVICE) for model in models)
    image = torch.randint(0, 256, (400, 500, 3), dtype=torch.uint8, device=DEVICE)
    boxes = torch.tensor([[0, 0, 256, 256], [100, 50, 356, 306], [244, 144, 500, 400]], device=DEVICE)

    def step(model: MEON) -> None:
        for parameter in model.parameters():
            parameter.grad = None if parameter.grad is None else parameter.grad.zero_()
        model.forward_crops(image, boxes).quality.square().sum().backward()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(captured)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(captured)
    for _ in range(3):
        graph.replay()
        step(plain)
        for a, b in zip(captured.parameters(), plain.parameters(), strict=True):
            assert a.grad is not None and b.grad is not None
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6 * float(b.grad.abs().max()))
            with torch.no_grad():
                for parameter in (a, b):
                    parameter.sub_(1e-6 * b.grad)
        for model in (captured, plain):
            project_gdn_(model)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_on_a_device_that_is_not_the_current_one() -> None:
    case = STAGES[0]
    inputs, grad = make(case, torch.float32)
    want = run(case.function(ops), on_device(inputs), grad.to(DEVICE))
    with torch.cuda.device(0):
        other = [t.detach().to("cuda:1").requires_grad_() for t in inputs]
        got = run(case.function(ops), other, grad.to("cuda:1"))
        assert torch.cuda.current_device() == 0
    assert all(t.device == torch.device("cuda:1") for t in got)
    same([t.cpu() for t in got], [t.cpu() for t in want])


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype) -> None:
    case = stage(1, 2, 11, 9)
    inputs, grad = make(case, dtype)
    x, *parameters = on_device(inputs)
    sizes = ([2, 2], [2, 2], 2)
    for op in (torch.ops.meon_ext.conv_gdn_pool, torch.ops.meon_ext.conv_gdn_pool_train):
        opcheck(op.default, (x, *parameters, *sizes))
    backward = torch.ops.meon_ext.conv_gdn_pool_backward.default
    opcheck(backward, (grad.to(DEVICE), x, *parameters, *sizes, True))
    image, boxes = (t.to(DEVICE) for t in image_and_boxes(torch.Generator().manual_seed(0), 3))
    _, *parameters = on_device(make(stage(0, 0, 13, 13), dtype)[0])
    opcheck(torch.ops.meon_ext.crop_conv_gdn_pool.default, (image, boxes, *parameters, [13, 13], *sizes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_compile(dtype: torch.dtype) -> None:
    pytest.importorskip("triton", reason="torch.compile for CUDA needs triton")
    case = STAGES[0]
    inputs, grad = make(case, dtype)
    compiled = torch.compile(case.function(ops), fullgraph=True)
    args = on_device(inputs)
    same(run(compiled, args, grad.to(DEVICE)), run(case.function(ops), args, grad.to(DEVICE)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_runs_in_float32(dtype: torch.dtype) -> None:
    case = STAGES[0]
    inputs = on_device(make(case, dtype)[0])
    with torch.autocast(DEVICE, dtype=dtype):
        y = case.function(ops)(*inputs)
    assert y.dtype == torch.float32
    assert torch.equal(y, case.function(ops)(*(t.float() for t in inputs)))


def test_more_than_two_to_the_31_elements() -> None:
    count, inputs = 11_000, 3 * 256 * 256
    assert count * inputs > 1 << 31
    gc.collect()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    needed = 3 * count * inputs
    if free < needed:
        pytest.skip(f"needs {needed >> 30} GiB of free device memory, there are {free >> 30}")
    _, *parameters = on_device(make(stage(0, 0, 256, 256), torch.bfloat16)[0])
    x = torch.empty(count, 3, 256, 256, dtype=torch.bfloat16, device=DEVICE).normal_()
    with torch.no_grad():
        y = ops.conv_gdn_pool(x, *parameters, 2, 2)
        for n in (0, count // 2, count - 1):
            assert torch.equal(y[n : n + 1], ops.conv_gdn_pool(x[n : n + 1], *parameters, 2, 2))
