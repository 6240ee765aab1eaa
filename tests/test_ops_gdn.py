"""ops.gdn against plain PyTorch in float64, within bounds derived from rounding."""

from collections.abc import Iterator

import pytest
import rounding
import torch
from ops_cases import assert_within, fresh_generator, gdn_inputs, leaves, run, same_bits, threads
from torch import Tensor

from meon_ext import ops, reference

DTYPES = [torch.float32, torch.float64]
NAMES = ["y", "grad of x", "grad of beta", "grad of gamma"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def check(inputs: list[Tensor], grad: Tensor) -> None:
    got = run(ops.gdn, inputs, grad)
    want = run(reference.gdn, leaves(inputs, torch.float64), grad)
    plain: list[Tensor | None] = [None] * len(NAMES)
    if grad.dtype == torch.float32:
        plain = [*run(reference.gdn, leaves(inputs), grad)]
    x, beta, gamma = map(rounding.exact, inputs)
    planes, grad_planes = (r.map(lambda v: v.reshape(*v.shape[:2], -1)) for r in (x, rounding.exact(grad)))
    bounds = [rounding.gdn(planes, beta, gamma), *rounding.gdn_backward(grad_planes, planes, beta, gamma)]
    for name, a, b, bound, p in zip(NAMES, got, want, bounds, plain, strict=True):
        assert_within(name, a, b, bound.error, p)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [
        (4, 8, 33, 31),
        (2, 8, 5, 7),
        (3, 1, 4, 4),
        (2, 3, 1, 9),
        (1, 17, 9, 8),
        (1, 64, 8, 8),
        (2, 128, 5, 13),
        (1, 1, 1, 1),
        (200, 8),
        (5, 64),
        (1, 3),
    ],
)
def test_agrees_with_float64(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = fresh_generator()
    grad = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    check(gdn_inputs(shape, generator, dtype), grad)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("beta_floor", [1.0, 1e-6])
@pytest.mark.parametrize("scale", [1e18, 1e15, 1e-30, 0.0])
def test_extreme_activations(scale: float, beta_floor: float, dtype: torch.dtype) -> None:
    generator = fresh_generator()
    grad = torch.randn(2, 8, 9, 10, generator=generator, dtype=torch.float64).to(dtype)
    check(gdn_inputs((2, 8, 9, 10), generator, dtype, scale=scale, beta_floor=beta_floor), grad)


def test_row_of_gamma_is_the_output_channel() -> None:
    """y_0 = 3 / sqrt(1 + 2 * 4^2), y_1 = 4 / sqrt(4): a transposed gamma would swap the roles."""
    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    gamma = torch.tensor([[0.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    y = ops.gdn(x, torch.tensor([1.0, 4.0], dtype=torch.float64), gamma)
    assert y.tolist() == [[3 / 33**0.5, 2.0]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_not_finite(bad: float, dtype: torch.dtype) -> None:
    """A NaN or infinity gives what plain PyTorch gives at its own position, and touches no other."""
    x, beta, gamma = gdn_inputs((2, 8, 9, 10), fresh_generator(), dtype)
    clean = ops.gdn(x, beta, gamma)
    with torch.no_grad():
        x[0, 3, 4, 5] = x[1, 0, 0, 0] = x[1, 7, 8, 9] = bad
    y = ops.gdn(x, beta, gamma)
    hit = torch.zeros(2, 1, 9, 10, dtype=torch.bool)
    hit[0, 0, 4, 5] = hit[1, 0, 0, 0] = hit[1, 0, 8, 9] = True
    hit = hit.expand_as(x)
    same_bits("elsewhere", [y[~hit]], [clean[~hit]])
    assert torch.equal(y[hit].nan_to_num(nan=7), reference.gdn(x, beta, gamma)[hit].nan_to_num(nan=7))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_of_nan(dtype: torch.dtype) -> None:
    inputs = gdn_inputs((2, 8, 9, 10), fresh_generator(), dtype)
    with torch.no_grad():
        inputs[0][0, 3, 4, 5] = torch.nan
    got, plain = run(ops.gdn, inputs), run(reference.gdn, leaves(inputs))
    for name, a, b in zip(NAMES, got, plain, strict=True):
        assert torch.equal(a.isnan(), b.isnan()), name
    assert bool(got[1][0, :, 4, 5].isnan().all()) and int(got[1].isnan().sum()) == 8


@pytest.mark.parametrize("dtype", DTYPES)
def test_beta_zero(dtype: torch.dtype) -> None:
    """Where the norm is 0, y is what the division gives: NaN for x = 0, else infinite."""
    x = torch.tensor([[0.0, 2.0, -2.0]], dtype=dtype)
    y = ops.gdn(x, torch.zeros(3, dtype=dtype), torch.zeros(3, 3, dtype=dtype))
    assert y[0, 0].isnan() and y[0, 1:].tolist() == [torch.inf, -torch.inf]


@pytest.mark.parametrize("shape", [(3, 17), (2, 8, 5, 6), (1, 40, 3, 3)])
def test_subnormal_norm(shape: tuple[int, ...]) -> None:
    """The root's inverse is within the range of float32 there, its square is not."""
    generator = fresh_generator()
    channels = shape[1]
    x = 1e-22 * torch.randn(shape, generator=generator)
    beta, gamma = torch.full((channels,), 2e-39), torch.zeros(channels, channels)
    inputs = leaves([x, beta, gamma])
    got = run(ops.gdn, inputs)
    want = run(reference.gdn, leaves(inputs, torch.float64))
    for a, b in zip(got[:3], want[:3], strict=True):  # of gamma there is nothing within float32
        assert float(b.abs().max()) > 0
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


def test_channels_last_stays() -> None:
    generator = fresh_generator()
    x, beta, gamma = gdn_inputs((2, 8, 5, 7), generator)
    last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    y = ops.gdn(last, beta, gamma)
    grad = torch.randn(y.shape, generator=generator)
    (grad_x,) = torch.autograd.grad(y, last, grad)
    assert y.stride() == grad_x.stride() == last.stride()
    want = ops.gdn(x, beta, gamma)
    assert want.is_contiguous()
    same_bits("channels_last", [y, grad_x], [want, *torch.autograd.grad(want, x, grad)])
