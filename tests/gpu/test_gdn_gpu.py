"""gdn on a CUDA device against the reference in float64. Run with ``pytest -m gpu tests/gpu``.

The reference runs on the CPU, so that nothing of the device judges itself. Tolerances are those of rounding.py: bounds
on the rounding error of the formulas in the type that the kernels sum in, plus half a unit of the type they store.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import pytest
import torch
from gpu_marks import GPU_MARKS
from ops_cases import opcheck
from rounding import Rounded
from rounding import gdn as bound_gdn
from rounding import gdn_backward as bound_gdn_backward
from torch import Tensor

from meon_ext import ops, reference

pytestmark = GPU_MARKS

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
NAMES = ["y", "grad of x", "grad of beta", "grad of gamma"]
LAYOUTS = ["contiguous", "channels_last", "strided"]

# Every tile height of the kernels (8, 16, 32, 64 channels, and more), not filled and filled; one pixel and many.
SHAPES = [
    (1, 1, 1, 1),
    (2, 3, 1, 9),
    (4, 8, 33, 31),
    (2, 16, 20, 20),
    (3, 17, 9, 8),
    (2, 32, 17, 5),
    (3, 33, 7, 7),
    (1, 64, 40, 25),
    (2, 65, 5, 13),
    (1, 192, 40, 25),
    (2, 320, 9, 9),
    (1, 512, 6, 7),
    (200, 8),
    (40, 128),
    (5, 64),
]


def make(shape: Sequence[int], dtype: torch.dtype, seed: int = 0, scale: float = 1.0) -> list[Tensor]:
    """x, beta, gamma and a gradient of y, on the CPU; gamma is not symmetric and partly 0."""
    generator = torch.Generator().manual_seed(seed)
    channels = shape[1]
    x = scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
    beta = 0.1 + torch.rand(channels, generator=generator, dtype=torch.float64)
    gamma = (torch.rand(channels, channels, generator=generator, dtype=torch.float64) - 0.2).clamp(min=0)
    grad = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return [t.to(dtype) for t in (x, beta, gamma / channels**0.5, grad)]


def laid_out(t: Tensor, layout: str) -> Tensor:
    """The same values on the device, in another order in memory."""
    t = t.cuda()
    if layout == "channels_last" and t.dim() == 4:
        return t.contiguous(memory_format=torch.channels_last)
    if layout == "strided":  # neither order: every other element of a longer last dimension
        longer = t.new_full((*t.shape[:-1], 2 * t.shape[-1]), torch.nan)
        longer[..., ::2] = t
        return longer[..., ::2]
    return t.contiguous()


def run(f: Callable[..., Tensor], x: Tensor, beta: Tensor, gamma: Tensor, grad: Tensor) -> list[Tensor]:
    """y and the gradients of x, beta and gamma."""
    inputs = [t.detach().requires_grad_() for t in (x, beta, gamma)]
    y = f(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad.to(y.dtype))]


def given(t: Tensor) -> Rounded:
    """A number the kernel is given exactly, and sums in float32, or float64 where it is float64."""
    info = torch.finfo(torch.float64 if t.dtype == torch.float64 else torch.float32)
    planes = t.double().flatten(2) if t.dim() == 4 else t.double()[:, :, None] if t.dim() == 2 else t.double()
    return Rounded(planes, torch.zeros_like(planes), info.eps / 2, info.tiny * info.eps)


def check(got: Sequence[Tensor], x: Tensor, beta: Tensor, gamma: Tensor, grad: Tensor) -> None:
    """got: of the kernels. The others are the inputs, on the CPU, in the dtype that the kernels got."""
    want = run(reference.gdn, x.double(), beta.double(), gamma.double(), grad.double())
    weights = Rounded(gamma.double(), torch.zeros_like(gamma.double()), given(beta).unit, given(beta).least)
    args = given(x), given(beta), weights
    bounds = [bound_gdn(*args), *bound_gdn_backward(given(grad), *args)]
    for name, a, b, bound in zip(NAMES, got, want, bounds, strict=True):
        info = torch.finfo(a.dtype)
        error = bound.error.reshape(b.shape)
        stored = info.eps / 2 * (b.abs() + error) + info.tiny * info.eps  # a subnormal, where it comes to that
        allowed = error + stored
        difference = (a.cpu().double() - b).abs()
        overflow = a.cpu().isinf() & (b.abs() + allowed >= info.max) & (a.cpu().sign() == b.sign())
        wrong = ~(difference <= allowed) & ~overflow
        assert not bool(wrong.any()), (
            f"{name}: {int(wrong.sum())} of {wrong.numel()} elements are off by up to "
            f"{float((difference / allowed)[wrong].max()):.3g} times what rounding allows"
        )


def test_the_kernels_are_loaded() -> None:
    assert ops.CUDA_STATUS == "loaded"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_float64(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    inputs = make(shape, dtype)
    x, beta, gamma, grad = (laid_out(t, layout if t.dim() != 1 else "contiguous") for t in inputs)
    got = run(ops.gdn, x, beta, gamma, grad)
    check(got, *inputs)
    as_x = layout == "channels_last" and x.dim() == 4 and not x.is_contiguous()
    for result in got[:2]:
        assert result.is_contiguous(memory_format=torch.channels_last if as_x else torch.contiguous_format)
        assert result.dtype == dtype and result.device == x.device


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e15, 1e-15, 0.0])
@pytest.mark.parametrize("channels", [8, 70])
def test_extreme_activations(channels: int, scale: float, dtype: torch.dtype) -> None:
    x, beta, gamma, grad = make((2, channels, 9, 10), dtype, scale=scale)
    beta.fill_(1e-6)
    check(run(ops.gdn, *(t.cuda() for t in (x, beta, gamma, grad))), x, beta, gamma, grad)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 8, 5, 5), (2, 8, 0, 5), (0, 70), (3, 70, 4, 0), (2, 0, 3, 3), (0, 0)])
def test_empty(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    inputs = (
        [t.cuda() for t in make(shape, dtype)]
        if shape[1]
        else [torch.empty(s, dtype=dtype, device="cuda") for s in (shape, (0,), (0, 0), shape)]
    )
    y, grad_x, grad_beta, grad_gamma = run(ops.gdn, *inputs)
    assert y.shape == grad_x.shape == shape
    assert torch.equal(grad_beta, torch.zeros_like(grad_beta))
    assert torch.equal(grad_gamma, torch.zeros_like(grad_gamma))


@pytest.mark.parametrize("channels", [5, 64, 130])
def test_not_finite_stays_at_its_own_position(channels: int) -> None:
    x, beta, gamma, _ = (t.cuda() for t in make((2, channels, 9, 10), torch.float32))
    clean = ops.gdn(x, beta, gamma)
    x[1, 3, 4, 5] = torch.nan
    y = ops.gdn(x, beta, gamma)
    hit = torch.zeros(2, 1, 9, 10, dtype=torch.bool, device="cuda")
    hit[1, 0, 4, 5] = True
    hit = hit.expand_as(x)
    assert torch.equal(y[~hit], clean[~hit])
    assert torch.equal(y.isnan(), reference.gdn(x, beta, gamma).isnan())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(64, 8, 64, 64), (8, 64, 32, 32), (4, 192, 24, 24)])
def test_every_run_gives_the_same_bits(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    inputs = [t.cuda() for t in make(shape, dtype)]
    first = run(ops.gdn, *inputs)
    for repeat in range(5):
        # Other work and other addresses in between.
        spare = torch.randn(1 << (20 + repeat), device="cuda").sort()
        for name, a, b in zip(NAMES, first, run(ops.gdn, *inputs), strict=True):
            assert torch.equal(a, b), f"{name}, repeat {repeat}"
        del spare


@pytest.mark.parametrize("channels", [8, 130])
def test_a_sample_gives_the_same_bits_alone_as_in_a_batch(channels: int) -> None:
    x, beta, gamma, grad = (t.cuda() for t in make((5, channels, 13, 11), torch.float32))
    y, grad_x, *_ = run(ops.gdn, x, beta, gamma, grad)
    for n in range(5):
        one, grad_one, *_ = run(ops.gdn, x[n : n + 1], beta, gamma, grad[n : n + 1])
        assert torch.equal(one, y[n : n + 1]) and torch.equal(grad_one, grad_x[n : n + 1])


def test_runs_on_the_current_stream() -> None:
    """The input is written late on a side stream: a kernel on any other stream would read NaN."""
    source, beta, gamma, grad = (t.cuda() for t in make((4, 8, 33, 31), torch.float32))
    want = run(ops.gdn, source, beta, gamma, grad)
    x = torch.full_like(source, torch.nan)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(100_000_000)  # clock ticks
        x.copy_(source)
        got = run(ops.gdn, x, beta, gamma, grad)
    side.synchronize()
    for name, a, b in zip(NAMES, got, want, strict=True):
        assert torch.equal(a, b), name


def test_in_a_cuda_graph() -> None:
    """Nothing in a call waits for the device or allocates outside of torch, or capturing would fail."""
    x, beta, gamma, grad = (t.cuda() for t in make((4, 70, 9, 9), torch.float32))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run(ops.gdn, x, beta, gamma, grad)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = run(ops.gdn, x, beta, gamma, grad)
    other = make((4, 70, 9, 9), torch.float32, seed=1)[0].cuda()
    x.copy_(other)
    graph.replay()
    torch.cuda.synchronize()
    for name, a, b in zip(NAMES, got, run(ops.gdn, other, beta, gamma, grad), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_on_a_device_that_is_not_the_current_one() -> None:
    inputs = make((4, 70, 9, 9), torch.float32)
    with torch.cuda.device(0):
        got = run(ops.gdn, *(t.to("cuda:1") for t in inputs))
        assert torch.cuda.current_device() == 0
        assert all(t.device == torch.device("cuda:1") for t in got)
        check(got, *inputs)
        check(run(ops.gdn, *(t.to("cuda:0") for t in inputs)), *inputs)
    x, beta, gamma, _ = inputs
    with pytest.raises(ValueError, match="on cuda:0"):
        ops.gdn(x.to("cuda:1"), beta.to("cuda:0"), gamma.to("cuda:1"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype, layout: str) -> None:
    x, beta, gamma, grad = make((2, 5, 4, 3), dtype)
    x, grad = laid_out(x, layout), laid_out(grad, layout)
    parameters = [beta.cuda().requires_grad_(), gamma.cuda().requires_grad_()]
    opcheck(torch.ops.meon_ext.gdn.default, (x.requires_grad_(), *parameters))
    opcheck(torch.ops.meon_ext.gdn_backward.default, (grad.requires_grad_(), x, *parameters))


@pytest.mark.parametrize("channels", [3, 66])
def test_gradcheck(channels: int) -> None:
    x, beta, gamma, _ = make((2, channels, 2, 1), torch.float64)
    inputs = [t.cuda().requires_grad_() for t in (x, beta, gamma)]
    assert torch.autograd.gradcheck(ops.gdn, inputs, fast_mode=channels > 3)
    # The second derivative goes through the reference, whose convolutions may add up in another order each time.
    assert torch.autograd.gradgradcheck(ops.gdn, inputs, fast_mode=True, nondet_tol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_torch_compile(layout: str, dtype: torch.dtype) -> None:
    pytest.importorskip("triton", reason="torch.compile for CUDA needs triton")

    def block(x: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
        return ops.gdn(x, beta, gamma)

    x, beta, gamma, grad = make((2, 8, 9, 10), dtype)
    inputs = [laid_out(x, layout), beta.cuda(), gamma.cuda(), laid_out(grad, layout)]
    compiled = torch.compile(block, fullgraph=True)
    for name, a, b in zip(NAMES, run(compiled, *inputs), run(block, *inputs), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_runs_in_float32(dtype: torch.dtype) -> None:
    x, beta, gamma, _ = (t.cuda() for t in make((2, 8, 9, 10), dtype))
    with torch.autocast("cuda", dtype=dtype):
        y = ops.gdn(x, beta, gamma)
    assert y.dtype == torch.float32
    assert torch.equal(y, ops.gdn(x.float(), beta.float(), gamma.float()))


def test_arguments_that_do_not_fit_are_refused() -> None:
    x, beta, gamma, grad = (t.cuda() for t in make((2, 8, 3, 3), torch.float32))
    gdn, gdn_backward = torch.ops.meon_ext.gdn, torch.ops.meon_ext.gdn_backward
    for bad, message in [
        ((x, beta[:7], gamma), "beta has shape"),
        ((x, beta, gamma[:, :7]), "gamma has shape"),
        ((x[0], beta, gamma), "x has shape"),
        ((x, beta.double(), gamma), "different dtypes"),
        ((x.int(), beta.int(), gamma.int()), "x must be float32"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            gdn(*bad)
    with pytest.raises(RuntimeError, match="grad has shape"):
        gdn_backward(grad[:1], x, beta, gamma)
    with pytest.raises(RuntimeError, match="different dtypes"):
        gdn_backward(grad.half(), x, beta, gamma)


def test_more_than_two_to_the_31_elements() -> None:
    shape = (257, 8, 1024, 1024)
    elements = 257 * 8 * 1024 * 1024
    assert elements > 1 << 31
    gc.collect()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    if free < 3 * 2 * elements:
        pytest.skip(f"needs {3 * 2 * elements >> 30} GiB of free device memory, there are {free >> 30}")
    _, beta, gamma, _ = (t.cuda() for t in make((1, 8, 1, 1), torch.bfloat16))
    x = torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_()
    y = ops.gdn(x, beta, gamma)
    for n in (0, 128, 256):
        assert torch.equal(y[n : n + 1], ops.gdn(x[n : n + 1], beta, gamma))
